"""What a whole run has cost, as far as its records say."""

from collections.abc import Iterable

from esft_bench.reports.formatting import amount, listing, number, quantity
from esft_bench.spec.record import Record


def spent(records: Iterable[Record], accelerators: list[str]) -> list[str]:
    """Sentences: time of all trained cells added up, on what; tokens and dollars of the judge where they were noted.

    Serving and testing are not in the records and not counted.
    """
    sums: dict[str, float] = {}
    cells = set()
    for record in records:
        if record.role == "cost" and record.value is not None:
            sums[record.metric] = sums.get(record.metric, 0.0) + record.value
            if record.metric == "train_seconds":
                cells.add((record.backbone, record.method, record.task, record.seed))
    told = []
    on = f" on {listing(accelerators)}" if accelerators else ""
    if cells:
        processor = sums.get("train_cpu_seconds")
        used = f", {quantity('train_cpu_seconds', processor)} of processor time" if processor else ""
        told.append(
            f"Training the {len(cells)} cells took {quantity('train_seconds', sums['train_seconds'])} in sum"
            f"{on}{used}; serving and testing are not counted."
        )
    tokens = [
        f"{number(sums[metric], digits=0)} tokens {what}"
        for metric, what in (("judge_tokens_in", "read"), ("judge_tokens_out", "written"))
        if sums.get(metric)
    ]
    if tokens:
        dollars = f", {amount(sums['judge_dollars'])} dollars" if "judge_dollars" in sums else ""
        told.append(f"The judge: {listing(tokens)}{dollars}.")
    return told
