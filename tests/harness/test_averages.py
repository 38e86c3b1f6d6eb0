"""The averages that both papers print, worked out again from their columns."""

import pytest

from esft_bench.harness.official import averages
from esft_bench.reports.tables.published_values import published


def test_without_a_checkout_the_averages_of_both_papers_are_checked_and_as_published() -> None:
    verdicts = [row.verdict for row in averages.check_averages()]
    assert (len(verdicts), verdicts.count("ok"), verdicts.count("differs")) == (12, 11, 0)


def test_an_average_that_does_not_follow_from_its_columns_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = published("das")
    first = whole.tables[0].model_copy(update={"averages": {"Base": 35.40}})
    wrong = whole.model_copy(update={"tables": [first, *whole.tables[1:]]})
    monkeypatch.setattr(averages, "published", lambda paper: wrong)
    differing = {(row.part, row.what) for row in averages.check_averages() if row.verdict == "differs"}
    assert {what for part, what in differing if "DAS" in part} == {"Table 1, DeepSeek-V2-Lite"}
