"""How far a run is, as it says itself, for another shell."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from esft_bench.harness.progress import live
from esft_bench.harness.progress.pace import in_words
from esft_bench.spec.errors import UserError


def status(run: Path) -> Iterator[str]:
    """Lines on a run: its state, its cells, the steps at work. Raises UserError where the folder is of no run."""
    found = live.read(run)
    if found is None:
        raise UserError(f"{run} holds no {live.FILE} that can be read: name the folder of a run, e.g. runs/mini.")
    count = Counter(found.cells.values())
    cells = ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
    yield f"{run}: {_state(found)}"
    yield f"{len(found.cells)} cells: {cells}"
    for step in found.steps if found.state == "running" else ():
        share = f"{step.done} of {step.total}, " if step.total else ""
        yield f"  {step.name}: {share}{step.seconds:.0f} s"


def _state(found: live.Live) -> str:
    """The run's state in a few words."""
    ago = max(0, round((datetime.now(UTC) - found.updated).total_seconds()))
    if found.state == "running":
        left = in_words(found.seconds_left)
        return ", ".join(filter(None, [f"{found.phase or 'at work'} (process {found.pid} on {found.host})", left]))
    if found.state == "ended":
        return f"ended {found.updated:%Y-%m-%d %H:%M:%S} UTC"
    return f"stopped {ago} s ago; the same command goes on where it was"
