"""Rows of a suite that differ in one hyperparameter: found in its manifest, without knowing any method."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from esft_bench.reports.backbone_results import BackboneResults, TableRow
from esft_bench.spec.suite import Row

RATE = "learning_rate"
ALONG = {"rank": "alpha"}
"""What may go along with a hyperparameter in a fixed ratio: LoRA's scaling is alpha over rank."""
METHOD = "method"


@dataclass(frozen=True)
class Sweep:
    """The rows of one method in which one hyperparameter varies, by its value; a rate may vary along with it."""

    method: str
    name: str
    rows: tuple[tuple[Any, TableRow], ...]

    @property
    def numeric(self) -> bool:
        """True where every value is a number, so that they have an order."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in self.rows)


def sweeps(results: BackboneResults) -> list[Sweep]:
    """Every sweep in the suite: at least two rows of one method that differ in a single hyperparameter.

    A learning rate chosen anew for each value does not make a second one, unless a value then comes up twice; nor does
    what goes along with it in a fixed ratio. A row that leaves a hyperparameter to the method's default takes part only
    where no value of it is asked for.
    """
    rows = {row.name: row for row in results.rows if not row.ablates}
    settings = {name: _settings(row) for name, row in results.suite.methods.items() if name in rows}
    found = []
    for name in dict.fromkeys(key for one in settings.values() for key in one if key != METHOD):
        for group in _groups(settings, name):
            values = tuple((settings[row][name], rows[row]) for row in group)
            method = str(settings[group[0]].get(METHOD) or group[0])
            found.append(Sweep(method, name, _ordered(values)))
    return found


def _settings(row: Row) -> dict[str, Any]:
    """What makes a row what it is: its method and everything that it sets, its own hyperparameters first."""
    return row.hyperparameters | row.model_dump(include=set(Row.model_fields) - {"title", "ablates", "tune"})


def _groups(settings: Mapping[str, dict[str, Any]], name: str) -> Iterator[list[str]]:
    """Rows alike in all but `name`, where that takes at least two values."""
    for group in _alike(list(settings), settings, name, {name, RATE}):
        values = [settings[row][name] for row in group]
        finer = [group] if len(set(map(str, values))) == len(values) else _alike(group, settings, name, {name})
        yield from (rows for rows in finer if len({str(settings[row][name]) for row in rows}) > 1)


def _alike(rows: list[str], settings: Mapping[str, dict[str, Any]], name: str, free: set[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        one = settings[row]
        if one.get(name) is None:
            continue
        rest = {key: value for key, value in one.items() if key not in {*free, METHOD}}
        along = ALONG.get(name)
        if along in rest:
            rest[along] = rest[along] / one[name]
        key = json.dumps([one.get(METHOD) or row, rest], sort_keys=True, default=str)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _ordered(values: tuple[tuple[Any, TableRow], ...]) -> tuple[tuple[Any, TableRow], ...]:
    """Numbers in their order, anything else in the suite's."""
    try:
        return tuple(sorted(values, key=lambda pair: float(pair[0])))
    except (TypeError, ValueError):
        return values
