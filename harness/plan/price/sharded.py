"""What a row needs whose model several devices share: how many (FSDP2), the memory of each, the hours.

Those are rows that one device does not hold, and those whose experts a suite shares out (`training.expert_parallel`).

Each device holds its share of weights, optimizer state and gradients, and besides what its part of the batch needs, the
layer at work and the next one, whole, and what is no layer's (embeddings and head). What they send of these is taken to
go on beside the work. Experts that are shared out are whole where they are, with their optimizer states and gradients,
and a device gets as many rows of tokens from others as it sends: for those it waits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

from esft_bench.harness.backbone.model import empty_model
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.plan.price.estimate import TrainingPrice, step_of
from esft_bench.harness.plan.price.hardware import MARGIN, NETWORK, UTILISATION, Accelerator
from esft_bench.harness.plan.price.step import SimulatedStep
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.train import TrainStep
from esft_bench.methods.moe.view import moe_layers

NODE = 8
"""The devices that a node is taken to have, where no cluster is asked."""
COUNTS = (*range(2, NODE + 1), *range(2 * NODE, 129, NODE))
"""How many devices are thought of then: those of one node, and whole nodes."""


@dataclass(frozen=True)
class Sharing:
    """`devices` that share a row's model, the `bytes_each` holds, and the `seconds` that they take for a cell.

    `apart`: each holds experts of its own, as the suite says; they may then be more than a device `holds`, and of the
    seconds `sending` go by with tokens on their way to experts.
    """

    row: str
    devices: int
    bytes_each: float
    seconds: float
    apart: bool = False
    holds: bool = True
    sending: float = 0.0


def sharings(
    plan: Plan,
    graph: Graph,
    device: Accelerator,
    prices: list[TrainingPrice],
    micro_batch: int | None,
    counts: Sequence[int] = COUNTS,
) -> list[Sharing]:
    """How the rows of `prices` fit several devices that one does not hold, or whose experts are shared out.

    They may be as many as `counts` say, in ascending order; 0 `devices` where not even the most hold a row.
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
            found.append(_sharing(plan, graph, device, (names[price.row], price, counts), micro_batch))
    return found


def _stages(plan: Plan, row: str) -> tuple[TrainStep, ...]:
    """The trainings of one of a row's cells, in order."""
    return plan.paths[next(cell for cell in plan.cells if cell.method == row)].training.whole


def _sharing(
    plan: Plan,
    graph: Graph,
    device: Accelerator,
    asked: tuple[str, TrainingPrice, Sequence[int]],
    micro_batch: int | None,
) -> Sharing:
    """A row whose model the fewest that hold it share."""
    row, price, counts = asked
    each = price.peak_bytes
    for count, each in _needs(plan, graph, row, counts, micro_batch):
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
    sending = price.batches * _sending(plan, device, count)
    seconds = _seconds(plan, price, count) + sending
    return Sharing(price.row, count, each, seconds, True, each <= MARGIN * device.memory, sending)


def _sending(plan: Plan, device: Accelerator, count: int) -> float:
    """The seconds that tokens of a batch are on their way to experts and back, at a share of the stated rates.

    A token's state goes to each of its experts, and what that makes of it back, in every layer; so do their gradients
    in the backward pass, and states again where it computes layers anew. Of all experts 1/count are the device's own,
    and those of other nodes are behind the network.
    """
    training, loading = plan.suite.training, plan.suite.backbone
    tokens = ceil(training.batch_size / count) * training.sequence_length
    passes = 3 if training.gradient_checkpointing else 2
    width = 2 if loading.precision == "bf16" else 4
    numbers = _numbers_of_token(plan.backbone.path, loading.trust_remote_code)
    near = min(count, NODE)
    by_bytes = (near - 1) / device.link + (count - near) / NETWORK
    return 2.0 * passes * tokens * numbers * width / count * by_bytes / UTILISATION


@cache
def _numbers_of_token(backbone: Path, trust_remote_code: bool) -> int:
    """The numbers of a token's states that go to its experts, in all layers."""
    model = empty_model(backbone, trust_remote_code)
    experts = sum(layer.top_k for layer in moe_layers(model).values())
    return experts * int(model.config.get_text_config().hidden_size)


def held_whole(plan: Plan) -> dict[str, str]:
    """Rows whose experts cannot be shared out, by their titles, and why, where a suite shares experts out."""
    trained = {plan.suite.title(row): method for row, method in plan.methods.items() if method.trains}
    wanted = plan.suite.training.expert_parallel
    return {title: method.held_whole for title, method in trained.items() if wanted and method.held_whole}


def _seconds(plan: Plan, price: TrainingPrice, count: int) -> float:
    """What a cell takes on so many devices."""
    size = plan.suite.training.batch_size
    idle = ceil(size / count) * count / size  # some have one sequence less to work on
    return price.seconds * idle / count


def _needs(
    plan: Plan, graph: Graph, row: str, counts: Sequence[int], micro_batch: int | None
) -> Iterator[tuple[int, float]]:
    """Numbers of devices, and what each holds at most in any stage of a row's training."""
    stages = _stages(plan, row)
    known: dict[int, list[SimulatedStep]] = {}
    for count in counts:
        share = ceil(plan.suite.training.batch_size / count)
        size = min(micro_batch or share, share)
        if size not in known:
            known[size] = [step_of(plan, graph, stage, size, shared=True) for stage in stages]
        yield count, max(bytes_of_each(step, count) for step in known[size])


def bytes_of_each(step: SimulatedStep, devices: int) -> float:
    """The most that one of several devices holds at a time, of a step that was simulated as `shared`."""
    shares = (step.held_bytes - step.own_bytes + step.trainable_bytes - step.own_trainable_bytes) / devices
    return step.own_bytes + shares + (step.peak_bytes - step.held_bytes) + 2 * step.layer_bytes + step.other_bytes
