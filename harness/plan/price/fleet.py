"""What training takes on several cards: how many a cell needs, and when all of it is done."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from esft_bench.harness.plan.price.estimate import TrainingPrice, TuningPrice
from esft_bench.harness.plan.price.hardware import GIB, MARGIN, Accelerator
from esft_bench.harness.plan.price.makespan import Work, makespan

HOUR = 3600.0


@dataclass(frozen=True)
class Fleet:
    """So many cards of one kind, and the dollars that an hour of one costs, where given."""

    device: Accelerator
    count: int
    hourly: float | None = None


def cards_for(price: TrainingPrice, device: Accelerator) -> int | None:
    """The cards, a power of two, that one cell of a row needs; None where no number of them will do.

    Sharded over cards (FSDP2) are parameters, gradients and optimizer states; each card has all that a micro-batch
    leaves behind.
    """
    room = MARGIN * device.memory - (price.peak_bytes - price.state_bytes)
    if room <= 0:
        return None
    cards = 1
    while price.state_bytes > cards * room:
        cards *= 2
    return cards


def fleet_table(fleet: Fleet, trainings: Sequence[TrainingPrice], tunings: Sequence[TuningPrice]) -> Table:
    """Cards, hours and dollars of each row, and when all rows are done where they share the cards."""
    device = fleet.device
    table = Table(title=f"Training on {fleet.count} × {device.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("method")
    for name in ("cells", "cards a cell", "time a cell", "GPU hours", "done after", "dollars"):
        table.add_column(name, justify="right")
    placed = []
    for price in trainings:
        cards = cards_for(price, device)
        if price.why_not or cards is None or cards > fleet.count:
            table.add_row(price.row, str(price.cells), _refusal(price, cards, device))
            continue
        own = [each for each in tunings if each.row == price.row]
        placed.append((price, cards, own))
        alone = list(_work([(price, cards, own)]))
        table.add_row(price.row, str(price.cells), str(cards), _hours(price.seconds / cards), *_told(alone, fleet))
    table.add_section()
    together = list(_work(placed))
    cells = sum(price.cells for price, _, _ in placed)
    table.add_row("all", str(cells), "", "", *_told(together, fleet))
    table.caption = (
        "GPU hours: the sum, on however many cards. Done after: with as many cells side by side as the cards hold, "
        "the longest first; a row's searches come before its cells. A cell on several cards takes its part of the time."
        " Testing is not in it: no run has shown what it takes."
    )
    table.caption_justify = "left"
    return table


Placed = tuple[TrainingPrice, int, Sequence[TuningPrice]]
"""A row's price, the cards of a cell, and its searches."""


def _work(rows: Iterable[Placed]) -> Iterator[Work]:
    """Rows as work: the trials of each search side by side, at most as long as whole ones; then the cells."""
    begin = 0
    for price, cards, tunings in rows:
        trials = [each.seconds or 0.0 for each in tunings for _ in range(each.searches * each.trials)]
        lengths = [seconds / len(trials) / cards for seconds in trials]
        yield from (Work(seconds, cards) for seconds in lengths)
        searched = tuple(range(begin, begin + len(trials)))
        yield from (Work(price.seconds / cards, cards, searched) for _ in range(price.cells))
        begin += len(trials) + price.cells


def _told(work: Sequence[Work], fleet: Fleet) -> tuple[str, str, str]:
    """GPU hours, hours until it is done, and dollars."""
    seconds = sum(each.seconds * each.cards for each in work)
    dollars = "–" if fleet.hourly is None else f"${seconds / HOUR * fleet.hourly:,.2f}"
    return _hours(seconds), _hours(makespan(work, fleet.count)), dollars


def _refusal(price: TrainingPrice, cards: int | None, device: Accelerator) -> str:
    if price.why_not:
        return f"no estimate: {price.why_not}"
    if cards is None:
        return f"what a micro-batch leaves does not fit {device.memory / GIB:.0f} GiB: a smaller --micro-batch"
    return f"needs {cards} cards"


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.1f} h" if seconds >= 1.5 * HOUR else f"{seconds / 60:,.1f} min"
