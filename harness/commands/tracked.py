"""Which trackers a run tells of its trainings."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from esft_bench.spec.errors import UserError
from esft_bench.spec.trackers import TRACKERS, Tracker, Trackers

FOLDER = "trackers"
"""In a run's folder: what trackers write."""


def trackers(asked: Sequence[str] | None, run: Path) -> Trackers | None:
    """The trackers that are asked for. Raises UserError for one that is not known, or not installed."""
    if not asked:
        return None
    names: list[Tracker] = [known for known in TRACKERS if known in asked]
    if unknown := sorted(set(asked) - set(names)):
        raise UserError(f"--track {unknown[0]}: there are {', '.join(TRACKERS)}.")
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise UserError(f"--track {missing[0]}: {missing[0]} is not installed: pip install {missing[0]}.")
    return Trackers(names=tuple(names), folder=(run / FOLDER).resolve(), project=run.name)
