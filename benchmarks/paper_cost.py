"""Which share of a large suite's GPU hours is not the model, on paper; `benchmarks.cell_cost --on-paper` prints it.

Nothing is run: `plan` prices the trainings at DeepSeek-V2-Lite's shapes on one device, and what else a cell does is
bytes over a disk's rate, and requests times the host's seconds for one.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.shapes import V2_LITE
from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import evaluation_prices, training_prices
from esft_bench.harness.plan.price.hardware import DEFAULT, accelerator
from esft_bench.harness.steps.graph import Graph
from esft_bench.spec.files import read_jsonl

MINI = Path(__file__).parents[1] / "tasks" / "mini" / "backbone"
HASHING = 0.7e9
"""Bytes a second of SHA-256, as harness/store/soundness.py has it."""


@dataclass(frozen=True)
class Assumed:
    """What the share rests on, besides the assumptions of `plan`.

    Attributes:
        request: host seconds for one of lm-eval's requests.
        disk: bytes a second to and from the disk.
        generating: which part of a training's rate generating answers reaches.
    """

    request: float
    disk: float = 2e9
    generating: float = 0.1


@dataclass(frozen=True)
class PaperCost:
    """A trained row's cells, and the GPU seconds of one with the model and without."""

    row: str
    cells: int
    model: float
    rest: float


def paper_costs(suite: str, data: Path | None, assumed: Assumed, folder: Path) -> Iterator[PaperCost]:
    """For each trained row of a suite, what one of its cells costs; `folder` is for what is written on the way."""
    plan, graph = _planned(suite, data, folder)
    prices = [each for each in training_prices(plan, graph, accelerator(DEFAULT), 1) if not each.why_not]
    training = plan.suite.training
    whole = max(prices, key=lambda each: each.adapter_bytes)  # full fine-tuning: its adapter is the checkpoint
    tokens = training.steps * training.batch_size * training.sequence_length
    forward = whole.seconds / tokens / 3  # of one token; the backward pass takes twice that
    asked = _asked(plan)
    for price in prices:
        cell = next(cell for cell in plan.cells if plan.suite.title(cell.method) == price.row)
        tests = [asked[name] for name in plan.matrix.benchmarks(cell)]
        model = price.seconds + forward * sum(each.read + each.written / assumed.generating for each in tests)
        # The checkpoint is read to train, read and written to merge, read to swap; the adapter written, and read twice.
        moved = 4 * whole.adapter_bytes + 3 * price.adapter_bytes
        rest = moved / assumed.disk + 2 * price.adapter_bytes / HASHING
        yield PaperCost(price.row, price.cells, model, rest + assumed.request * sum(each.requests for each in tests))


def _planned(suite: str, data: Path | None, folder: Path) -> tuple[Plan, Graph]:
    """The suite's plan for a backbone of V2-Lite's configuration, which has no weights."""
    backbone = folder / "v2-lite"
    shutil.copytree(MINI, backbone, ignore=shutil.ignore_patterns("*.safetensors"))
    V2_LITE.save_pretrained(backbone)
    few = ["training.validation_items=1"]  # samples of the data are short, and prices do not count these rows
    options = SuiteOptions(suite, backbone=str(backbone), data_dir=data, run_dir=folder / "paper", set=few)
    prepared = prepare(options, weights=False)
    return prepared.plan, prepared.plan.graph(prepared.store)


@dataclass(frozen=True)
class _Asked:
    """What a benchmark asks of a model: requests, tokens to read and, at most, to write."""

    requests: int
    read: int
    written: int


def _asked(plan: Plan) -> dict[str, _Asked]:
    """By benchmark; four bytes of text are taken to be a token."""
    written = {price.benchmark: price.generated for price in evaluation_prices(plan)}
    found = {}
    for name in dict.fromkeys(name for cell in plan.cells for name in plan.matrix.benchmarks(cell)):
        items = plan.data[name].items
        assert items is not None
        rows = read_jsonl(items.path)
        requests = sum(len(row.get("choices") or [""]) for row in rows)
        read = sum(len(row["prompt"].encode()) for row in rows) // 4
        found[name] = _Asked(requests, read, written[plan.tasks[name].title])
    return found
