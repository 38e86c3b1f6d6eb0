"""What is said below a table: who judged, by which metric, and what its items and runs cannot tell apart."""

from collections.abc import Iterator, Mapping

from esft_bench.reports.formatting import JUDGED, REFERENCE, listing, number
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
    """How many pairs of rows can't be distinguished, by column."""
    total, alike = (sum(pair[k] for pair in table.pairs.values()) for k in range(2))
    if not total:
        return ""
    if not alike:
        return f"All {total} pairs of rows are significantly different."
    columns = "; ".join(f"{titles[name]} {pair[1]} of {pair[0]}" for name, pair in table.pairs.items() if pair[1])
    return f"{alike} of {total} pairs of rows are not distinguishable ({columns})."


def _open_differences(table: Table, titles: Mapping[str, str]) -> str:
    """Which differences of a table are not significant."""
    names = {row.name: row.title for row in table.rows}
    lost = [key for key in table.differences if table.cells[key].mark != "significant"]
    if not lost:
        return f"All {len(table.differences)} differences are significant."
    cells = "; ".join(f"{names[row]} on {titles[column]}" for row, column in lost)
    return f"{len(lost)} of {len(table.differences)} differences are not significant: {cells}."
