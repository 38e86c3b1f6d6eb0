"""The numbers in plain words. Nothing here knows which method ought to win."""

from collections.abc import Sequence

from esft_bench.reports.paired import against
from esft_bench.reports.scores import Row, Scores
from esft_bench.reports.statistics import Comparison, holm
from esft_bench.reports.tables import ALPHA, Table
from esft_bench.reports.words import interval, line, listing, number


def summary(scores: Scores, ability: Table, general: Table, ablation: Table) -> list[str]:
    """Sentences about the three tables, each derived from paired differences of averages and their uncertainty."""
    return [
        *_task_ability(scores, ability),
        *_forgetting(scores, general),
        *_random_experts(ablation),
        *_caveats(scores, ability),
    ]


def resolution(table: Table) -> str:
    """What a table's items and runs can't tell apart, and how small a difference they could; empty without pairs."""
    titles = {column.name: line(column.title) for column in table.columns}
    told = _open_differences(table, titles) if table.comparisons else _open_pairs(table, titles)
    known = {name: delta for name, delta in table.resolvable.items() if delta == delta}
    if not told or not known:
        return told
    finest, coarsest = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    span = (
        f"runs from {number(known[finest])} points ({titles[finest]}) to {number(known[coarsest])} ({titles[coarsest]})"
    )
    span = span if finest != coarsest else f"is {number(known[finest])} points"
    return f"{told} The smallest resolvable difference {span}: found with 80% probability where it truly exists."


def _open_pairs(table: Table, titles: dict[str, str]) -> str:
    """How many pairs of rows are not told apart, by column."""
    total, unresolved = (sum(pair[k] for pair in table.pairs.values()) for k in range(2))
    if not total:
        return ""
    columns = "; ".join(f"{titles[name]} {pair[1]} of {pair[0]}" for name, pair in table.pairs.items() if pair[1])
    if not unresolved:
        return f"All {total} pairs of rows are resolved."
    return f"{unresolved} of {total} pairs of rows are not resolved ({columns})."


def _open_differences(table: Table, titles: dict[str, str]) -> str:
    """Which cells of Table 3, differences themselves, are not resolved."""
    names = {row.name: line(row.title) for row in table.rows}
    lost = [key for key in table.comparisons if table.cells[key].mark != "best"]
    if not lost:
        return f"All {len(table.comparisons)} differences are resolved."
    cells = "; ".join(f"{names[row]} on {titles[column]}" for row, column in lost)
    return f"{len(lost)} of {len(table.comparisons)} differences are not resolved: {cells}."


def _task_ability(scores: Scores, table: Table) -> list[str]:
    """Who has the highest average, who can't be told from it, who is behind."""
    ranked = [row for row in table.rows if table.cells.get((row.name, "")) and table.cells[row.name, ""].comparable]
    left = [line(row.title) for row in table.rows if row not in ranked]
    if not ranked:
        return ["Task ability: no row has every column yet, so there is no average to compare."] if table.rows else []
    ranked.sort(key=lambda row: -(table.cells[row.name, ""].value or 0.0))
    best, rest = ranked[0], ranked[1:]
    value = number(table.cells[best.name, ""].value or 0.0)
    lead = (
        f"{line(best.title)} has the highest average, {value}"
        if rest
        else f"only {line(best.title)} has an average yet, {value}"
    )
    sentences = [f"Task ability: {lead}."]
    same = [row for row in rest if table.cells[row.name, ""].mark == "best"]
    behind = [row for row in rest if table.cells[row.name, ""].mark != "best"]
    for rows, verb in ((same, "Not resolved"), (behind, "Lower, and resolved")):
        if rows:
            found = [against(scores, row, best, "ability") for row in rows]
            sentences.append(f"{verb}: {_list(rows, found)}.")
    if left:
        sentences.append(f"Without an average, and not compared: {listing(left)}.")
    return [" ".join(sentences)]


def _forgetting(scores: Scores, table: Table) -> list[str]:
    """Every trained row against the base model, in general ability."""
    base = next((row for row in table.rows if scores.is_base(row)), None)
    if not table.columns:
        return []
    if base is None or not table.cells[base.name, ""].comparable:
        return ["General ability: the base model has no average, so what was forgotten is not known."]
    rows = [row for row in table.rows if row is not base and table.cells[row.name, ""].comparable]
    found = [against(scores, row, base, "general") for row in rows]
    pairs = [(row, one) for row, one in zip(rows, found, strict=True) if one is not None]
    if not pairs:
        return ["General ability: no trained row has every column yet."]
    resolved = [p <= ALPHA for p in holm([one.p_value for _, one in pairs])]
    groups: dict[str, list[tuple[Row, Comparison]]] = {"Lower, and resolved": [], "Higher, and resolved": []}
    groups["Not resolved"] = []
    for pair, sure in zip(pairs, resolved, strict=True):
        verb = "Not resolved" if not sure else "Lower, and resolved" if pair[1].estimate < 0 else "Higher, and resolved"
        groups[verb].append(pair)
    told = [
        f"{verb}: {_list([row for row, _ in group], [one for _, one in group])}."
        for verb, group in groups.items()
        if group
    ]
    value = number(table.cells[base.name, ""].value or 0.0)
    return [f"General ability, against {line(base.title)} ({value} on average): {' '.join(told)}"]


def _random_experts(table: Table) -> list[str]:
    """For each ablation: does choosing experts matter, on average and on which tasks?"""
    sentences = []
    for row in table.rows:
        average = table.comparisons.get((row.name, ""))
        cells = {column.title: table.cells[row.name, column.name] for column in table.columns if column.name}
        known = {title: cell for title, cell in cells.items() if cell.value is not None}
        if not known:
            sentences.append(f"{line(row.title)}: nothing to compare yet.")
            continue
        worse = [line(title) for title, cell in known.items() if cell.mark == "best" and (cell.value or 0) < 0]
        better = [line(title) for title, cell in known.items() if cell.mark == "best" and (cell.value or 0) > 0]
        unsure = [line(title) for title, cell in known.items() if cell.mark != "best"]
        parts = [
            f"{text} {listing(names)}"
            for text, names in (
                ("lower with random experts on", worse),
                ("higher on", better),
                ("not resolved on", unsure),
            )
            if names
        ]
        on_average = ""
        if average:
            sure = table.cells[row.name, ""].mark == "best"
            spread = interval(average.estimate, average.low, average.high)
            on_average = f"{spread} on average{'' if sure else ' (not resolved)'}; "
        sentences.append(f"{line(row.title)}: {on_average}{'; '.join(parts)}.")
    return sentences


def _caveats(scores: Scores, ability: Table) -> list[str]:
    """What the numbers above can't know."""
    caveats = []
    if len(scores.seeds) == 1:
        caveats.append(
            "Each cell was trained once: on task ability, resolved means resolved between these trained models, not "
            "between the methods over many training runs."
        )
    by_reference = [line(column.title) for column in ability.columns if column.by_reference]
    if by_reference:
        caveats.append(
            f"{listing(by_reference)}: scored by closeness to a reference answer, not judged by a person or a model."
        )
    return caveats


def _list(rows: Sequence[Row], found: Sequence[Comparison | None]) -> str:
    """`LoRA −0.4 [−1.0, 0.2] and …`; without items there is no interval to print."""
    return listing(
        [
            f"{line(row.title)} {interval(one.estimate, one.low, one.high)}" if one else f"{line(row.title)} (no items)"
            for row, one in zip(rows, found, strict=True)
        ]
    )
