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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from esft_bench.harness.plan.price.alive import Alive
from esft_bench.harness.training.optimizer import held_in, make
from esft_bench.harness.training.precision import held, products
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.dense_gate import ROUTER, with_dense_gates
from esft_bench.methods.moe.expert_parallel import shapes_of_own
from esft_bench.methods.moe.experts import register, run_experts, selected_experts
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.rows import sort_rows
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.methods.recompute import checkpoint_gradients
from esft_bench.spec.training import Training

IMPLEMENTATION = "shapes-only"
"""Name under which the experts' forward below is registered with transformers."""
FUSED = "fused-on-shapes"
"""Name of the attention below."""
SHARE = "selected_share"
"""Where an experts module keeps the share of rows assumed to go to its selected experts."""
SENT = "rows_are_sent"
"""Where it keeps whether rows go to other processes, and others' rows come."""


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


def simulate(
    config: PretrainedConfig,
    method: Method,
    context: Context,
    batch: Batch,
    how: Execution = Execution(),
) -> SimulatedStep:
    """Carry out a step of `method` on the backbone that `config` describes.

    Raises MethodError where the method does not fit the backbone.
    """
    alive = Alive()
    model, holders = _on_meta(config, method, context, how)
    _with_state([nn.Parameter(torch.zeros(4096))], how.training)  # torchao tabulates 8-bit numbers, once, as real ones
    with FakeTensorMode(allow_non_fake_inputs=True), alive, contextlib.ExitStack() as stack:
        model.to_empty(device="cpu")  # still without memory, but products and attention run as on a device
        model.tie_weights()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        stack.enter_context(held(parameters, held_in(how.training.optimizer)))
        if how.training.gradient_checkpointing:
            checkpoint_gradients(model)
        weight_bytes = alive.now
        optimizer = _with_state(parameters, how.training)
        held_bytes = alive.peak = alive.now
        own = {parameter for module in holders for parameter in module.parameters()}
        own_bytes = sum(tensor.nbytes for each in own for tensor in (each, *optimizer.state.get(each, {}).values()))
        for parameter in parameters if how.shared else ():
            if parameter not in own:
                parameter.register_post_accumulate_grad_hook(_let_go)
        model.train()
        with _autocast(how.precision):
            loss = _loss(model, batch)
        forward = alive.operations
        loss.backward()  # type: ignore[no-untyped-call]
        del optimizer
        layer, other = _parts(model, how.precision, own)
        return SimulatedStep(
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


def _on_meta(
    config: PretrainedConfig, method: Method, context: Context, how: Execution
) -> tuple[PreTrainedModel, list[nn.Module]]:
    """The model made ready, and its modules of experts where each process holds some."""
    dtype = torch.bfloat16 if how.precision == "bf16" else torch.float32
    with torch.device("meta"):
        # A copy: a method may change what the model's configuration says, its experts a token for one.
        model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype, attn_implementation=how.attention)
    method.prepare(model, context)
    _run_on_shapes(model, context.profile, how.apart)
    return model, shapes_of_own(model, how.apart) if how.apart > 1 else []


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


def _run_on_shapes(model: PreTrainedModel, seen: Profile | None, apart: int) -> None:
    """Let the experts run by the forward below; experts that cannot, and dense models, keep what they have."""
    layers = _layers(model)
    for row, layer in enumerate(layers.values()):
        if router := layer.experts.__dict__.get(ROUTER):
            router.explains = 0  # which way scores are made changes no shape
        setattr(layer.experts, SHARE, _share(seen, row, selected_experts(layer)))
        setattr(layer.experts, SENT, apart > 1)
    if any(hasattr(layer.experts, "selected_experts") for layer in layers.values()):
        model.set_experts_implementation(IMPLEMENTATION)


def _layers(model: PreTrainedModel) -> dict[int, MoeLayer]:
    try:
        return moe_layers(model)
    except MethodError:
        return {}


def _share(seen: Profile | None, row: int, selected: list[int]) -> float:
    """The share of a layer's token-expert pairs that its selected experts get; without a profile, all are selected."""
    if seen is None:
        return 1.0
    counts = seen.token_counts[row]
    return float(counts[selected].sum() / counts.sum())


def _shapes_only_forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The selective experts' forward with an assumed split, since no data says how many rows are selected."""
    return with_dense_gates(experts, hidden_states, top_k_index, top_k_weights, _on_shapes)


def _on_shapes(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    if not getattr(experts, SENT):
        return _run(experts, hidden_states, top_k_index, top_k_weights)
    # As many rows come as go: copies for the copies that are sent, there and back.
    count = top_k_index.shape[1]
    sent = hidden_states.repeat_interleave(count, 0)
    out = _run(experts, sent.clone(), top_k_index.reshape(-1, 1), torch.ones_like(top_k_weights).reshape(-1, 1))
    back = out.clone().clone().view(*top_k_index.shape, -1)
    return (back * top_k_weights.unsqueeze(-1)).sum(1).to(hidden_states.dtype)


def _run(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    rows = sort_rows(experts, top_k_index)
    split = round(len(rows.order) * getattr(experts, SHARE)) if len(experts.selected_experts) else 0
    return run_experts(experts, hidden_states, top_k_weights, rows, split, _one_for_all)


def _one_for_all(
    rows: Tensor, weights: Tensor, ends: Tensor, bias: Tensor | None = None, is_transposed: bool = False
) -> Tensor:
    """All rows through the first expert: the shapes and operations of a grouped product, whatever the routing."""
    first = weights[0] if is_transposed else weights[0].t()
    out = rows @ first
    return out if bias is None else out + bias[0]


def _fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention (B, heads, T, width) that never holds its (T, T) weights, for heads of any width and causal masks.

    Heads of unequal width are filled up with zeros, without which the CPU's fused kernel does not take them.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) if groups > 1 else states for states in (key, value))
    width = value.shape[-1]
    value = nn.functional.pad(value, (0, query.shape[-1] - width))
    out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return out[..., :width].transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Causal attention needs none."""


register(IMPLEMENTATION, _shapes_only_forward)
AttentionInterface.register(FUSED, _fused_attention)
AttentionMaskInterface.register(FUSED, _no_mask)


def _autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=products(precision) == "bf16")
