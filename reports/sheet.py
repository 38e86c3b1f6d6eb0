"""A run read from disk: its manifest, and for each backbone its records with the tables made of them, once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reports.paired import against, own
from reports.results import LEFT_OUT, read
from reports.scores import Role, Row, Scores
from reports.statistics import Comparison
from reports.tables import Table, ability_table, ablation_table, general_table

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Point:
    """A row's average with its 95% interval."""

    value: float
    low: float
    high: float


class Sheet:
    """The records of one backbone; tables and intervals are worked out when asked for, and once."""

    def __init__(self, scores: Scores, backbone: str = "") -> None:
        self.scores, self.backbone = scores, backbone
        self._points: dict[tuple[str, Role], Point | None] = {}

    @cached_property
    def ability(self) -> Table:
        """Table 1."""
        return ability_table(self.scores)

    @cached_property
    def general(self) -> Table:
        """Table 2."""
        return general_table(self.scores)

    @cached_property
    def ablation(self) -> Table:
        """Table 3."""
        return ablation_table(self.scores)

    @cached_property
    def base(self) -> Row | None:
        """The row that is not trained."""
        return next((row for row in self.scores.rows if self.scores.is_base(row)), None)

    def table(self, role: Role) -> Table:
        """The table of a role."""
        return self.ability if role == "ability" else self.general

    def point(self, row: Row, role: Role) -> Point | None:
        """A row's average; None where a column is missing or short of coverage.

        The interval is over items and runs for task ability, over training runs for general ability, as in the tables.
        """
        key = (row.name, role)
        if key not in self._points:
            self._points[key] = self._point(row, role)
        return self._points[key]

    def gain(self, row: Row, role: Role) -> Comparison | None:
        """A row minus the base model, averaged and paired; None where either has no average."""
        if self.base is None or self.point(row, role) is None or self.point(self.base, role) is None:
            return None
        return against(self.scores, row, self.base, role)

    def _point(self, row: Row, role: Role) -> Point | None:
        cell = self.table(role).cells.get((row.name, ""))
        if cell is None or cell.value is None or not cell.comparable:
            return None
        if cell.low is not None and cell.high is not None:
            return Point(cell.value, cell.low, cell.high)
        found = own(self.scores, row, role)
        return Point(cell.value, found.low, found.high) if found else Point(cell.value, cell.value, cell.value)


@dataclass(frozen=True)
class Run:
    """A run's manifest and sheets, and sentences about what could not be read."""

    folder: Path
    manifest: Mapping[str, Any]
    sheets: list[Sheet]
    left_out: list[str]

    @property
    def suite(self) -> Mapping[str, Any]:
        """The suite, as far as the manifest says."""
        return _mapping(self.manifest.get("suite"))


def read_run(folder: Path) -> Run:
    """Read a run folder; what is missing or unreadable is named in `left_out` and stops nothing."""
    manifest, complaints = _manifest(folder / MANIFEST)
    frame = read(folder)
    suite = _mapping(manifest.get("suite"))
    backbones = list(dict.fromkeys(frame["backbone"]))
    sheets = [Sheet(Scores(frame[frame["backbone"] == name], folder, suite), name) for name in backbones]
    return Run(folder, manifest, sheets, [*complaints, *frame.attrs[LEFT_OUT]])


def _manifest(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The manifest, and what is wrong with it."""
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8"))), []
    except FileNotFoundError:
        return {}, [f"There is no {MANIFEST}: command, order of rows, versions and hardware are not known."]
    except ValueError:
        return {}, [f"{MANIFEST} is not readable: command, order of rows, versions and hardware are not known."]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
