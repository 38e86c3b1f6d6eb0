"""What training takes on several cards: how many a cell needs, and when all of it is done."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from esft_bench.harness.plan.price.estimate import TrainingPrice, TuningPrice
from esft_bench.harness.plan.price.hardware import Accelerator
from esft_bench.harness.plan.price.makespan import Work, makespan
from esft_bench.harness.plan.price.sharded import COUNTS, NODE, Sharing

HOUR = 3600.0


@dataclass(frozen=True)
class Fleet:
    """So many cards of one kind, and the dollars that an hour of one costs, where given."""

    device: Accelerator
    count: int
    hourly: float | None = None


def fleet_table(
    fleet: Fleet, trainings: Sequence[TrainingPrice], tunings: Sequence[TuningPrice], shared: Sequence[Sharing] = ()
) -> Table:
    """Cards, hours and dollars of each row, and when all rows are done where they share the cards.

    Rows that one card does not hold are in `shared`.
    """
    device = fleet.device
    table = Table(title=f"Training on {fleet.count} × {device.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("method")
    for name in ("cells", "cards a cell", "time a cell", "GPU hours", "done after", "dollars"):
        table.add_column(name, justify="right")
    placed = []
    several = {each.row: each for each in shared}
    for price in trainings:
        each = several.get(price.row, Sharing(price.row, 1, price.peak_bytes, price.seconds))
        if price.why_not or not 1 <= each.devices <= fleet.count:
            table.add_row(price.row, str(price.cells), _refusal(price, each.devices))
            continue
        own = [search for search in tunings if search.row == price.row]
        placed.append((price, each, own))
        alone = list(_work(placed[-1:]))
        cards, hours = _cards(each.devices), _hours(each.seconds)
        table.add_row(price.row, str(price.cells), cards, hours, *_told(alone, fleet))
    table.add_section()
    together = list(_work(placed))
    cells = sum(price.cells for price, _, _ in placed)
    table.add_row("all", str(cells), "", "", *_told(together, fleet))
    table.caption = (
        "GPU hours: the sum, on however many cards. Done after: with as many cells side by side as the cards hold, "
        "the longest first; a row's searches come before its cells. Testing is not in it: no run has "
        "shown what it takes."
    )
    if any(each.devices > NODE for _, each, _ in placed):
        table.caption += (
            f" Nodes are taken to have {NODE} cards. Shards of a model are taken to come from others beside the work; "
            "tokens that go to experts elsewhere are waited for."
        )
    table.caption_justify = "left"
    return table


Placed = tuple[TrainingPrice, Sharing, Sequence[TuningPrice]]
"""A row's price, the cards that a cell takes and for how long, and its searches."""


def _work(rows: Iterable[Placed]) -> Iterator[Work]:
    """Rows as work: the trials of each search side by side, at most as long as whole ones; then the cells."""
    begin = 0
    for price, each, tunings in rows:
        cards = each.devices
        trials = [one.seconds or 0.0 for one in tunings for _ in range(one.searches * one.trials)]
        lengths = [seconds / len(trials) / cards for seconds in trials]
        yield from (Work(seconds, cards) for seconds in lengths)
        searched = tuple(range(begin, begin + len(trials)))
        yield from (Work(each.seconds, cards, searched) for _ in range(price.cells))
        begin += len(trials) + price.cells


def _told(work: Sequence[Work], fleet: Fleet) -> tuple[str, str, str]:
    """GPU hours, hours until it is done, and dollars."""
    seconds = sum(each.seconds * each.cards for each in work)
    dollars = "–" if fleet.hourly is None else f"${seconds / HOUR * fleet.hourly:,.2f}"
    return _hours(seconds), _hours(makespan(work, fleet.count)), dollars


def _cards(count: int) -> str:
    """How many cards a cell takes, and of how many nodes."""
    return f"{count} of {-(-count // NODE)} nodes" if count > NODE else str(count)


def _refusal(price: TrainingPrice, cards: int) -> str:
    if price.why_not:
        return f"no estimate: {price.why_not}"
    return f"needs {cards} cards" if cards else f"more than {COUNTS[-1]} cards do not hold it: a smaller --micro-batch"


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.1f} h" if seconds >= 1.5 * HOUR else f"{seconds / 60:,.1f} min"
