"""What each row forgets where all have gained the same, and gains where all have forgotten as little."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from esft_bench.reports.backbone_results import AVERAGE, BackboneResults, Column, TableRow
from esft_bench.reports.formatting import number
from esft_bench.reports.gain_curves import GENERAL, Measure, curves_of, measures, trained_rows
from esft_bench.reports.statistics.equal_gain import (
    ALL_TASKS,
    GOOD,
    SURE,
    Curves,
    Readings,
    equal_gain,
    gained_within,
    loss_at_gain,
    lost_at_equal_gain,
)
from esft_bench.reports.statistics.family import Family
from esft_bench.reports.tables.table import Key, Outcome, Table, TableCell

LINE = ["read", "unit", "method", "title", "task", "at", "estimate", "low", "high", "mark", "note"]
BUDGET = 1.0
"""Points of general ability that may be lost where gains are compared."""


@dataclass(frozen=True)
class ReadTable:
    """A table of readings; `least` says that the lowest is the best one, `digits` how many are shown."""

    table: Table
    readings: Readings
    measure: Measure
    least: bool
    digits: int


class EqualGain:
    """The curves of one backbone's rows, read at equal gain and, for general ability, at equal forgetting.

    Args:
        results: the records and items.
        family: the comparisons of the whole report, which those of the readings join and are judged among.
        name: tells backbones of one report apart.
    """

    def __init__(self, results: BackboneResults, family: Family | None = None, name: str = "") -> None:
        self.results, self.family, self.name = results, family or Family(), name
        self.curves: dict[str, Curves] = {}
        self.measures = measures(results)
        for measure in self.measures:
            if (curves := curves_of(results, measure)) is not None:
                self.curves[measure.name] = curves
        self.family.join(self._p_values)

    @property
    def is_curve(self) -> bool:
        """Whether rows were trained at several rates."""
        return len(self.results.rates) > 1

    @cached_property
    def at(self) -> Mapping[str, tuple[float, str]]:
        """For each task the gain at which curves are read, and the row that decides it; from the first measure."""
        first = next(iter(self.curves.values()), None)
        return equal_gain(first) if first is not None and self.is_curve else {}

    @cached_property
    def tables(self) -> list[ReadTable]:
        """General ability lost at equal gain first, what is gained within a point of it, then drift at equal gain."""
        kinds = {"lost": self._lost, "gained": self._gained}
        return [
            kinds[what](self._measure(name), self.curves[name], readings)
            for (what, name), readings in self._readings.items()
        ]

    def lines(self) -> Iterator[list[str]]:
        """Every reading as a line of a CSV file, under LINE; what was not reached is empty."""
        for one in self.tables:
            for row in one.table.rows:
                for column in one.table.columns:
                    cell, at = one.table.cell(row, column), one.readings.at.get(column.name)
                    numbers = (at, cell.value, cell.low, cell.high)
                    told = ["" if value is None else f"{value:.6g}" for value in numbers]
                    about = [one.table.title.lower(), one.measure.unit if one.least else "points", row.name, row.title]
                    yield [*about, column.name or "mean", *told, cell.mark, cell.note]

    @property
    def forgetting(self) -> ReadTable | None:
        """General ability lost at equal gain."""
        return next((one for one in self.tables if one.least and one.measure.name == GENERAL), None)

    @cached_property
    def _readings(self) -> dict[tuple[str, str], Readings]:
        """What is read from each measure's curves, by what it is of them that is read."""
        if not self.at:
            return {}
        gains = {task: gain for task, (gain, _) in self.at.items()}
        readings: dict[tuple[str, str], Readings] = {}
        for name, curves in self.curves.items():
            readings["lost", name] = lost_at_equal_gain(curves, gains)
            if name == GENERAL:
                readings["gained", name] = gained_within(curves, BUDGET)
        return readings

    def _measure(self, name: str) -> Measure:
        return next(measure for measure in self.measures if measure.name == name)

    def _key(self, pair: tuple[str, str, str], readings: Readings) -> Hashable:
        return next((self.name, *read, pair) for read, one in self._readings.items() if one is readings)

    def _p_values(self) -> dict[Hashable, float]:
        """Of "no difference", for every pair of rows that is read at the same place."""
        return {
            self._key(pair, readings): one.p_value
            for readings in self._readings.values()
            for pair, one in readings.differences.items()
        }

    def _lost(self, measure: Measure, curves: Curves, readings: Readings) -> ReadTable:
        what = "General ability lost" if measure.name == GENERAL else f"{measure.title} added"
        said = (
            f"{what}, in {measure.unit}, where a row has gained as many points as stand beside the task's name: curves "
            f"over {len(self.results.rates)} multiples of its {self.results.suite.curve.along}, read between their "
            "points."
        )
        if measure.name == GENERAL:
            said += (
                f" The gain is one that the weakest of the good rows surely reaches ({SURE:.1%} quantile of its "
                f"highest gain); good is a row with at least {GOOD:.0%} of the highest gain of all. Bold: the lowest, "
                "or not distinguishable from it, among all comparisons of the report."
            )
        titles = {task: f"{self.title(task)} (+{number(gain)})" for task, (gain, _) in self.at.items()}
        title = "Forgetting at equal gain" if measure.name == GENERAL else f"{measure.title} at equal gain"
        table = self._table((title, said), titles, curves, readings, least=True)
        return ReadTable(table, readings, measure, True, measure.digits)

    def _gained(self, measure: Measure, curves: Curves, readings: Readings) -> ReadTable:
        said = (
            f"The most that a row gains, in points, before it first loses more than {BUDGET:g} point of general "
            "ability; where its curve never loses so much, its highest gain. Bold: the highest, or not distinguishable "
            "from it."
        )
        titles = {task: self.title(task) for task in readings.at}
        table = self._table(("Gain at equal forgetting", said), titles, curves, readings, least=False)
        return ReadTable(table, readings, measure, False, 1)

    def rate_at(self, row: TableRow, task: str) -> float:
        """About which multiple of its learning rate or steps a row has at the gain where a task's curves are read."""
        curves = next(iter(self.curves.values()))
        gain = curves.points("none")[list(curves.tasks).index(task)][0][0, list(curves.rows).index(row.name)]
        return float(loss_at_gain(gain, np.array([0.0, *self.results.rates]), self.at[task][0]))

    def title(self, task: str) -> str:
        """How columns and panels call a task."""
        named = {name: column.title for column in self.results.columns("ability") for name in column.tasks}
        return named.get(task, task)

    def _table(
        self, words: tuple[str, str], titles: Mapping[str, str], curves: Curves, readings: Readings, *, least: bool
    ) -> Table:
        """Cells of all trained rows, which are best, and how many pairs cannot be told apart."""
        rows = trained_rows(self.results)
        mean = [AVERAGE] if len(titles) == len(self.results.tasks) > 1 else []
        columns = [*(Column(task, title) for task, title in titles.items()), *mean]
        cells: dict[Key, TableCell] = {}
        outcomes: dict[str, Outcome] = {}
        for column in columns:
            for row in rows:
                cells[row.name, column.name] = self._cell(row, column.name, curves, readings)
            differ = {
                pair[:2]: self.family.holds(self._key(pair, readings))
                for pair in readings.differences
                if pair[2] == column.name
            }
            best = _best(readings, column.name, rows, differ, min if least else max)
            for name in best:
                cells[name, column.name] = replace(cells[name, column.name], mark="best")
            told = Outcome(len(differ), sum(differ.values()), 0, readings.runs)
            outcomes |= {column.name: told} if differ else {}
        return Table(*words, rows, columns, cells, outcomes=outcomes)

    def _cell(self, row: TableRow, task: str, curves: Curves, readings: Readings) -> TableCell:
        found = readings.found.get((row.name, task))
        if found is not None:
            return TableCell(found.estimate, found.low, found.high, readings.runs)
        if task == ALL_TASKS:
            return TableCell(note="not reached, or not finished, on every task")
        most = curves.points("none")[list(curves.tasks).index(task)][0][0, list(curves.rows).index(row.name)].max()
        return TableCell(note=NOT_REACHED if most == most else "not every point of its curve is finished")


NOT_REACHED = "not reached by its curve, or in too few of the draws to say"


def _best(
    readings: Readings,
    task: str,
    rows: Sequence[TableRow],
    differ: Mapping[tuple[str, str], bool],
    choose: Callable[..., TableRow],
) -> list[str]:
    """The best row of a column and those that cannot be told from it; none where there is nothing to compare."""
    read = [row for row in rows if (row.name, task) in readings.found]
    if len(read) < 2:
        return []
    best = choose(read, key=lambda row: readings.found[row.name, task].estimate).name
    same = {pair for pair, apart in differ.items() if not apart and best in pair}
    return [best, *(row.name for row in read if any({row.name, best} == {*pair} for pair in same))]
