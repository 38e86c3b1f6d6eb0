"""Where scores vary: from one training run to the next, by the choice of items, and when a model is asked again.

A row's scores on a benchmark are runs × items, a two-way layout with random effects,

    y[r, i] = μ + a_r + b_i + e_ri,     Var y = σ_a² + σ_b² + σ_e²

and its mean squares give the components by the method of moments (Searle, Casella & McCulloch 1992, Section 4.3):

    σ_e² = MS_E,     σ_a² = (MS_R − MS_E) / N,     σ_b² = (MS_I − MS_E) / R,     none below 0

Where none is 0 these are REML's: statsmodels' MixedLM gives the same to three digits on three drawn layouts of 5 × 30.

Shown is what each does to the score of a cell with N items: σ_a between runs, ((σ_b² + σ_e²) / N)^½ for the choice of
items, and, for a cell that was asked T times, the standard deviation of its T scores.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esft_bench.reports.backbone_results import ROLES, BackboneResults, Column, Role
from esft_bench.reports.formatting import MISSING, number
from esft_bench.reports.statistics.detectable import Deviations, deviations_of
from esft_bench.reports.statistics.variance import variance_components, without_gaps
from esft_bench.reports.tables.view import Entry, Head, TableView
from esft_bench.spec.record import Record

Series = Mapping[tuple[str, str, int, str], list[Record]]
"""The records of a model that was asked several times, by method, task, seed and benchmark."""


@dataclass(frozen=True)
class Noise:
    """Standard deviations of a cell's score on a benchmark in points; None where nothing says it."""

    column: Column
    runs: float | None
    items: float
    decoding: float | None


def noise(results: BackboneResults) -> list[Noise]:
    """What makes scores vary, by benchmark; root mean squares over the trained rows."""
    repeated = repeats(results)
    found = []
    for role in ROLES:
        for column in results.columns(role):
            parts = list(_components(results, column, role))
            if parts:
                again = [_variance(series) for key, series in repeated.items() if key[3] == column.name]
                items = _root(((one.items**2 + one.residual**2) / count for one, count, _ in parts))
                runs = [one.runs**2 for one, _, many in parts if many > 1]
                found.append(Noise(column, _root(runs) if runs else None, items, _root(again) if again else None))
    return found


def noise_view(results: BackboneResults) -> TableView | None:
    """The table of what makes scores vary; None without a scored row."""
    found = noise(results)
    if not found:
        return None
    lines: dict[str, list[float | None]] = {
        "Another training run": [one.runs for one in found],
        "Another choice of items": [*(one.items for one in found)],
        "The same model asked again": [one.decoding for one in found],
    }
    caption = (
        "Standard deviation in points of one cell's score, mean square over the trained rows: by chance in training "
        "(general benchmarks: task and seed), in which items are asked, and in decoding the same items again."
    )
    rows = [(name, [_entry(value) for value in values]) for name, values in lines.items() if _known(values)]
    return TableView("Where scores vary", caption, [Head(one.column.title) for one in found], rows, first="Source")


def repeats(results: BackboneResults) -> Series:
    """The scores of each model that was asked several times, the first among them."""
    series: dict[tuple[str, str, int, str], list[Record]] = {}
    for record in results.records:
        if record.role == "repeat" and record.value is not None:
            series.setdefault((record.method, record.task, record.seed, record.benchmark), []).append(record)
    for record in results.records:
        key = (record.method, record.task, record.seed, record.benchmark)
        if key in series and record.role != "repeat" and record.value is not None:
            series[key].append(record)
    return {key: records for key, records in series.items() if len(records) > 1}


def decoding_remark(results: BackboneResults) -> str:
    """How much asking the same model again changes; empty where none was."""
    found = repeats(results)
    if not found:
        return ""
    times = max(len(records) for records in found.values())
    cells = len({key[:3] for key in found})
    widest = max(max(_values(records)) - min(_values(records)) for records in found.values())
    deviation = _root(_variance(records) for records in found.values())
    changed, total = map(sum, zip(*(_changed(results, records) for records in found.values()), strict=True))
    return (
        f"Repeat noise: {cells} cell{'s' if cells > 1 else ''} asked {times} times; {changed} of {total} answers did "
        f"not score the same each time, the scores of a benchmark differ by up to {number(widest)} points, standard "
        f"deviation {number(deviation, digits=2)}."
    )


def _changed(results: BackboneResults, records: Sequence[Record]) -> tuple[int, int]:
    """How many items did not get the same score each time, of how many."""
    scores = [results.scores_of(record) for record in records]
    shared = set.intersection(*(set(one) for one in scores))
    return sum(len({one[key] for one in scores}) > 1 for key in shared), len(shared)


def _components(results: BackboneResults, column: Column, role: Role) -> Iterator[tuple[Deviations, int, int]]:
    """The components of each trained row's scores, with its numbers of items and runs."""
    for row in results.rows:
        if results.is_base(row) or not results.covered(row, column, role):
            continue
        kept = without_gaps(results.item_scores([row], [column], role)[row.name], False)
        if kept is not None:
            one = variance_components(kept, False)
            yield deviations_of(one), one.items, one.runs


def _values(records: Iterable[Record]) -> list[float]:
    return [record.value for record in records if record.value is not None]


def _variance(records: Iterable[Record]) -> float:
    return float(np.var(_values(records), ddof=1))


def _root(squares: Iterable[float]) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(list(squares))))


def _known(values: Sequence[float | None]) -> bool:
    """Whether anything is known of a source."""
    return any(value is not None for value in values)


def _entry(value: float | None) -> Entry:
    return Entry(MISSING) if value is None else Entry(number(value), sort=value)
