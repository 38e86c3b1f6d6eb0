"""What one more hour buys follows from what cells took and from what the decisive interval is made of."""

from pathlib import Path

import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.prose.hour import LEAD, spent_by
from esft_bench.spec.record import Record
from esft_bench.spec.results import write
from tests.reports.conftest import MadeUpRun, report


def hour_of(made: MadeUpRun, folder: Path, test_seconds: float | None = None) -> str:
    records = made.build(folder)
    trained = [record for record in records if record.metric == "train_seconds"]
    tested = [r.model_copy(update={"metric": "test_seconds", "value": test_seconds}) for r in trained]
    write([*records, *(tested if test_seconds is not None else [])], folder)
    found = gather(folder).backbones[0].hour
    return "" if found is None else found.text


def test_the_seeds_that_fit_into_an_hour_are_counted_by_what_a_seed_took(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1, 2)  # 18 trained cells a seed, 12 s of training and 28 s of testing each
    text = hour_of(made_up, tmp_path, 28.0)
    assert "it buys 5 more seeds (12.0 min for a seed of every row)" in text
    spent = spent_by(gather(tmp_path).records)
    assert (spent.training, spent.testing, spent.of_a_seed) == (54 * 12.0, 54 * 28.0, 720.0)


def test_more_seeds_and_more_items_narrow_the_decisive_interval(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.seeds = (0, 1, 2)
    text = hour_of(made_up, tmp_path, 28.0)
    now, seeds = (float(part.split("±")[1].split(" ")[0]) for part in text.split("would be about"))
    items = float(text.rsplit("±", 1)[1].rstrip("."))
    assert seeds < now
    assert items < now


def test_with_one_seed_no_width_is_promised(made_up: MadeUpRun, tmp_path: Path) -> None:
    text = hour_of(made_up, tmp_path, 28.0)
    assert "between two single trainings" in text
    assert "how narrow is not known from one" in text


def test_what_does_not_fit_into_an_hour_is_said_so_and_untimed_testing_too(made_up: MadeUpRun, tmp_path: Path) -> None:
    def slow(record: Record) -> Record:
        return record.model_copy(update={"value": 900.0}) if record.metric == "train_seconds" else record

    made_up.change = slow
    text = hour_of(made_up, tmp_path)
    assert "does not buy a whole seed (4.50 h for a seed of every row, testing not counted)" in text
    assert "times the items" not in text


@pytest.mark.parametrize("rows", [("base",), ("base", "fft")])
def test_nothing_is_said_before_two_rows_can_be_compared(
    made_up: MadeUpRun, tmp_path: Path, rows: tuple[str, ...]
) -> None:
    made_up.methods = rows
    assert hour_of(made_up, tmp_path) == ""
    assert LEAD not in report(tmp_path)
