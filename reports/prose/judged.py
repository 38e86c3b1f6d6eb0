"""How far a judge's scores can be trusted, in words: its second judge, its probes, and the judge of the paper."""

from collections.abc import Iterator, Mapping, Sequence

from esft_bench.reports.formatting import bounds, number
from esft_bench.reports.statistics.agreement import agreement
from esft_bench.reports.statistics.paired import mean_interval
from esft_bench.reports.statistics.resampling import Interval
from esft_bench.spec.opinions import Kind, Opinions

CHANGED: Mapping[Kind, str] = {
    "order": "shown the answer before the reference",
    "verbosity": "shown the answer twice over, which says nothing more",
}


def opinions_in_words(found: Sequence[Opinions]) -> list[str]:
    """A sentence for each judged benchmark and kind of further opinion, over all rows' answers."""
    by_kind: dict[tuple[str, Kind, str], list[Opinions]] = {}
    for one in found:
        by_kind.setdefault((one.benchmark, one.kind, one.judge), []).append(one)
    return [sentence for group in by_kind.values() for sentence in _said(group)]


def _said(group: Sequence[Opinions]) -> Iterator[str]:
    """What one kind of opinion about one benchmark comes to."""
    pairs = [(shown, further) for one in group for _, shown, further in one.scores]
    asked, first = sum(one.asked for one in group), group[0]
    if not pairs:
        yield f"{first.benchmark_title}: {first.judge} was asked about {asked} answers and scored none of them."
        return
    missing = f" ({asked - len(pairs)} more without a score)" if asked > len(pairs) else ""
    if first.kind == "second":
        seen = agreement([(further, shown) for shown, further in pairs])
        agreed = (
            "the two never vary, so that no coefficient is defined"
            if seen.alpha is None
            else f"Krippendorff alpha {number(seen.alpha, digits=2)}"
            + ("" if seen.spearman is None else f", Spearman {number(seen.spearman, digits=2)}")
        )
        yield (
            f"{first.benchmark_title}: {first.judge} and {first.beside} on {len(pairs)} answers{missing}: {agreed}, "
            f"mean difference {number(seen.difference, signed=True)} points, mean absolute difference "
            f"{number(seen.absolute)}."
        )
        return
    change = change_by_item(group)
    moved = sum(further != shown for shown, further in pairs)
    yield (
        f"{first.benchmark_title}: {first.judge}, {CHANGED[first.kind]}, gives {moved} of {len(pairs)} answers another "
        f"score{missing}: {number(change.estimate, signed=True)} points on average"
        + (f" {bounds(change.low, change.high)}." if change.low == change.low else ".")
    )


def change_by_item(group: Sequence[Opinions]) -> Interval:
    """Mean of the further score minus the one shown, with its t-interval over items; an item's answers are averaged."""
    by_item: dict[str, list[float]] = {}
    for one in group:
        for name, shown, further in one.scores:
            by_item.setdefault(name, []).append(further - shown)
    return mean_interval([sum(values) / len(values) for values in by_item.values()])
