"""Where scores vary is said as the variance components have it, and apart for runs, items and decoding."""

from pathlib import Path

import numpy as np
import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.statistics.detectable import deviations_of
from esft_bench.reports.statistics.variance import variance_components
from esft_bench.reports.tables.noise import decoding_remark, noise
from esft_bench.spec.record import ItemScore, Record
from esft_bench.spec.results import write
from tests.reports.conftest import MadeUpRun, manifest_of, report


def mean_squares(scores: np.ndarray) -> tuple[float, float, float]:
    """The two-way layout's mean squares of runs, items and residual, sum by sum (Searle et al. 1992, Table 4.1)."""
    runs, items = scores.shape
    grand = scores.sum() / (runs * items)
    of_run = [sum(scores[r, i] for i in range(items)) / items for r in range(runs)]
    of_item = [sum(scores[r, i] for r in range(runs)) / runs for i in range(items)]
    left = [(scores[r, i] - of_run[r] - of_item[i] + grand) ** 2 for r in range(runs) for i in range(items)]
    return (
        items * sum((one - grand) ** 2 for one in of_run) / (runs - 1),
        runs * sum((one - grand) ** 2 for one in of_item) / (items - 1),
        sum(left) / ((runs - 1) * (items - 1)),
    )


def test_the_components_are_those_of_the_method_of_moments() -> None:
    rng = np.random.default_rng(0)
    scores = 50 + rng.normal(0, 6, (4, 1)) + rng.normal(0, 20, (1, 30)) + rng.normal(0, 15, (4, 30))
    of_runs, of_items, residual = mean_squares(scores)
    found = deviations_of(variance_components([scores], False))
    assert found.residual**2 == pytest.approx(residual)
    assert found.runs**2 == pytest.approx(max((of_runs - residual) / 30, 0))
    assert found.items**2 == pytest.approx(max((of_items - residual) / 4, 0))


def test_the_components_find_what_the_scores_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(300):
        scores = rng.normal(0, 5, (3, 1)) + rng.normal(0, 20, (1, 80)) + rng.normal(0, 30, (3, 80))
        one = deviations_of(variance_components([scores], False))
        drawn.append([one.runs**2, one.items**2, one.residual**2])
    runs, items, residual = np.sqrt(np.mean(drawn, axis=0))
    assert (runs, items, residual) == (
        pytest.approx(5, rel=0.15),
        pytest.approx(20, rel=0.1),
        pytest.approx(30, rel=0.05),
    )


def asked_again(made: MadeUpRun, folder: Path, changed: int) -> list[Record]:
    """A run in which FFT on Intent was asked twice more, with so many other scores the last time."""
    records = made.build(folder)
    first = next(r for r in records if (r.method, r.task, r.benchmark) == ("fft", "intent", "intent"))
    items = [ItemScore.model_validate_json(line) for line in (folder / first.items).read_text("utf-8").splitlines()]
    again = []
    for repeat, count in ((1, 0), (2, changed)):
        other = [one.model_copy(update={"score": 0.0 if k < count else one.score}) for k, one in enumerate(items)]
        name = f"items/again{repeat}.jsonl"
        (folder / name).write_text("".join(one.model_dump_json() + "\n" for one in other), encoding="utf-8")
        value = 100 * float(np.mean([one.score for one in other]))
        again.append(first.model_copy(update={"role": "repeat", "repeat": repeat, "items": name, "value": value}))
    write([*records, *again], folder)
    return again


def test_repeats_stand_under_table_1_and_count_nowhere_else(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path / "plain")
    again = asked_again(made_up, tmp_path / "again", changed=10)
    plain, repeated = (gather(tmp_path / name).backbones[0] for name in ("plain", "again"))
    for role in ("ability", "general"):
        assert plain.table(role).cells == repeated.table(role).cells
    assert plain.in_short == repeated.in_short
    assert decoding_remark(plain.results) == ""
    remark = repeated.score_views()[0].remark
    assert "1 cell asked 3 times" in remark
    assert "of 100 answers did not score the same each time" in remark
    values = [repeated.ability.cells["fft", "intent"].value, *(one.value for one in again)]
    intent = noise(repeated.results)[0]
    assert intent.decoding == pytest.approx(np.std(values, ddof=1))
    assert "The same model asked again" in report(tmp_path / "again")


def test_one_seed_says_nothing_of_runs_and_several_do(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path / "one")
    assert [one.runs for one in noise(gather(tmp_path / "one").backbones[0].results)[:3]] == [None] * 3
    made_up.seeds = (0, 1, 2)
    made_up.build(tmp_path / "three")
    assert all(one.runs is not None for one in noise(gather(tmp_path / "three").backbones[0].results))


@pytest.mark.parametrize("margin", [2.0, 30.0])
def test_rows_that_are_shown_to_be_the_same_are_said_so_in_table_and_sentence(
    made_up: MadeUpRun, tmp_path: Path, margin: float
) -> None:
    made_up.items, made_up.seeds = 400, (0, 1, 2)
    made_up.skill = {**made_up.skill, "random-gate": made_up.skill["esft-gate"]}
    made_up.build(tmp_path)
    manifest_of(tmp_path, same_within=margin)
    text = report(tmp_path)
    wide = margin == 30.0
    assert ("Shown to be the same within 30 points" in text) == wide
    assert ("None is shown to be the same within 2 points" in text) != wide
    assert ("The same within 30 points: " in text) == wide
    row = next(line for line in text.splitlines() if line.startswith("| Random (Gate) −"))
    assert ("≈" in row) == wide
    assert f"the same within {margin:g} points: a larger difference can be ruled out" in text
