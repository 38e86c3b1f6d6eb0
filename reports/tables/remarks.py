"""What is said below a table: who judged, by which metric, and what its items and runs cannot tell apart."""

from collections.abc import Iterator, Mapping, Sequence

from esft_bench.reports.formatting import JUDGED, ONE_TRAINING, REFERENCE, listing, number, points
from esft_bench.reports.tables.table import Table


def footnotes(table: Table) -> Iterator[str]:
    """What the judge marks and the metrics of the columns mean."""
    references = sorted({column.judge for column in table.columns if column.by_reference})
    others = sorted({column.judge for column in table.columns if column.judge and not column.by_reference})
    if references:
        what = (
            "closeness to a reference answer by a formula; nobody, neither a person nor a model, judged these answers"
        )
        yield f"{REFERENCE} {listing(references)}: {what}."
    if others:
        yield f"{JUDGED} judged by {listing(others)}, a model."
    for column in table.columns:
        if column.mixed:
            yield f"{column.title}: rows were judged by different judges, so they are not compared."
    metrics: dict[str, list[str]] = {}
    for column in table.columns:
        if column.metric and not column.judge and column.name != column.metric:
            metrics.setdefault(column.metric, []).append(column.title)
    if metrics:
        yield "Metrics: " + "; ".join(f"{metric} ({', '.join(names)})" for metric, names in metrics.items()) + "."


def undecided(table: Table) -> str:
    """What a table's items and runs can't tell apart, and how small a difference they could; empty without pairs."""
    titles = {column.name: column.title for column in table.columns}
    told = _open_differences(table, titles) if table.differences else _open_pairs(table, titles)
    known = {name: effect for name, effect in table.detectable.items() if effect == effect}
    if not told or not known:
        return told
    least, most = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    span = f"runs from {number(known[least])} points ({titles[least]}) to {number(known[most])} ({titles[most]})"
    span = span if least != most else f"is {number(known[least])} points"
    return f"{told} The minimum detectable effect {span}: found with 80% probability where it truly exists."


def _open_pairs(table: Table, titles: Mapping[str, str]) -> str:
    """How many pairs of rows can't be distinguished, how many of these are the same, by column."""
    found = table.outcomes
    total = sum(one.pairs for one in found.values())
    if not total:
        return ""
    alike = {name: (one.pairs - one.differ, one.pairs) for name, one in found.items() if one.differ < one.pairs}
    told = f"All {total} pairs of rows are significantly different."
    if alike:
        columns = "; ".join(f"{titles[name]} {few} of {pairs}" for name, (few, pairs) in alike.items())
        told = f"{sum(few for few, _ in alike.values())} of {total} pairs of rows are not distinguishable ({columns})."
    same = {titles[name]: one.same for name, one in found.items() if one.same}
    if same:
        columns = "; ".join(f"{title} {count}" for title, count in same.items())
        told += f" Shown to be the same within {points(table.margin)}: {sum(same.values())} of them ({columns})."
    elif alike and table.margin:
        told += f" None is shown to be the same within {points(table.margin)}."
    return f"{told} {_single([one.runs for one in found.values()])}".rstrip()


def _single(runs: Sequence[int]) -> str:
    """What has to be said where single trainings were compared."""
    return f"Told apart here means: {ONE_TRAINING}." if min(runs, default=2) == 1 else ""


def _open_differences(table: Table, titles: Mapping[str, str]) -> str:
    """Which differences of a table are not significant, and which of them are shown to be none."""
    names = {row.name: row.title for row in table.rows}
    told = []
    total = len(table.differences)
    lost = [key for key in table.differences if table.cells[key].mark != "significant"]
    if lost:
        cells = "; ".join(f"{names[row]} on {titles[column]}" for row, column in lost)
        told.append(f"{len(lost)} of {total} differences are not significant: {cells}.")
    else:
        told.append(f"All {total} differences are significant.")
    same = [key for key in lost if table.cells[key].mark == "same"]
    if same:
        cells = "; ".join(f"{names[row]} on {titles[column]}" for row, column in same)
        told.append(f"Shown to be the same within {points(table.margin)}: {cells}.")
    told.append(_single([one.runs for one in table.differences.values()]))
    return " ".join(told).rstrip()
