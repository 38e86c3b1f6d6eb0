"""The record that every table reads: one line for each (cell, benchmark, metric)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from esft_bench.spec.cell import TOGETHER
from esft_bench.spec.curve import ITSELF

SCHEMA_VERSION = 1
UNITS = {"bits_per_byte": "bits a byte", "kl": "bits a token"}
"""Of the metrics of drift."""


class Record(BaseModel):
    """One measured value. Written to `results.jsonl`, `results.csv` and `results.parquet` of a run, flat.

    A cell is backbone × task × method × seed; the base model is a cell with an empty `task`. Costs are records too,
    with `role` "cost", an empty `benchmark` and the metrics `train_seconds` (wall), `train_cpu_seconds`,
    `peak_memory_bytes`, `stored_bytes` and `trainable_parameters`, and `test_seconds`, in which it was served and
    answered; where a model judged, also `judge_requests`,
    `judge_tokens_in`, `judge_tokens_out` and, where its price is known, `judge_dollars`: what the replies behind the
    cell's verdicts took. An answer that two cells share is paid for once and counts in both.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    schema_version: int = SCHEMA_VERSION
    """Version of this list of columns."""
    run: str
    """Name of the run's folder."""
    suite: str
    """Name of the suite."""
    backbone: str
    """The model every cell started from: `mini`, a folder, or a name on the hub."""
    method: str
    """The row's name in the suite, e.g. `esft-gate` or `random-gate`."""
    method_title: str
    """How tables print the row, e.g. `ESFT-Gate`."""
    ablates: str = ""
    """The row (`method`) that this one ablates, e.g. by random experts in place of chosen ones; else empty."""
    task: str
    """The task the cell was trained on, several with `+` between; empty for the base model."""
    after: str = ""
    """The tasks that the cell's model had been trained on before, in order, with spaces between."""
    seed: int
    """The training seed."""
    rate: float = ITSELF
    """What the row's learning rate or steps were multiplied by: 1 for the row itself, else a point of its curve."""
    benchmark: str
    """What was evaluated, a task's name; empty for costs."""
    benchmark_title: str
    """How tables print the benchmark."""
    role: Literal["ability", "general", "drift", "retained", "cost", "repeat"]
    """`ability` (its task), `general`, `drift` (in bits), `retained` (a task of `after`), `cost` or `repeat`."""
    repeat: int = 0
    """The time, from 1, that a model was asked again; 0 for the score that counts."""
    metric: str
    """Name of the metric, e.g. `exact_match`, `pass@1`, `judge`, or of the cost."""
    value: float | None
    """Mean over the scored items, 0–100 for scores, bits for drift; SI units for costs. Empty if nothing was scored."""
    n: int = 0
    """Number of items."""
    scored: int = 0
    """How many of the items have a score: coverage is scored / n."""
    items: str = ""
    """Path, relative to the run folder, of the items behind the value, a JSON line each; empty for costs."""
    state: Literal["scored", "unscored", "failed"] = "scored"
    """`scored`, `unscored` (no item could be scored) or `failed` (the step broke; `note` says why)."""
    judge: str = ""
    """Who judged, for judged benchmarks, e.g. `reference (chrF)` or `gpt-5.2`; else empty."""
    engine: str = ""
    """What generated the answers, e.g. `vllm 0.32.0`; empty for costs."""
    source: str = ""
    """Kind and key of the stored artifact that the value came from."""
    training: str = ""
    """Kind and key of the stored training that made the cell's model."""
    note: str = ""
    """Why there is no value, where there is none."""

    @property
    def tasks(self) -> list[str]:
        """The tasks that the cell was trained on; none for the base model."""
        return self.task.split(TOGETHER) if self.task else []

    @property
    def earlier(self) -> list[str]:
        """The tasks that the cell's model had been trained on before, in order."""
        return self.after.split()

    @property
    def is_row(self) -> bool:
        """Whether it is of the row itself and not of a further point of its curve."""
        return self.rate == ITSELF


class ItemScore(BaseModel):
    """One evaluated item: a line of the per-item JSONL.

    `score` is in [0, 1], or what an item adds to a measure of drift, which is the mean of these; None with state
    `unscored` (could not be read or judged) or `failed` (an outage): never 0.
    """

    model_config = ConfigDict(extra="forbid")
    id: str
    score: float | None
    state: Literal["scored", "unscored", "failed"] = "scored"
    prompt: str = ""
    completion: str = ""
    answer: str = ""
    reason: str = ""
