"""The export fits the schema of Every Eval Ever 0.3.0.

`every_eval_ever/*.json` are that project's two schemas (evaleval/every_eval_ever, MIT licence) without their
descriptions: names, kinds and what is required.
"""

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.export import SCHEMA_VERSION, export
from tests.reports.conftest import MadeUpRun

SCHEMAS = {
    name: json.loads((Path(__file__).parent / "every_eval_ever" / f"{name}.json").read_text())
    for name in ("eval", "instance_level_eval")
}


@pytest.fixture
def small() -> MadeUpRun:
    return MadeUpRun(methods=["base", "fft"], tasks={"intent": "Intent", "law": "Law"}, items=20, general_items=10)


def test_every_log_and_every_item_fits_the_schema(small: MadeUpRun, tmp_path: Path) -> None:
    small.unscored = lambda record, index: index == 3
    small.build(tmp_path)
    logs = export(gather(tmp_path))
    assert len(logs) == 3
    assert {schema["version"] for schema in SCHEMAS.values()} == {SCHEMA_VERSION}
    items = jsonschema.Draft7Validator(SCHEMAS["instance_level_eval"])
    for path in logs:
        log = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft7Validator(SCHEMAS["eval"]).validate(log)
        beside = path.with_name(f"{path.stem}_samples.jsonl")
        text = beside.read_bytes()
        assert log["detailed_evaluation_results"]["checksum"] == hashlib.sha256(text).hexdigest()
        assert (
            log["detailed_evaluation_results"]["file_path"]
            == beside.relative_to(tmp_path / "every_eval_ever").as_posix()
        )
        rows = [json.loads(line) for line in text.splitlines()]
        assert len(rows) == log["detailed_evaluation_results"]["total_rows"]
        for row in rows:
            items.validate(row)
        known = {result["evaluation_result_id"] for result in log["evaluation_results"]}
        assert {row["evaluation_result_id"] for row in rows} == known
        assert {row["evaluation_id"] for row in rows} == {log["evaluation_id"]}


def test_scores_become_proportions_with_their_uncertainty_and_what_was_not_scored_is_told(
    small: MadeUpRun, tmp_path: Path
) -> None:
    small.unscored = lambda record, index: record.benchmark == "law" and index == 3
    records = small.build(tmp_path)
    logs = [json.loads(path.read_text(encoding="utf-8")) for path in export(gather(tmp_path))]
    log = next(log for log in logs if log["model_info"]["id"] == "esft-bench/mini-fft-law-seed-0")
    record = next(one for one in records if (one.method, one.task, one.benchmark) == ("fft", "law", "law"))
    result = next(one for one in log["evaluation_results"] if one["evaluation_name"] == "law")
    assert result["score_details"]["score"] == pytest.approx(record.value / 100)
    assert result["score_details"]["details"]["unscored"] == "1"
    assert result["score_details"]["uncertainty"]["num_samples"] == 19
    assert result["metric_config"]["additional_details"] == {"judge": "reference (chrF)"}


def test_a_second_export_gives_the_same_files_and_old_ones_are_gone(small: MadeUpRun, tmp_path: Path) -> None:
    small.build(tmp_path)
    first = {path: path.read_bytes() for path in export(gather(tmp_path))}
    stale = next(iter(first)).with_name("stale.json")
    stale.write_text("{}")
    assert {path: path.read_bytes() for path in export(gather(tmp_path))} == first
    assert not stale.exists()


def test_a_backbone_of_the_hub_keeps_its_name_and_what_was_trained_from_it_does_not(
    small: MadeUpRun, tmp_path: Path
) -> None:
    small.change = lambda record: record.model_copy(update={"backbone": "deepseek-ai/DeepSeek-V2-Lite"})
    small.build(tmp_path)
    ids = {json.loads(path.read_text(encoding="utf-8"))["model_info"]["id"] for path in export(gather(tmp_path))}
    trained = {f"esft-bench/DeepSeek-V2-Lite-fft-{task}-seed-0" for task in ("intent", "law")}
    assert ids == {"deepseek-ai/DeepSeek-V2-Lite", *trained}


def test_failed_cells_are_not_exported(small: MadeUpRun, tmp_path: Path) -> None:
    small.change = lambda record: (
        record.model_copy(update={"state": "failed", "value": None}) if record.method == "fft" else record
    )
    small.build(tmp_path)
    assert len(export(gather(tmp_path))) == 1
