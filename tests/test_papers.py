"""docs/papers.md names what there is: files, suites and their rows, commands, figures, settings."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from esft_bench.harness.cli import app
from esft_bench.methods.registry import load_methods
from esft_bench.spec.suite import Suite
from esft_bench.spec.suite_file import load

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "papers.md").read_text("utf-8")
TABLES = TEXT[TEXT.index("## ESFT") :]
NAMED = sorted(set(re.findall(r"`([^`]+)`", TABLES)))
FIGURES = "".join(path.read_text("utf-8") for path in (REPOSITORY / "reports" / "figures").glob("*.py"))


def is_row(name: str) -> bool:
    suite, _, row = name.partition(":")
    return row in load(suite).methods


def is_setting(name: str) -> bool:
    """A field of a suite or of a method, with a value it may have."""
    ((field, value),) = yaml.safe_load(name).items()
    if field in Suite.model_fields:
        about = {"name": "x", "tasks": ["mini-law"], "methods": {"base": {}}}
        return bool(Suite.model_validate({**about, field: value}))
    fit = [method for method in load_methods().values() if field in method.model_fields]
    return bool([method.model_validate({field: value}) for method in fit])


def is_there(name: str) -> bool:
    if name.startswith("esft-bench "):
        return name.split()[1] in vars(get_command(app))["commands"]
    if "/" in name:
        return (REPOSITORY / name).is_file()
    if ": " in name:
        return is_setting(name)
    return is_row(name) if ":" in name else f'"{name}' in FIGURES or name in Suite.model_fields


@pytest.mark.parametrize("name", NAMED)
def test_what_the_table_of_the_papers_names_is_there(name):
    assert is_there(name)


@pytest.mark.parametrize("name", ["reports/gone.py", "das:gone", "esft-bench gone", "esft-9-gone"])
def test_what_is_not_there_would_be_found(name):
    assert not is_there(name)


@pytest.mark.parametrize("paper", ["ESFT", "DAS"])
def test_no_equation_table_or_figure_of_the_papers_is_left_out(paper):
    """As the papers count them; the ESFT paper's Figure 1 and the DAS paper's Figure 2 are drawings of the method."""
    part = TABLES[TABLES.index(f"## {paper}") :].partition("\n## ")[0]
    counts = {"ESFT": {"Table": 5, "Figure": 7, "Equation": 8}, "DAS": {"Table": 6, "Figure": 5, "Equation": 5}}[paper]
    for kind, last in counts.items():
        named = {int(number) for number in re.findall(rf"{kind}s? (\d+)", part)}
        for low, high in re.findall(rf"{kind}s (\d+) (?:to|and) (\d+)", part):
            named |= set(range(int(low), int(high) + 1))
        assert set(range(1, last + 1)) - named <= ({1} if (paper, kind) == ("ESFT", "Figure") else set()), kind


@pytest.mark.parametrize("line", [line for line in TABLES.splitlines() if line.startswith("| ")])
def test_a_row_has_three_short_columns(line):
    assert line.count("|") == 4
