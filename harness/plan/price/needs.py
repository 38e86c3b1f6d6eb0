"""How many accelerators a row's training takes, by the estimate of its memory, on the cards at hand."""

from collections.abc import Sequence

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import training_prices
from esft_bench.harness.plan.price.hardware import GIB, Accelerator
from esft_bench.harness.plan.price.sharded import sharings
from esft_bench.harness.steps.graph import Graph
from esft_bench.spec.errors import UserError


def gpus_of_rows(
    plan: Plan, graph: Graph, cards: Sequence[tuple[str, float]], counts: Sequence[int], micro_batch: int | None
) -> dict[str, int]:
    """The accelerators that a training of each row takes, of the smallest of `cards` (name, bytes).

    Several are as many as one of `counts` says: those that can share a model (`sharings`), on one node or on more. Rows
    without an estimate are not in it. Raises UserError for a row with trainings left to do that the most cannot hold.
    """
    if not cards:
        return {}
    most = max(counts, default=1)
    name, memory = min(cards, key=lambda card: card[1])
    titles = {plan.suite.title(row): row for row in plan.methods}
    left = {cell.method for cell, path in plan.paths.items() if path.training not in graph.finished}
    found = {}
    device = Accelerator(name, memory, 1.0, 1.0)
    prices = [each for each in training_prices(plan, graph, device, micro_batch) if titles[each.row] in left]
    sharing = sharings(plan, graph, device, prices, micro_batch, counts)
    shared = {each.row: each.devices if each.holds else 0 for each in sharing}
    for price in prices:
        row = titles[price.row]
        if price.why_not:
            continue
        count = shared.get(price.row, 1)
        if not 1 <= count <= most:
            raise UserError(
                f"methods.{row}: a training needs {price.peak_bytes / GIB:.0f} GiB, and {most} × {name} with "
                f"{memory / GIB:.0f} GiB, as many as the cluster can give one training, do not hold it: add nodes, "
                "take those with smaller cards out of it, or leave the row out."
            )
        found[row] = count
    return found
