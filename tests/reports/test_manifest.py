"""A manifest of another version still says what can be read of it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.reports import manifest
from esft_bench.reports.manifest import stored_suite
from esft_bench.spec.suite import Suite
from tests.reports.conftest import MadeUpRun, report

SUITE = {
    "name": "small",
    "tasks": ["law"],
    "methods": {"fft": {"title": "FFT", "learning_rate": 0.1}, "gate": {"p": 0.2, "ablates": "fft"}},
    "training": {"steps": 7},
    "tables": [{"title": "Some", "rows": ["fft"]}],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_suite_of_this_version_comes_back_whole() -> None:
    whole = Suite.model_validate(SUITE)
    found, ignored = stored_suite(json.loads(whole.model_dump_json()))
    assert ignored == []
    assert found.model_dump() == whole.model_dump()


@pytest.mark.parametrize(
    ("change", "ignored"),
    [
        ({"renamed_since": 3}, "renamed_since"),
        ({"training": {"steps": 7, "an_old_name": 1}}, "training.an_old_name"),
        ({"training": {"steps": 7, "learning_rate": "fast"}}, "training.learning_rate"),
        ({"tables": [{"rows": ["fft"]}, {"title": "Some", "rows": ["fft"]}]}, "tables.0"),
        ({"general": 3}, "general"),
    ],
)
def test_what_does_not_fit_is_left_out_by_name_and_the_rest_is_kept(change: dict[str, object], ignored: str) -> None:
    found, lost = stored_suite(SUITE | change)
    assert lost == [ignored]
    assert found.training.steps == 7
    assert found.title("fft") == "FFT"
    assert [table.title for table in found.tables] == ["Some"]


@given(st.dictionaries(st.sampled_from([*Suite.model_fields, "other"]), JSON))
def test_nothing_in_a_suite_can_stop_a_report(raw: dict[str, object]) -> None:
    found, _ = stored_suite(raw)
    assert isinstance(found.tasks, list)
    assert all(found.title(name) for name in found.methods if name)


def test_a_report_says_what_of_the_manifest_it_did_not_read(made_up: MadeUpRun, tmp_path: Path) -> None:
    made_up.build(tmp_path)
    raw = made_up.manifest()
    raw["suite"]["training"] = {"a_name_of_before": 1}
    (tmp_path / manifest.FILE).write_text(json.dumps(raw), encoding="utf-8")
    text = report(tmp_path)
    assert "training.a_name_of_before" in text.partition("## Left out")[2]
    assert "| ESFT-Token" in text
