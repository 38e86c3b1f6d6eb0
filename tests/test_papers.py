"""docs/papers.md names what there is: files, suites and their rows, commands, figures, settings."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from esft_bench.harness.cli import app
from esft_bench.methods.registry import load_methods
from esft_bench.reports.tables.published_values import published
from esft_bench.spec.suite import Suite
from esft_bench.spec.suite_file import load
from esft_bench.tasks.registry import load_tasks

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "papers.md").read_text("utf-8")
TABLES = TEXT[TEXT.index("## ESFT") :]
NAMED = sorted(set(re.findall(r"`([^`]+)`", TABLES)))
RUNS = {
    "conventional_full": "fft",
    "conventional_lora": "lora",
    "densemixer_full": "densemixer",
    "densemixer_lora": "densemixer-lora",
    "esft_gate": "esft-gate",
    "esft_token": "esft-token",
    "frozen_full": "frozen-router",
    "frozen_lora": "lora-frozen-router",
}
"""DenseMixer's runs, and our rows."""
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


def test_every_row_and_column_of_densemixers_tables_is_in_its_suites():
    for name, part in zip(("densemixer", "densemixer-qwen"), published("densemixer").tables, strict=True):
        suite, tasks = load(name), load_tasks()
        assert any(part_of in suite.backbone.path.lower() for part_of in part.backbones)
        assert set(part.rows) <= {suite.title(row) for row in suite.methods}
        tested = {each for task in suite.tasks for each in (tasks[task].benchmarks or (task,))}
        assert {tasks[each].title for each in tested} == {*part.columns, "GSM8K"} - {"GSM"}


def test_densemixers_learning_rates_are_those_of_its_scripts(shared_data):
    told = json.loads((shared_data / "densemixer" / "olmoe_settings.json").read_text("utf-8"))
    suite = load("densemixer")
    theirs = suite.methods["esft-gate"].hyperparameters["tasks"]
    for run in told:
        task = next(task for task, name in theirs.items() if name == run["task"])
        assert suite.learning_rate(RUNS[run["kind"]], task) == float(run["lr"])
        assert (suite.training.batch_size, suite.training.epochs) == (256, int(run["num_train_epochs"]))
    assert len(told) == len(RUNS) * len(theirs)


@pytest.mark.parametrize("line", [line for line in TABLES.splitlines() if line.startswith("| ")])
def test_a_row_has_three_short_columns(line):
    assert line.count("|") == 4
