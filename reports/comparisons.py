"""Every comparison of a backbone's rows, made once: its difference, its interval, and whether it counts in the report.

Tables and sentences ask here, so that what one of them calls significant all of them do.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from esft_bench.reports.backbone_results import AVERAGE, ROLES, BackboneResults, Column, Role, TableRow
from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.family import Family
from esft_bench.reports.statistics.moderation import moderated
from esft_bench.reports.statistics.paired import PairedDifference, difference_of, p_value_of, same_within
from esft_bench.reports.statistics.resampling import sign_flip
from esft_bench.reports.statistics.variance import (
    VarianceComponents,
    is_binary,
    is_constant,
    over_runs,
    variance_components,
    weighted,
    without_gaps,
)


@dataclass(frozen=True)
class Pair:
    """What is compared: two rows on a column of a role (empty: the average), after training on a task (empty: all)."""

    first: str
    second: str
    role: Role
    column: str = ""
    task: str = ""


@dataclass(frozen=True)
class Families:
    """What a report's comparisons are judged among: all that look for a difference, all that look for equality."""

    differences: Family = field(default_factory=Family)
    equalities: Family = field(default_factory=Family)


class Comparisons:
    """The comparisons of one backbone's rows.

    Args:
        results: the records and items.
        families: those of the whole report; the comparisons join them.
        name: tells backbones of one report apart.
    """

    def __init__(self, results: BackboneResults, families: Families | None = None, name: str = "") -> None:
        self.results, self.families, self.name = results, families or Families(), name
        self._found: dict[Pair, PairedDifference] = {}
        self.families.differences.join(lambda: {self._key(pair): p for pair, p in self._p_values.items()})
        self.families.equalities.join(self._same_p_values)

    def between(
        self, row: TableRow, other: TableRow, role: Role, column: Column = AVERAGE, task: str = ""
    ) -> PairedDifference | None:
        """A row minus another; None where they were not compared: no item in common, too few scored, unlike judges."""
        pair, turned = self._pair(row, other, role, column, task)
        if pair not in self._components:
            return None
        if pair not in self._found:
            known = self._arrays[pair], self._components[pair], self._p_values[pair]
            self._found[pair] = difference_of(*known)
        found = self._found[pair]
        return replace(found, estimate=-found.estimate, low=-found.high, high=-found.low) if turned else found

    def differ(self, row: TableRow, other: TableRow, role: Role, column: Column = AVERAGE, task: str = "") -> bool:
        """Whether the difference is significant among all comparisons of the report."""
        pair, _ = self._pair(row, other, role, column, task)
        return self.families.differences.holds(self._key(pair))

    def same(self, row: TableRow, other: TableRow, role: Role, column: Column = AVERAGE, task: str = "") -> bool:
        """Whether the rows are the same within the suite's margin, beyond chance among all that was asked so."""
        pair, _ = self._pair(row, other, role, column, task)
        return self.families.equalities.holds(self._key(pair))

    def components(self, row: TableRow, other: TableRow, role: Role, column: Column) -> VarianceComponents | None:
        """What a difference's error is made of; None where the rows were not compared."""
        return self._components.get(self._pair(row, other, role, column, "")[0])

    @property
    def level(self) -> float:
        """The p-value below which one more difference would be significant in this report."""
        return self.families.differences.level

    @property
    def margin(self) -> float:
        """Rows that differ by less, in points, are the same."""
        return self.results.suite.same_within

    def _pair(self, row: TableRow, other: TableRow, role: Role, column: Column, task: str) -> tuple[Pair, bool]:
        """The pair as it was made, and whether it is the other way round."""
        turned = self._order[row.name] > self._order[other.name]
        first, second = (other, row) if turned else (row, other)
        task = "" if self._tasks == [task] else task
        return Pair(first.name, second.name, role, column.name or self._only_column(role), task), turned

    def _only_column(self, role: Role) -> str:
        """The column that is its own average, and is compared and counted once; empty where there are several."""
        columns = self.results.columns(role)
        return columns[0].name if len(columns) == 1 else ""

    def _key(self, pair: Pair) -> Hashable:
        return (self.name, pair)

    @cached_property
    def _order(self) -> dict[str, int]:
        return {row.name: place for place, row in enumerate(self.results.rows)}

    @cached_property
    def _arrays(self) -> dict[Pair, list[Array]]:
        """The paired differences of every pair, without gaps; of the average those whose mean is the average."""
        return {pair: kept for pairs in self._groups.values() for pair, kept in pairs.items()}

    @cached_property
    def _groups(self) -> dict[tuple[Role, str, str], dict[Pair, list[Array]]]:
        """The pairs by role, column and task."""
        groups: dict[tuple[Role, str, str], dict[Pair, list[Array]]] = {}
        for role in ROLES:
            columns = self.results.columns(role)
            scores = self.results.item_scores(self.results.rows, columns, role)
            for place, column in enumerate(columns):
                alone = {name: [arrays[place]] for name, arrays in scores.items()}
                groups[role, column.name, ""] = dict(self._differences(alone, role, column, ""))
            if not self._only_column(role):
                groups[role, "", ""] = dict(self._differences(scores, role, AVERAGE, ""))
        for task in self._single_tasks() if len(self._tasks) > 1 else ():
            scores = self.results.item_scores(self._methods, self.results.columns("general"), "general", task)
            groups["general", "", task] = dict(self._differences(scores, "general", AVERAGE, task))
        return groups

    @property
    def _methods(self) -> list[TableRow]:
        """The rows that advice may speak of: no ablations."""
        return [row for row in self.results.rows if not row.ablates]

    @cached_property
    def _tasks(self) -> list[str]:
        """The tasks that rows are trained on; where there is one, after it is after all."""
        return list(self.results.tasks)

    def _single_tasks(self) -> Iterator[str]:
        """The tasks after which advice asks what is forgotten: those that stand for a column alone."""
        yield from dict.fromkeys(one.tasks[0] for one in self.results.columns("ability") if len(one.tasks) == 1)

    def _differences(
        self, scores: Mapping[str, Sequence[Array]], role: Role, column: Column, task: str
    ) -> Iterator[tuple[Pair, list[Array]]]:
        """The pairs of comparable rows that share an item on every benchmark, and their differences."""
        if column.mixed or (column is AVERAGE and any(one.mixed for one in self.results.columns(role))):
            return
        rows = [row for row in self.results.rows if row.name in scores and self.results.covered(row, column, role)]
        for first, second in combinations(rows, 2):
            arrays = [a - b for a, b in zip(scores[first.name], scores[second.name], strict=True)]
            arrays = self.results.averaged(arrays, role) if column is AVERAGE else arrays
            kept = without_gaps(arrays, role == "general")
            if kept is not None:
                yield Pair(first.name, second.name, role, column.name, task), kept

    @cached_property
    def _components(self) -> dict[Pair, VarianceComponents]:
        """What errors are made of; variances between the runs of single columns are moderated."""
        found = {pair: variance_components(kept, pair.role == "general") for pair, kept in self._arrays.items()}
        for role in ROLES:
            chosen = [pair for pair in found if pair.role == role and pair.column]
            found |= zip(chosen, moderated([found[pair] for pair in chosen]), strict=True)
        return found

    @cached_property
    def _p_values(self) -> dict[Pair, float]:
        """Of "no difference"; graded scores of one run share their random signs."""
        values: dict[Pair, float] = {}
        for pairs in self._groups.values():
            drawn = [pair for pair, kept in pairs.items() if self._by_signs(pair, kept)]
            values |= {p: p_value_of(kept, self._components[p]) for p, kept in pairs.items() if p not in drawn}
            by_width: dict[int, list[Pair]] = {}
            columns = {pair: weighted([over_runs(array) for array in pairs[pair]]) for pair in drawn}
            for pair in drawn:
                by_width.setdefault(len(columns[pair]), []).append(pair)
            for chosen in by_width.values():
                values |= _flipped(chosen, columns)
        return values

    def _by_signs(self, pair: Pair, kept: Sequence[Array]) -> bool:
        return self._components[pair].runs == 1 and not is_binary(kept) and not is_constant(kept)

    def _same_p_values(self) -> dict[Hashable, float]:
        """Of "a difference of the margin or more"."""
        return {
            self._key(pair): same_within(self.margin, kept, self._components[pair])
            for pair, kept in self._arrays.items()
        }


def _flipped(pairs: Sequence[Pair], columns: Mapping[Pair, Array]) -> dict[Pair, float]:
    """The p-values of pairs over equally many items, by the same signs."""
    found = sign_flip(np.stack([columns[pair] for pair in pairs], axis=1))
    return dict(zip(pairs, map(float, found), strict=True))
