"""One training step carried out on shapes alone: its peak memory and its operations, from a configuration.

The backbone is built of fake tensors (no weights, no data, no accelerator), the method prepares it as it would the real
one, and forward and backward run on it, with the optimizer's state of an earlier step in place: the optimizer's own
step, in one kernel, needs nothing more. What is alive is counted storage by storage, what is computed product by
product: nothing of the model is modelled again.

Only two things are taken from elsewhere: the share of rows that go to the selected experts, which the profile says, and
how many tokens are supervised.
"""

import contextlib
from collections.abc import Sequence, Set
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from esft_bench.harness.plan.price.alive import Alive, Stretch
from esft_bench.harness.plan.price.shapes import FUSED, run_on_shapes
from esft_bench.harness.plan.price.stack import Shortened, highest, shorten
from esft_bench.harness.training.optimizer import held_in, make
from esft_bench.harness.training.precision import held, products
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.expert_parallel import shapes_of_own
from esft_bench.methods.moe.frozen import pack_frozen
from esft_bench.methods.recompute import checkpoint_gradients
from esft_bench.spec.training import Training

DEFAULT = Training()


@dataclass(frozen=True)
class Batch:
    """What is in memory at once: `sequences` of `length` tokens, the `supervised` share of which the loss counts."""

    sequences: int
    length: int
    supervised: float = 0.5

    @property
    def tokens(self) -> int:
        """Tokens in the batch."""
        return self.sequences * self.length


@dataclass(frozen=True)
class Execution:
    """How a step is carried out: `precision` and `training` as a suite has them, `attention` by transformers' name.

    `shared`: gradients go as they come, layer by layer, as where processes share the model; `apart` of these each hold
    experts of their own, and keep their gradients.
    """

    precision: str = "float32"
    training: Training = DEFAULT
    attention: str = FUSED
    shared: bool = False
    apart: int = 1


@dataclass(frozen=True)
class SimulatedStep:
    """What a step on one batch needs.

    Attributes:
        peak_bytes: most that is alive at a time: weights, gradients, optimizer state, activations. What an allocator
            wastes and a device's own context are not in it.
        weight_bytes: the model as prepared, before the first step.
        trainable_parameters, trainable_bytes: what the method trains.
        operations: floating-point operations of forward and backward; `forward`, those of the forward pass alone.
        held_bytes: weights and optimizer state, which a step begins and ends with.
        layer_bytes, other_bytes: the weights of the largest layer as it computes, and of what is no layer's.
        own_bytes, own_trainable_bytes: what of `held_bytes` and `trainable_bytes` a process has for itself: experts.
    """

    peak_bytes: int
    weight_bytes: int
    trainable_parameters: int
    trainable_bytes: int
    operations: int
    forward: int = 0
    held_bytes: int = 0
    layer_bytes: int = 0
    other_bytes: int = 0
    own_bytes: int = 0
    own_trainable_bytes: int = 0

    def longer(self, other: "SimulatedStep", layers: int, peak_bytes: int) -> "SimulatedStep":
        """The step on so many `layers` more, given the `other` one on one layer more, and the most that is alive."""
        mine, theirs = asdict(self), asdict(other)
        grown = {name: value + layers * (theirs[name] - value) for name, value in mine.items()}
        return SimulatedStep(**grown | {"peak_bytes": peak_bytes})


def simulate(
    config: PretrainedConfig,
    method: Method,
    context: Context,
    batch: Batch,
    how: Execution = Execution(),
) -> SimulatedStep:
    """Carry out a step of `method` on the backbone that `config` describes; of many layers that are alike, on a few.

    Raises MethodError where the method does not fit the backbone.
    """
    made, shapes = _on_meta(config, method, context, how), FakeTensorMode(allow_non_fake_inputs=True)
    if short := shorten(made.model):
        five = _carried_out(made, batch, how, shapes, short)
        short.drop()
        four = _carried_out(made, batch, how, shapes, short)
        peak = highest(four.stretches, five.stretches, short.cut)
        if peak is not None:
            return four.step.longer(five.step, short.cut, peak)
        made = _on_meta(config, method, context, how)
    return _carried_out(made, batch, how, shapes).step


@dataclass(frozen=True)
class _Made:
    """A model made ready, and its modules of experts where each process holds some."""

    model: PreTrainedModel
    holders: Sequence[nn.Module]

    def own(self) -> set[nn.Parameter]:
        """The parameters that a process has of its own."""
        there = set(self.model.modules())
        return {parameter for module in self.holders if module in there for parameter in module.parameters()}


@dataclass(frozen=True)
class _Passed:
    """A step that was carried out, and its stretches."""

    step: SimulatedStep
    stretches: Sequence[Stretch]


def _carried_out(
    made: _Made, batch: Batch, how: Execution, shapes: FakeTensorMode, short: Shortened | None = None
) -> _Passed:
    """Carry out a step of a model on shapes; again, where its stack has become shorter."""
    alive, model = Alive(), made.model
    _with_state([nn.Parameter(torch.zeros(4096))], how.training)  # torchao tabulates 8-bit numbers, once, as real ones
    with shapes, alive, contextlib.ExitStack() as stack:
        _materialise(model)
        model.tie_weights()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        stack.enter_context(held(parameters, held_in(how.training.optimizer)))
        if how.training.gradient_checkpointing:
            checkpoint_gradients(model)
        weight_bytes = alive.now
        optimizer = _with_state(parameters, how.training)
        held_bytes = alive.peak = alive.now
        own = made.own()
        own_bytes = sum(tensor.nbytes for each in own for tensor in (each, *optimizer.state.get(each, {}).values()))
        for parameter in parameters if how.shared else ():
            if parameter not in own:
                parameter.register_post_accumulate_grad_hook(_let_go)
        model.train()
        alive.begin("step")
        if short:
            stack.callback(short.mark(alive))
        with _autocast(how.precision):
            loss = _loss(model, batch)
            alive.begin("loss")  # what autocast has kept of every layer goes
        forward = alive.operations
        loss.backward()  # type: ignore[no-untyped-call]
        del optimizer
        layer, other = _parts(model, how.precision, own)
        step = SimulatedStep(
            peak_bytes=alive.peak,
            weight_bytes=weight_bytes,
            trainable_parameters=sum(parameter.numel() for parameter in parameters),
            trainable_bytes=sum(parameter.nbytes for parameter in parameters),
            operations=alive.operations,
            forward=forward,
            held_bytes=held_bytes,
            layer_bytes=layer,
            other_bytes=other,
            own_bytes=own_bytes,
            own_trainable_bytes=sum(parameter.nbytes for parameter in own if parameter.requires_grad),
        )
        return _Passed(step, list(alive.stretches))


def _materialise(model: PreTrainedModel) -> None:
    """Put parameters and buffers on the CPU, in place: still without memory, but products run as on a device.

    They become others each time, for an optimizer that knows nothing of the step before.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = made.setdefault(id(tensor), (_on_cpu(tensor), tensor))[0]


def _on_cpu(tensor: Tensor) -> Tensor:
    made = torch.empty_like(tensor, device="cpu")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _on_meta(config: PretrainedConfig, method: Method, context: Context, how: Execution) -> _Made:
    """The model made ready."""
    dtype = torch.bfloat16 if how.precision == "bf16" else torch.float32
    with torch.device("meta"):
        # A copy: a method may change what the model's configuration says, its experts a token for one.
        model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype, attn_implementation=how.attention)
    method.prepare(model, context)
    if how.training.frozen_experts == "fp8":
        pack_frozen(model, torch.device("meta"))
    run_on_shapes(model, context.profile, how.apart)
    return _Made(model, shapes_of_own(model, how.apart) if how.apart > 1 else [])


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


def _parts(model: PreTrainedModel, precision: str, own: Set[nn.Parameter]) -> tuple[int, int]:
    """The bytes, in the type of products, of the layer with the most parameters, and of all that is in no layer.

    Those that a process has of its `own` are not counted.
    """
    width = 4 if products(precision) == "no" else 2
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    sizes = [sum(each.numel() for each in layer.parameters() if each not in own) for layer in layers]
    whole = sum(each.numel() for each in model.parameters() if each not in own)
    return width * max(sizes, default=whole), width * max(0, whole - sum(sizes))


def _with_state(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """An optimizer that has made a step before, so that its state is there."""
    optimizer = make(training, parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The training loop's loss, on as many positions as are supervised, the first ones."""
    ids = torch.zeros(batch.sequences, batch.length, dtype=torch.long)
    decoder = getattr(model, model.base_model_prefix)
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    supervised = max(1, round(batch.supervised * len(hidden)))
    logits = model.get_output_embeddings()(hidden[:supervised])
    return torch.nn.functional.cross_entropy(logits.float(), ids.flatten()[:supervised], reduction="sum")


def _autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=products(precision) == "bf16")
