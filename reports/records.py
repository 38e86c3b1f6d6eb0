"""The record that every table reads: one line for each (cell, benchmark, metric)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Record(BaseModel):
    """One measured value. Written to `results.jsonl` and `results.csv` of a run, flat.

    A cell is backbone × task × method × seed; the base model is a cell with an empty `task`. Costs are records too,
    with `role` "cost", an empty `benchmark` and the metrics `train_seconds` (wall), `train_cpu_seconds`,
    `peak_memory_bytes`, `stored_bytes` and `trainable_parameters`; where a model judged, also `judge_requests`,
    `judge_tokens_in`, `judge_tokens_out` and, where its price is known, `judge_dollars`: what the replies behind the
    cell's verdicts took. An answer that two cells share is paid for once and counts in both.

    Attributes:
        run, suite, backbone: names.
        method: the row's name in the suite, e.g. `esft-gate` or `random-gate`.
        method_title: how tables print it, e.g. `ESFT-Gate`.
        ablates: for a random-expert row, the `method` it is the ablation of; else empty.
        task: the task the cell was trained on; empty for the base model.
        seed: the training seed.
        benchmark: what was evaluated, a task's name; `benchmark_title` is its column header.
        role: `ability`, `general` or `cost`.
        metric: name of the metric, e.g. `exact_match`, `pass@1`, `reference_judge`.
        value: mean over scored items, 0–100 for scores; SI units for costs. None when nothing was scored.
        n: number of items; `scored`: how many of them have a score (coverage is scored / n).
        items: path, relative to the run folder, of the per-item JSONL (see `ItemScore`); empty for costs.
        state: `scored`, `unscored` (no item could be scored) or `failed` (the step broke; `note` says why).
        judge: for judged benchmarks, who judged, e.g. `reference (chrF)` or `gpt-5.2`; else empty.
        engine: what generated the answers: `vllm 0.32.0` or `transformers 5.19.0`; empty for costs.
        source: key of the artifact the value came from.
    """

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA_VERSION
    run: str
    suite: str
    backbone: str
    method: str
    method_title: str
    ablates: str = ""
    task: str
    seed: int
    benchmark: str
    benchmark_title: str
    role: Literal["ability", "general", "cost"]
    metric: str
    value: float | None
    n: int = 0
    scored: int = 0
    items: str = ""
    state: Literal["scored", "unscored", "failed"] = "scored"
    judge: str = ""
    engine: str = ""
    source: str = ""
    note: str = ""


class ItemScore(BaseModel):
    """One evaluated item: a line of the per-item JSONL.

    `score` is in [0, 1]; None with state `unscored` (could not be read or judged) or `failed` (an outage): never 0.
    """

    model_config = ConfigDict(extra="forbid")
    id: str
    score: float | None
    state: Literal["scored", "unscored", "failed"] = "scored"
    prompt: str = ""
    completion: str = ""
    answer: str = ""
    reason: str = ""
