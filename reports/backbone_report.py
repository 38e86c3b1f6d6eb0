"""What is to be said of one backbone: its tables, what they say in words, and samples of answers."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from esft_bench.reports import calibration
from esft_bench.reports.backbone_results import BackboneResults, Role, TableRow
from esft_bench.reports.calibration import Calibration
from esft_bench.reports.comparisons import Comparisons, Families
from esft_bench.reports.formatting import Sentence
from esft_bench.reports.prose.advice import Advice, advise
from esft_bench.reports.prose.equal_gain import no_reading
from esft_bench.reports.prose.hour import one_more_hour
from esft_bench.reports.prose.summary import compared, summary
from esft_bench.reports.prose.task_advice import TaskAdvice
from esft_bench.reports.samples import Sample, choose
from esft_bench.reports.statistics.paired import PairedDifference
from esft_bench.reports.statistics.resampling import Interval
from esft_bench.reports.tables.ablation import ablation_table
from esft_bench.reports.tables.costs import efficiency_table, judging_table
from esft_bench.reports.tables.equal_gain import EqualGain
from esft_bench.reports.tables.given import given_view
from esft_bench.reports.tables.glance import glance
from esft_bench.reports.tables.judged import agreement_note, debiased_view
from esft_bench.reports.tables.noise import decoding_remark, noise_view
from esft_bench.reports.tables.paper import BesideTable, beside, judged, p_values
from esft_bench.reports.tables.published_values import Kind
from esft_bench.reports.tables.retention import retention_table
from esft_bench.reports.tables.scores import ability_table, drift_table, general_table, table_of
from esft_bench.reports.tables.table import Table, TableCell
from esft_bench.reports.tables.tuning import tuning_view
from esft_bench.reports.tables.view import (
    Entry,
    TableView,
    beside_view,
    cost_entry,
    difference_entry,
    glance_view,
    reading_entry,
    score_entry,
    view,
)
from esft_bench.spec.routing import read as read_routing
from esft_bench.spec.trials import TrialRecord
from esft_bench.spec.trials import read as read_trials


@dataclass(frozen=True)
class BackboneReport:
    """What is to be said of one backbone; `suffix` names it in titles where there are several.

    All that is compared is judged among the comparisons of the whole report, its `families`.
    """

    backbone: str
    results: BackboneResults
    suffix: str = ""
    families: Families = field(default_factory=Families)
    comparisons: Comparisons = field(init=False)
    equal_gain: EqualGain = field(init=False)
    """Each row's curve of gain against forgetting, read where they are equal."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "comparisons", Comparisons(self.results, self.families, self.backbone))
        object.__setattr__(self, "equal_gain", EqualGain(self.results, self.families.differences, self.backbone))
        self.families.differences.join(lambda: p_values(self._unjudged, self.backbone))

    @cached_property
    def ability(self) -> Table:
        """Table 1."""
        return replace(ability_table(self.comparisons), remark=decoding_remark(self.results))

    @cached_property
    def general(self) -> Table:
        """Table 2."""
        return general_table(self.comparisons)

    @cached_property
    def ablation(self) -> Table:
        """Table 3."""
        return ablation_table(self.comparisons)

    @cached_property
    def efficiency(self) -> Table:
        """What training costs."""
        return efficiency_table(self.results)

    @cached_property
    def further(self) -> list[Table]:
        """The tables of some rows that the suite asks for, under its titles, and what earlier tasks retained."""
        asked = [table_of(self.comparisons, one) for one in self.results.suite.tables]
        return [*asked, *([self.retained] if self.retained else [])]

    @cached_property
    def retained(self) -> Table | None:
        """What earlier tasks retained, where rows go on from others."""
        return retention_table(self.results)

    @cached_property
    def drift(self) -> Table:
        """How far rows have moved, in bits."""
        return drift_table(self.results)

    @cached_property
    def beside(self) -> list[BesideTable]:
        """A paper's values beside ours, where the suite is that paper's."""
        return judged(self._unjudged, self.families.differences, self.backbone)

    @cached_property
    def _unjudged(self) -> list[BesideTable]:
        """The same before the report's comparisons are judged together, which they are part of."""
        paper = self.results.suite.paper
        if not paper:
            return []
        tables: dict[Kind, Table] = {
            "ability": ability_table(self.comparisons, marked=False),
            "general": general_table(self.comparisons, marked=False),
            "ablation": ablation_table(self.comparisons, marked=False),
            "costs": self.efficiency,
        }
        if self.retained:
            tables["retained"] = self.retained
        return beside(paper, self.results, tables, self.backbone)

    @cached_property
    def advice(self) -> Advice:
        """Which method to take, task by task and in sum."""
        return advise(self.comparisons, self.ability, self.general, self.equal_gain)

    @cached_property
    def hour(self) -> Sentence | None:
        """What one more hour would buy."""
        return one_more_hour(self.comparisons, self.ability)

    @property
    def advised(self) -> list[TaskAdvice]:
        """The advice over all tasks, where there is one, then task by task."""
        return [one for one in (self.advice.overall, *self.advice.tasks) if one is not None]

    @cached_property
    def base(self) -> TableRow | None:
        """The row that is not trained."""
        return next((row for row in self.results.rows if self.results.is_base(row)), None)

    def table(self, role: Role) -> Table:
        """The table of a role."""
        return self.ability if role == "ability" else self.general

    def average(self, row: TableRow, role: Role) -> Interval | None:
        """A row's average with its 95% interval; None where a column is missing or short of coverage.

        The interval is over items and runs for task ability, over training runs for general ability, as in the tables.
        """
        cell = self.table(role).average(row)
        if cell.value is None or not cell.comparable:
            return None
        if cell.low is not None and cell.high is not None:
            return Interval(cell.value, cell.low, cell.high)
        found = self.results.own_interval(row, role)
        low, high = (found.low, found.high) if found else (cell.value, cell.value)
        return Interval(cell.value, low, high)

    def gain(self, row: TableRow, role: Role) -> PairedDifference | None:
        """A row minus the base model, averaged over the columns and paired; None where either has no average."""
        table = self.table(role)
        if self.base is None or not all(table.average(one).comparable for one in (row, self.base)):
            return None
        return self.comparisons.between(row, self.base, role)

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """What was tried before the cells were trained, where rows were tuned."""
        return [trial for trial in read_trials(self.results.folder) if trial.backbone == self.backbone]

    @cached_property
    def samples(self) -> list[Sample]:
        """Items that say most, with every row's answer."""
        return choose(self.results)

    @cached_property
    def in_short(self) -> list[str]:
        """The tables in plain words."""
        return summary(self.comparisons, self.ability, self.general, self.ablation)

    @property
    def compared(self) -> str:
        """One paragraph: suite, rows, tasks, seeds, items, engine, judges."""
        return compared(self.results, self.backbone)

    def glance_view(self) -> TableView:
        """All rows at a glance."""
        seen = glance(self.comparisons, self.ability, self.general, self.efficiency)
        return glance_view(seen).titled(self.suffix)

    def score_views(self) -> list[TableView]:
        """Tables 1 to 3, drift, further ones, what tuning found, and given selections; empty ones are left out."""
        shown: list[tuple[Table, Callable[[TableCell], Entry]]] = [
            (self.ability, score_entry),
            (self.general, score_entry),
            (self.ablation, difference_entry),
        ]
        shown += [(self.drift, reading_entry(3)), *((table, score_entry) for table in self.further)]
        views = [
            replace(seen, notes=[*seen.notes, *agreement_note(table, self.calibrations)])
            for table, write in shown
            if table.rows and table.columns
            for seen in [view(table, write)]
        ]
        extra = [
            noise_view(self.results),
            tuning_view(self.results, self.trials),
            given_view(read_routing(self.results.folder)),
        ]
        return [one.titled(self.suffix) for one in [*views, *(table for table in extra if table)]]

    @cached_property
    def calibrations(self) -> list[Calibration]:
        """What is known of the judge beside the paper's."""
        return calibration.entries(self.results.folder)

    def debiased_view(self) -> TableView | None:
        """Judged columns on the scale of the paper's judge, where it is known how far ours is from that."""
        found = debiased_view(self.results, self.calibrations)
        return found.titled(self.suffix) if found else None

    def curve_views(self) -> list[TableView]:
        """The curves read at equal gain and at equal forgetting, as they are shown."""
        return [view(one.table, reading_entry(one.digits)).titled(self.suffix) for one in self.equal_gain.tables]

    @property
    def without_curves(self) -> str:
        """Why nothing is read at equal gain, and what would be needed; empty where curves are read."""
        return "" if self.equal_gain.tables else no_reading(self.equal_gain)

    def beside_views(self) -> list[TableView]:
        """The paper's values beside ours, as they are shown."""
        return [beside_view(table).titled(self.suffix) for table in self.beside]

    def cost_views(self) -> list[TableView]:
        """What training and, where a model judged, judging cost, as it is shown."""
        tables = [self.efficiency, judging_table(self.results)]
        return [view(table, cost_entry).titled(self.suffix) for table in tables if table is not None]
