"""Which rows fit the memory of this machine, and how many sequences they may take at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import training_prices
from esft_bench.harness.plan.price.hardware import GIB, MARGIN, Accelerator
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.artifacts import Store
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite


@dataclass(frozen=True)
class Fit:
    """What fits.

    Attributes:
        left_out: the rows that do not, by name, each with the sentence why.
        micro_batch: the most sequences at a time that all others fit with; None for a whole batch.
    """

    left_out: Mapping[str, str]
    micro_batch: int | None


def this_machine() -> Accelerator:
    """The memory that a training has here: the first accelerator's, else the machine's. Its rates are of no account."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Accelerator(found.name, float(found.total_memory), 1.0, 1.0)
    return Accelerator("this machine", float(psutil.virtual_memory().total), 1.0, 1.0)


def fit(plan: Plan, graph: Graph, device: Accelerator) -> Fit:
    """Find out by the estimate of `plan`: from configurations alone, before a byte of weights is read."""
    room = MARGIN * device.memory
    alone = _peaks(plan, graph, device, 1)
    left_out = {
        row: (
            f"{plan.suite.title(row)} is left out: it needs {peak / GIB:.0f} GiB, and {device.name} has "
            f"{device.memory / GIB:.0f}. Name a suite to have it tried all the same."
        )
        for row, peak in alone.items()
        if peak > room
    }
    size = plan.suite.training.batch_size
    while size > 1:
        peaks = _peaks(plan, graph, device, size)
        if all(peak <= room for row, peak in peaks.items() if row not in left_out):
            break
        size //= 2
    return Fit(left_out, None if size == plan.suite.training.batch_size else size)


def _peaks(plan: Plan, graph: Graph, device: Accelerator, micro_batch: int) -> dict[str, float]:
    """The most memory that each row's training takes, in bytes, as far as that can be told."""
    names = {plan.suite.title(row): row for row in plan.methods}
    prices = training_prices(plan, graph, device, micro_batch)
    return {names[price.row]: price.peak_bytes for price in prices if not price.why_not}


def fitting_rows(plan: Plan, store: Store) -> tuple[Suite, int | None, list[str]]:
    """A plan's suite without the rows that do not fit this machine, the micro-batch that the others take, and why.

    Raises UserError where none of the rows that train fits.
    """
    device = this_machine()
    found = fit(plan, plan.graph(store), device)
    suite = plan.suite
    rows = {name: row for name, row in suite.methods.items() if name not in found.left_out}
    if not any(plan.methods[name].trains for name in rows):
        why = next(iter(found.left_out.values()))
        raise UserError(f"No row can be trained here: {why}")
    notes = list(found.left_out.values())
    if found.micro_batch:
        notes.append(f"Sequences are taken {found.micro_batch} at a time, as many as fit {device.name}.")
    return suite.model_copy(update={"methods": rows}), found.micro_batch, notes
