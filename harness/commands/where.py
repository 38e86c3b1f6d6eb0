"""The way back from a number in a table to what it was made of, as paths."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esft_bench.harness.commands.prepare import STORE
from esft_bench.harness.store.manifest import MANIFEST, Manifest, read_manifest
from esft_bench.harness.store.names import ADAPTER, CHECKPOINT, ITEMS, LM_EVAL, LOG, SAMPLES, TUNED
from esft_bench.spec.curve import ITSELF
from esft_bench.spec.errors import UserError
from esft_bench.spec.record import Record
from esft_bench.spec.results import check_run, read

HOLDS = {
    "verdicts": ITEMS,
    "answers": ITEMS,
    "divergence": ITEMS,
    "samples": SAMPLES,
    "train": ADAPTER,
    "tune": TUNED,
    "trial": LOG,
}
"""What of an artifact is meant, by its kind; of others the folder."""


@dataclass(frozen=True)
class Place:
    """A line of the way: `depth` steps from the number, what it is, and where it lies."""

    depth: int
    what: str
    path: Path


def where(run: Path, method: str, task: str, seed: int | None = None, rate: float | None = ITSELF) -> Iterator[Place]:
    """The way from each number of a cell to completions, adapter, selection, profile and data.

    `task` is the one trained on or, for the base model, tested on; `rate` the point of the row's curve. Raises
    UserError where the run has no such cell.
    """
    records = [record for record in _records(run) if record.method == method and record.source and record.benchmark]
    points = [each for each in records if not each.task or rate in (None, each.rate)]
    ours = [each for each in points if (each.task or each.benchmark) == task and seed in (None, each.seed)]
    if not ours:
        known = sorted({(each.method, each.task or each.benchmark) for each in records or _records(run)})
        there = ", ".join(f"{row} {name}" for row, name in known[:12])
        raise UserError(f"{run} has no results of {method} on {task}{_of(seed, rate)}; it has: {there or 'none'}.")
    store = run.parent / STORE
    seen: set[Path] = set()
    for record in ours:
        value = "not scored" if record.value is None else f"{record.value:.2f}"
        times = "" if record.is_row else f", curve × {record.rate:g}"
        yield Place(0, f"{record.benchmark_title}, seed {record.seed}{times}: {value}", run / record.items)
        kind, _, key = record.source.partition("/")
        yield from _back(store, kind, key, 1, seen)


def _of(seed: int | None, rate: float | None) -> str:
    seeds = "" if seed is None else f" with seed {seed}"
    return seeds if rate in (None, ITSELF) else f"{seeds} at {rate:g} of its learning rate"


def _records(run: Path) -> list[Record]:
    check_run(run)
    return read(run).records


def _back(store: Path, kind: str, key: str, depth: int, seen: set[Path]) -> Iterator[Place]:
    """An artifact and all that it was made of, each once."""
    folder = store / kind / key
    manifest = read_manifest(folder)
    if manifest is None:
        yield Place(depth, f"{kind}, which is not in the store any more", folder)
        return
    if folder in seen:
        return
    seen.add(folder)
    yield from _contents(manifest, folder, depth)
    for role, each in manifest.inputs.items():
        if each.kind:
            yield from _back(store, each.kind, each.key, depth + 1, seen)
        elif (path := Path(each.path)) not in seen:
            seen.add(path)
            yield Place(depth + 1, role, path)
            if path.name == CHECKPOINT and (made := read_manifest(path.parent)):  # an unpacked backbone
                yield from _back(store, made.kind, path.parent.name, depth + 2, seen)


def _contents(manifest: Manifest, folder: Path, depth: int) -> Iterator[Place]:
    """What is to be looked at in an artifact."""
    yield Place(depth, f"{manifest.kind}: {manifest.label}", folder / HOLDS.get(manifest.kind, ""))
    selection = folder / ADAPTER / "expert_cfg.json"
    for what, path in (("selection", selection), ("lm-eval's results", folder / LM_EVAL), ("how", folder / MANIFEST)):
        if path.exists():
            yield Place(depth + 1, what, path)
