"""What one more hour would buy: further seeds or items, by what this run's own cells took, and "
"how much they would tell."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from esft_bench.reports.backbone_results import AVERAGE, TableRow
from esft_bench.reports.comparisons import Comparisons
from esft_bench.reports.formatting import Sentence, amount, number, quantity
from esft_bench.reports.statistics.variance import VarianceComponents
from esft_bench.reports.tables.table import Table
from esft_bench.spec.record import Record

HOUR = 3600.0
LEAD = "One more hour"
TAIL = 0.025


@dataclass(frozen=True)
class Spent:
    """What cells took, in seconds, all added up; `testing` is 0 where it was not measured."""

    training: float
    testing: float
    seeds: int

    @property
    def of_a_seed(self) -> float:
        """One more seed of every trained row."""
        return (self.training + self.testing) / self.seeds


def one_more_hour(comparisons: Comparisons, ability: Table) -> Sentence | None:
    """How many seeds, or how many times the items, an hour buys, and what becomes of the decisive interval.

    Decisive is the comparison of the two highest averages that are not told apart; where all are, of the two highest.
    None before two rows have an average, or where nothing says what cells took.
    """
    spent, pair = spent_by(comparisons.results.records), _decisive(comparisons, ability)
    if spent is None or pair is None:
        return None
    components = comparisons.components(*pair, "ability", AVERAGE)
    if components is None:
        return None
    told = [f"At what this run's cells took, {_seeds(spent)}", *_narrower(components, pair, spent)]
    return Sentence(" ".join(told), LEAD)


def spent_by(records: Iterable[Record]) -> Spent | None:
    """What all trained cells took; None where no training was measured."""
    seconds = {"train_seconds": 0.0, "test_seconds": 0.0}
    seeds = set()
    for record in records:
        if record.metric in seconds and record.role == "cost" and record.task and record.value is not None:
            seconds[record.metric] += record.value
            seeds.add(record.seed)
    return Spent(seconds["train_seconds"], seconds["test_seconds"], len(seeds)) if seconds["train_seconds"] else None


def _decisive(comparisons: Comparisons, table: Table) -> tuple[TableRow, TableRow] | None:
    """The two rows on whose difference most hangs, the higher one first."""
    rows = [row for row in table.rows if not comparisons.results.is_base(row) and not row.ablates]
    rows = [row for row in rows if table.average(row).comparable]
    rows.sort(key=lambda row: (-(table.average(row).value or 0.0), row.name))
    pairs = list(combinations(rows, 2))
    undecided = [pair for pair in pairs if not comparisons.differ(*pair, "ability")]
    return next(iter(undecided or pairs), None)


def _seeds(spent: Spent) -> str:
    """How many seeds an hour buys, and what a seed takes."""
    count = int(HOUR // spent.of_a_seed)
    whole = "" if spent.testing else ", testing not counted"
    takes = f"{quantity('train_seconds', spent.of_a_seed)} for a seed of every row{whole}"
    if count:
        return f"it buys {count} more seed{'s' if count > 1 else ''} ({takes})."
    return f"it does not buy a whole seed ({takes})."


def _narrower(components: VarianceComponents, pair: tuple[TableRow, TableRow], spent: Spent) -> Iterator[str]:
    """What becomes of the decisive interval; nothing can be said of seeds where there was one."""
    name = f"{pair[0].title} − {pair[1].title} on average"
    count = max(int(HOUR // spent.of_a_seed), 1)
    now = components.error.quantile(TAIL)
    if components.runs == 1:
        yield (
            f"{name} is ±{number(now)} points between two single trainings; with more seeds it would be between the "
            "methods, how narrow is not known from one."
        )
    else:
        seeds = components.changed(runs=1 + count / components.runs).error.quantile(TAIL)
        yield f"The interval of {name}, ±{number(now)} points, would be about ±{number(seeds)} with {count} more."
    if spent.testing:
        times = 1 + HOUR / spent.testing
        items = components.changed(items=times).error.quantile(TAIL)
        yield f"Spent on testing alone, {amount(times)} times the items: about ±{number(items)}."
