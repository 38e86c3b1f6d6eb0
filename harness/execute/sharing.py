"""Work for one model, shared out among several engines that have nothing else to do."""

from collections.abc import Sequence

from esft_bench.harness.steps.step import Job, Step

Work = list[tuple[Step, Job]]
"""Steps, each with its job."""


def shares(work: Sequence[tuple[Step, Job]], count: int) -> list[Work]:
    """Work in `count` parts, or as many as there are steps: the longest first, each to the part with least to do."""
    weighed = sorted(((step.weight(job), (step, job)) for step, job in work), key=lambda each: -each[0])
    parts: list[tuple[float, Work]] = [(0.0, []) for _ in range(min(count, len(weighed)))]
    for weight, each in weighed:
        place = min(range(len(parts)), key=lambda number: (parts[number][0], len(parts[number][1])))
        parts[place] = parts[place][0] + weight, [*parts[place][1], each]
    return [part for _, part in parts]
