"""Prints the test files that are nearest to what was changed: python -m tests.changed

Changed is what this branch has over `main`, committed or not. A test file is near if it imports what was changed or is
named after it; where none does, if it imports what imports it, and so on. What nothing imports (data, fixtures, what is
loaded by name) stands for the folder of tests that has its package's name.
"""

import subprocess
from functools import cache
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("harness", "methods", "reports", "spec", "tasks")


def changed_files() -> list[str]:
    """The files that differ from where this branch left `main`, new ones included, from the repository's root."""
    try:
        (base,) = _git("merge-base", "HEAD", "main")
    except subprocess.CalledProcessError:  # no such branch here
        base = "HEAD"
    return sorted({*_git("diff", "--name-only", base), *_git("ls-files", "--others", "--exclude-standard")})


def nearest_tests(files: list[str]) -> list[str]:
    """The test files nearest to changed files, both from the repository's root."""
    graph = _graph()
    found: set[str] = set()
    for file in files:
        importers = set() if file.endswith("conftest.py") else _importers(graph, _module(file))
        found |= {f"{name.replace('.', '/')}.py" for name in importers} or _folder(file)
        found.add(f"tests/{file.partition('/')[0]}/test_{Path(file).stem}.py")
    return sorted(file for file in found if (REPOSITORY / file).exists())


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("esft_bench", "tests")


def _importers(graph: grimp.ImportGraph, module: str) -> set[str]:
    """The test modules fewest imports away from a module, itself if it is one."""
    seen = level = {module} & graph.modules
    while level:
        if tests := {name for name in level if name.rpartition(".")[2].startswith("test_")}:
            return tests
        level = {user for name in level for user in graph.find_modules_that_directly_import(name)} - seen
        seen = seen | level
    return set()


def _folder(file: str) -> set[str]:
    """The test files of the folder of tests/ that a file belongs to."""
    first, _, rest = file.partition("/")
    part = rest.partition("/")[0] if first == "tests" and "/" in rest else first
    return {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(f"tests/{part}/test_*.py")}


def _module(file: str) -> str:
    """The name a Python file is imported by."""
    dotted = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return f"esft_bench.{dotted}" if dotted.partition(".")[0] in PACKAGES else dotted.removeprefix("src.")


def _git(*arguments: str) -> list[str]:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()


if __name__ == "__main__":
    print("\n".join(nearest_tests(changed_files())))
