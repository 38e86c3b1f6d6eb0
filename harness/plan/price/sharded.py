"""What a row needs whose model several devices share: how many (FSDP2), the memory of each, the hours.

Those are rows that one device does not hold, and those whose experts a suite shares out (`training.expert_parallel`).

Each device holds its share of weights, optimizer state and gradients, and besides what its part of the batch needs, the
layer at work and the next one, whole, and what is no layer's (embeddings and head). What devices send each other is
taken to go on beside the work. Experts that are shared out are whole where they are, with their optimizer states and
gradients, and a device gets as many rows of tokens from others as it sends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import TrainingPrice, step_of
from esft_bench.harness.plan.price.hardware import MARGIN, Accelerator
from esft_bench.harness.plan.price.step import SimulatedStep
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.train import TrainStep

COUNTS = (*range(2, 9), *range(16, 129, 8))
"""How many devices are thought of: those of one node, and nodes of eight."""


@dataclass(frozen=True)
class Sharing:
    """`devices` that share a row's model, the `bytes_each` holds, and the `seconds` that they take for a cell.

    `apart`: each holds experts of its own, as the suite says; they may then be more than a device `holds`.
    """

    row: str
    devices: int
    bytes_each: float
    seconds: float
    apart: bool = False
    holds: bool = True


def sharings(
    plan: Plan, graph: Graph, device: Accelerator, prices: list[TrainingPrice], micro_batch: int | None
) -> list[Sharing]:
    """How the rows of `prices` fit several devices that one does not hold, or whose experts are shared out.

    0 `devices` where not even the most do.
    """
    names = {plan.suite.title(row): row for row in plan.methods}
    found = []
    for price in prices:
        if price.why_not:
            continue
        apart = _stages(plan, names[price.row])[-1].how.expert_parallel
        if apart:
            found.append(_apart(plan, graph, device, (names[price.row], price, apart), micro_batch))
        elif price.peak_bytes > MARGIN * device.memory:
            found.append(_sharing(plan, graph, device, names[price.row], price, micro_batch))
    return found


def _stages(plan: Plan, row: str) -> tuple[TrainStep, ...]:
    """The trainings of one of a row's cells, in order."""
    return plan.paths[next(cell for cell in plan.cells if cell.method == row)].training.whole


def _sharing(
    plan: Plan, graph: Graph, device: Accelerator, row: str, price: TrainingPrice, micro_batch: int | None
) -> Sharing:
    for count, each in _needs(plan, graph, row, micro_batch):
        if each <= MARGIN * device.memory:
            return Sharing(price.row, count, each, _seconds(plan, price, count))
    return Sharing(price.row, 0, each, 0.0)


def _apart(
    plan: Plan, graph: Graph, device: Accelerator, asked: tuple[str, TrainingPrice, int], micro_batch: int | None
) -> Sharing:
    """A row whose experts so many devices share out."""
    row, price, count = asked
    share = ceil(plan.suite.training.batch_size / count)
    stages = [stage for stage in _stages(plan, row) if stage.how.expert_parallel]
    size = min(micro_batch or share, share)
    steps = [step_of(plan, graph, stage, size, shared=True, apart=count) for stage in stages]
    each = max(bytes_of_each(step, count) for step in steps)
    return Sharing(price.row, count, each, _seconds(plan, price, count), True, each <= MARGIN * device.memory)


def _seconds(plan: Plan, price: TrainingPrice, count: int) -> float:
    """What a cell takes on so many devices."""
    size = plan.suite.training.batch_size
    idle = ceil(size / count) * count / size  # some have one sequence less to work on
    return price.seconds * idle / count


def _needs(plan: Plan, graph: Graph, row: str, micro_batch: int | None) -> Iterator[tuple[int, float]]:
    """Numbers of devices, and what each holds at most in any stage of a row's training."""
    stages = _stages(plan, row)
    known: dict[int, list[SimulatedStep]] = {}
    for count in COUNTS:
        share = ceil(plan.suite.training.batch_size / count)
        size = min(micro_batch or share, share)
        if size not in known:
            known[size] = [step_of(plan, graph, stage, size, shared=True) for stage in stages]
        yield count, max(bytes_of_each(step, count) for step in known[size])


def bytes_of_each(step: SimulatedStep, devices: int) -> float:
    """The most that one of several devices holds at a time, of a step that was simulated as `shared`."""
    shares = (step.held_bytes - step.own_bytes + step.trainable_bytes - step.own_trainable_bytes) / devices
    return step.own_bytes + shares + (step.peak_bytes - step.held_bytes) + 2 * step.layer_bytes + step.other_bytes
