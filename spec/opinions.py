"""What else judges said of answers that have a score: `opinions.jsonl`, a line for each cell, benchmark and kind."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from esft_bench.spec.results import write_text
from esft_bench.spec.strict import Strict

FILE = "opinions.jsonl"
Kind = Literal["second", "order", "verbosity"]
"""Who says it: another judge; the same one, shown the answer before the reference; or shown the answer twice over."""


class Opinions(Strict):
    """Further scores of one cell's answers to one benchmark.

    Attributes:
        method, task, seed: the cell.
        benchmark, benchmark_title: what was answered.
        kind, judge: how the further scores came about, and who gave them.
        beside: the judge whose scores the tables show.
        scores: for each item that both scored its id, the score of the tables and the further one, 0–100.
        asked: how many items were asked about.
    """

    method: str
    task: str
    seed: int
    benchmark: str
    benchmark_title: str
    kind: Kind
    judge: str
    beside: str
    scores: list[tuple[str, float, float]]
    asked: int


def write(found: Iterable[Opinions], folder: Path) -> None:
    """Write `opinions.jsonl` into `folder`, beside and renamed; an old one is removed where there are none."""
    lines = [one.model_dump_json() + "\n" for one in found]
    if lines:
        write_text(folder / FILE, "".join(lines))
    else:
        (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> list[Opinions]:
    """Read `opinions.jsonl`; lines that cannot be read are skipped, and without the file there are none."""
    path = folder / FILE
    found: list[Opinions] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(Opinions.model_validate_json(line))
        except ValidationError:
            continue
    return found
