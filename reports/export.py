"""A run in the format of Every Eval Ever (evaleval/every_eval_ever), schema version 0.3.0.

One log for each cell and engine, with all its benchmarks, and its items beside it, in the layout of that project's data
store: `data/COLLECTION/DEVELOPER/MODEL/UUID.json` and `UUID_samples.jsonl`. Scores become proportions, 0 to 1, as that
project asks of accuracies. Ids follow from what the run is, so that a second export gives the same files.

What the format has no place for is left out and stays in the run's own results: values that were not scored, items
without a score (their number is told), costs, drift in bits. A judge stands under a metric's details: the format's own
field for judges wants the prompt in full, which records do not hold.
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from esft_bench.reports.content import Content
from esft_bench.spec.record import ItemScore, Record
from esft_bench.spec.results import JSONL, read_items, write_text

SCHEMA_VERSION = "0.3.0"
FOLDER = "every_eval_ever"
ORGANISATION = "esft-bench"
"""Under whose name models go that are on no hub: the shipped backbone and everything trained."""


def export(content: Content) -> list[Path]:
    """Write a run's cells into `every_eval_ever/` of its folder, afresh; returns the logs, one for each scored cell."""
    shutil.rmtree(content.folder / FOLDER, ignore_errors=True)
    cells: dict[tuple[str, str, str, int, float, str], list[Record]] = {}
    for record in content.records:
        if record.role not in ("cost", "drift", "repeat") and record.state == "scored" and record.value is not None:
            key = (record.backbone, record.method, record.task, record.seed, record.rate, record.engine)
            cells.setdefault(key, []).append(record)
    return [_write(content, records) for records in cells.values()]


def _write(content: Content, records: Sequence[Record]) -> Path:
    """One cell's log and items."""
    first = records[0]
    collection = _portable(f"{ORGANISATION}-{first.suite}")
    model = model_id(first)
    digest = hashlib.sha256("\0".join([collection, model, *(record.source for record in records)]).encode()).digest()
    name = str(uuid.UUID(bytes=digest[:16], version=4))
    folder = content.folder / FOLDER / "data" / collection / model
    samples = [line for record in records for line in _samples(content.folder, record, f"{collection}/{model}/{name}")]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in samples)
    log = _log(content, records, f"{collection}/{model}/{name}")
    if samples:
        write_text(folder / f"{name}_samples.jsonl", text)
        log["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": f"data/{collection}/{model}/{name}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(samples),
        }
    path = folder / f"{name}.json"
    write_text(path, json.dumps(log, indent=2, ensure_ascii=False) + "\n")
    return path


def model_id(record: Record) -> str:
    """A cell's model as `organisation/name`: the backbone as the hub has it, or one made of the cell's parts."""
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", record.backbone) is not None
    if not record.task and on_hub:
        return record.backbone
    names = [record.backbone.rsplit("/", 1)[-1]]
    names += [record.method, record.task, f"seed-{record.seed}"] if record.task else []
    names += [] if record.is_row else [f"x{record.rate:g}"]
    return f"{ORGANISATION}/{_portable('-'.join(names))}"


def _log(content: Content, records: Sequence[Record], evaluation_id: str) -> dict[str, Any]:
    """The aggregate log of one cell."""
    first = records[0]
    versions = content.manifest.versions
    engine, _, version = first.engine.partition(" ")
    about = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown",
        "backbone": first.backbone,
        "method": first.method_title,
        "trained_on": first.task or "nothing",
        "seed": str(first.seed),
        **(
            {} if first.is_row else {f"{content.manifest.suite.curve.along}_times".replace(" ", "_"): f"{first.rate:g}"}
        ),
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation_id,
        "retrieved_timestamp": _when(content),
        "source_metadata": {
            "source_name": first.suite,
            "source_type": "evaluation_run",
            "source_organization_name": ORGANISATION,
            "evaluator_relationship": "other",
            "additional_details": {"command": content.manifest.command},
        },
        "eval_library": {
            "name": "lm_eval",
            "version": versions.get("lm_eval", "unknown"),
            "additional_details": {"run_by": f"esft-bench {versions.get('esft-bench', 'unknown')}"},
        },
        "model_info": {
            "name": f"{first.method_title}, {first.task}, seed {first.seed}" if first.task else first.method_title,
            "id": model_id(first),
            "inference_engine": {"name": engine or "unknown", "version": version or "unknown"},
            "additional_details": about,
        },
        "evaluation_results": [_result(content.folder, record) for record in records],
    }


def _result(folder: Path, record: Record) -> dict[str, Any]:
    """One benchmark of a cell, as a proportion with its standard error over items."""
    assert record.value is not None
    items = [item.score for item in read_items(folder, record) if item.score is not None]
    uncertainty: dict[str, Any] = {"num_samples": record.scored}
    if len(items) > 1:
        mean = sum(items) / len(items)
        variance = sum((score - mean) ** 2 for score in items) / (len(items) - 1)
        uncertainty["standard_error"] = {"value": (variance / len(items)) ** 0.5, "method": "analytic, over items"}
    details = {"judge": record.judge} if record.judge else {}
    return {
        "evaluation_result_id": _result_id(record),
        "evaluation_name": record.benchmark,
        "source_data": {
            "dataset_name": record.benchmark,
            "source_type": "other",
            "additional_details": {"title": record.benchmark_title, "role": record.role},
        },
        "metric_config": {
            "metric_id": f"{ORGANISATION}.{_portable(record.judge)}" if record.judge else record.metric,
            "metric_name": record.metric,
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
            "additional_details": details,
        },
        "score_details": {
            "score": min(max(record.value / 100.0, 0.0), 1.0),
            "details": {"value": repr(record.value), "items": str(record.n), "unscored": str(record.n - record.scored)},
            "uncertainty": uncertainty,
        },
    }


def _samples(folder: Path, record: Record, evaluation_id: str) -> list[dict[str, Any]]:
    """The scored items of a record."""
    return [_sample(record, item, evaluation_id) for item in read_items(folder, record) if item.score is not None]


def _sample(record: Record, item: ItemScore, evaluation_id: str) -> dict[str, Any]:
    """One item; `is_correct` where it has the full score."""
    attribution = {
        "turn_idx": 0,
        "source": "output.raw",
        "extracted_value": item.completion,
        "extraction_method": "llm_judge" if record.judge else record.metric,
        "is_terminal": True,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation_id,
        "model_id": model_id(record),
        "evaluation_name": record.benchmark,
        "evaluation_result_id": _result_id(record),
        "sample_id": item.id,
        "sample_hash": hashlib.sha256((item.prompt + item.answer).encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": item.prompt, "reference": [item.answer]},
        "output": {"raw": [item.completion]},
        "answer_attribution": [attribution],
        "evaluation": {"score": item.score, "is_correct": item.score == 1.0},
        "metadata": {"reason": item.reason} if item.reason else {},
    }


def _result_id(record: Record) -> str:
    return f"{record.benchmark}.{_portable(record.metric)}"


def _when(content: Content) -> str:
    """When the run ended, or began, in seconds since 1970: not when it was exported, so that exports are the same."""
    for key in ("finished", "started"):
        try:
            return str(int(datetime.fromisoformat(str(content.manifest.raw[key])).timestamp()))
        except (KeyError, ValueError):
            continue
    return str(int((content.folder / JSONL).stat().st_mtime))


def _portable(text: str) -> str:
    """A text as part of a path."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "unknown"
