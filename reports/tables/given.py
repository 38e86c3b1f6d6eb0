"""Selections of experts that rows were given, beside what their scores choose from the profiles of this run."""

from collections.abc import Sequence

from esft_bench.reports.tables.view import Entry, Head, TableView
from esft_bench.spec.routing import GivenSelection, Routing

CAPTION = (
    "Experts of all layers together, and in brackets the fewest and the most of a layer. As many by score: how many of "
    "the given experts are among as many of each layer with the highest scores here; by chance: how many a random draw "
    "of as many would meet."
)
COLUMNS = ("Given", "Chosen here", "In both", "Of the given, chosen", "As many by score", "By chance")


def given_view(routing: Routing | None) -> TableView | None:
    """A line for each row and task; None where no row was given a selection, or no task was profiled yet."""
    if routing is None or not routing.given:
        return None
    titles = routing.titles()
    rows = [
        (f"{one.method_title}, {titles.get(one.task, one.task)}", _entries(one, routing.num_experts))
        for one in routing.given
    ]
    heads = [Head(title) for title in COLUMNS]
    return TableView("Given selections beside the choice here", CAPTION, heads, rows, first="Row, task")


def _entries(one: GivenSelection, experts: int) -> list[Entry]:
    given = sum(one.given)
    chance = sum(count * count for count in one.given) / experts
    return [
        _count(one.given),
        _count(one.chosen),
        _count(one.both),
        _share(sum(one.both), given),
        _share(sum(one.as_many), given),
        _share(chance, given),
    ]


def _count(by_layer: Sequence[int]) -> Entry:
    return Entry(str(sum(by_layer)), f"({min(by_layer)} to {max(by_layer)})", sum(by_layer))


def _share(part: float, whole: int) -> Entry:
    """A part of the given experts, in per cent."""
    share = 100.0 * part / max(whole, 1)
    return Entry(f"{share:.0f}%", sort=share)
