"""What is measured, as lines of JSON that are there as soon as a row is: a row that hangs costs no other row.

A line of a step has `shape`, `row` and either the fields of `Measured` or `why_not`. Others have `device`, `versions`,
`product_rate`; estimates have `shape`, `row` and the fields of `SimulatedStep`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import LATER, OWN, Row
from benchmarks.gpu.shapes import SHAPES, Shape, assumed_context
from esft_bench.harness.plan.price.step import Batch, Execution, simulate
from esft_bench.methods.errors import MethodError
from esft_bench.spec.training import Training

STEPS, ESTIMATES = "steps.jsonl", "estimates.jsonl"


def add(path: Path, **record: Any) -> None:
    """Write a line, at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines that are there; a last one cut off by a kill is left out."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def estimate_all(shapes: list[str], out: Path) -> None:
    """Write `plan`'s estimate of a step of every method of our own; no accelerator takes part."""
    for shape in shapes:
        for name, row in (OWN | LATER).items():
            if row.mixed:
                try:
                    found = asdict(_estimate(SHAPES[shape], row))
                except (MethodError, RuntimeError, ImportError) as error:  # torchao is an extra
                    found = {"why_not": str(error)}
                add(out / ESTIMATES, shape=shape, row=name, **found)


def _estimate(shape: Shape, row: Row) -> Any:
    context = assumed_context(_on_meta(shape))
    how = Execution("bf16", Training(gradient_checkpointing=row.checkpointing, optimizer=row.optimizer or "adamw"))
    return simulate(shape.config, row.method, context, Batch(1, shape.tokens, 1.0), how)


def _on_meta(shape: Shape) -> Any:
    import torch

    return shape.build(torch.device("meta"))
