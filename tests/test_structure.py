"""The size of files, functions and rooms. Complexity and arguments are ruff's to count, directions import-linter's."""

import ast
import tomllib

from tests.changed import PACKAGES, REPOSITORY

MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50
MOST_ROOMS = 20
"""Files and folders at the top of harness/, beside its __init__.py."""

WRITTEN = ("*.py", "*.jinja", "*.css", "*.js", "*.sh", "*.toml")
FOLDERS = (*PACKAGES, "benchmarks", "packaging", "src", "tests")
FILES = [path for folder in FOLDERS for kind in WRITTEN for path in sorted((REPOSITORY / folder).rglob(kind))]
NAMES = ["Makefile", "pyproject.toml", *(str(path.relative_to(REPOSITORY)) for path in FILES)]


def functions(name: str) -> list[tuple[str, int]]:
    """(name, lines) of every function of a Python file."""
    tree = ast.parse((REPOSITORY / name).read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(f"{name}: {each.name}", (each.end_lineno or each.lineno) - each.lineno + 1) for each in found]


def test_no_file_is_long():
    lines = {name: len((REPOSITORY / name).read_text("utf-8").splitlines()) for name in NAMES}
    long = {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FILE}
    assert not long


def test_no_function_is_long():
    lines = dict(found for name in NAMES if name.endswith(".py") for found in functions(name))
    long = {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION}
    assert not long


def test_the_harness_has_few_rooms():
    rooms = {path.name for path in (REPOSITORY / "harness").iterdir()} - {"__init__.py", "__pycache__"}
    assert len(rooms) <= MOST_ROOMS, rooms


def test_limits_of_complexity_and_arguments_are_what_the_code_meets():
    ruff = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert {"C90", "PLR0913", "PLR0915"} <= set(ruff["select"])
    assert ruff["mccabe"]["max-complexity"] <= 10
    assert ruff["pylint"]["max-args"] <= 6
