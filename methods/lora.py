"""Low-rank adaptation (arXiv 2106.09685) by peft: of the attention, and of the experts where asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from esft_bench.methods import lora_adapter
from esft_bench.methods.atomic import write_json
from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import check_not_tied
from esft_bench.methods.method import Context, Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

DENSE = re.compile(r"\.layers\.(\d+)\.(?:mlp|feed_forward)\.")
"""In the names of an MLP's layers: the number of its decoder layer."""

COPY = "modules_to_save.default"
"""Where peft keeps the copy of a module that it trains as it is."""


class Lora(Method):
    """Train low-rank updates W + alpha/rank · B A; the ESFT paper's rank 8 and scaling 2 by default.

    Attributes:
        rank: rank of the updates.
        alpha: numerator of the scaling alpha / rank.
        target_modules: names of linear layers as peft takes them; empty for every linear layer of the attention.
        experts: adapt every linear layer of the decoder but the routers: besides, all routed experts, through their
            fused parameters (gate and up share a factor), shared experts, and the MLPs of layers without experts.
        divide_rank: divide the rank of the routed experts' updates by the number of experts that a token is sent to
            (rounded, at least 1), so that a token meets `rank` in all of them together ("LoRA Without Regret", Thinking
            Machines 2025); their scaling is alpha / that rank.
        dropout: the share of an update's inputs that is dropped in training.
        routers: train all routers too, as they are and not by an update.
    """

    name: ClassVar[str] = "lora"
    held_whole: ClassVar[str] = ""
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    target_modules: tuple[str, ...] = ()
    experts: bool = False
    divide_rank: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    routers: bool = False

    @model_validator(mode="after")
    def _experts_have_the_rank_that_is_divided(self) -> Lora:
        if self.divide_rank and not self.experts:
            raise ValueError(
                "divide_rank divides the rank of the routed experts' updates: set experts, or leave it out"
            )
        return self

    def check_model(self, model: PreTrainedModel) -> None:
        """Raise MethodError for experts or routers that the model has not, or layers that are tied."""
        check_not_tied(model, self.target_modules)
        if self.experts:
            from esft_bench.methods.moe.view import moe_layers

            moe_layers(model)
        if self.routers:
            _routers(model)

    def prepare(self, model: PreTrainedModel, context: Context) -> Sequence[nn.Parameter]:
        """Add the adapter to the model, in place, initialised from the cell's seed, and return its parameters.

        Raises MethodError where no layer matches, or `experts` is asked of a model without routed experts.
        """
        import torch
        from peft import LoraConfig

        from esft_bench.methods.moe.experts import use_fast_experts
        from esft_bench.methods.moe.split_lora import drop_inputs, use_split_form

        use_fast_experts(model)
        routers = _routers(model) if self.routers else []
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.target_modules) or _attention(model),
            rank_pattern=_ranks(model, self.rank) if self.divide_rank else {},
            target_parameters=[*_routed(model), *_shared(model), *_dense(model)] if self.experts else None,
            modules_to_save=routers or None,
        )
        placed = _placed(model) if context.unread is not None else nullcontext()
        with torch.random.fork_rng(), lora_adapter.quiet_about_ranks(), placed:
            torch.manual_seed(context.seed)
            try:
                model.add_adapter(config)
            except ValueError as error:
                raise MethodError(f"lora cannot adapt this model: {error}") from error
        for router in routers if context.unread is not None else ():
            model.get_submodule(f"{router}.{COPY}").to("meta")  # copied before it was read
        if self.experts:
            use_split_form(model)
        if self.dropout:
            drop_inputs(model, self.dropout)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def also_written(self, model: PreTrainedModel) -> Sequence[str]:
        """The buffers of routers that are trained."""
        trained = {name for name, _ in model.named_parameters()}
        return sorted(name for name in model.state_dict().keys() - trained if f".{COPY}." in name)

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the adapter as plain peft reads it, byte for byte the same for the same weights."""
        model.save_pretrained(folder)
        config = json.loads((folder / lora_adapter.CONFIG).read_text("utf-8"))
        # peft keeps targets as sets, whose order changes from process to process.
        write_json(
            folder / lora_adapter.CONFIG, {key: sorted(v) if isinstance(v, list) else v for key, v in config.items()}
        )

    def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
        """Write the tensors that the updates change."""
        lora_adapter.write_changed(adapter, base, folder)


@contextmanager
def _placed(model: PreTrainedModel) -> Iterator[None]:
    """Have parameters without values stand in main memory while the block runs, where they take none.

    peft puts an update where the layer is, and so without values beside a layer that has none.
    """
    import torch
    from torch import nn

    own = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.is_meta
    ]
    for module, name, parameter in own:
        one = torch.zeros((), dtype=parameter.dtype)
        module._parameters[name] = nn.Parameter(one.expand(parameter.shape), parameter.requires_grad)
    yield
    for module, name, parameter in own:
        stood = module._parameters[name]
        assert stood is not None
        module._parameters[name] = parameter.requires_grad_(stood.requires_grad)


def _attention(model: PreTrainedModel) -> list[str]:
    """Linear layers inside a module whose name says attention."""
    from torch import nn

    from esft_bench.methods.moe.view import ATTENTION

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part in name for part in ATTENTION)
    ]
    if not names:
        raise MethodError(
            f"{type(model).__name__} has no linear layer inside an `attn` or `attention`; set target_modules"
        )
    return names


def _ranks(model: PreTrainedModel, rank: int) -> dict[str, int]:
    """By fused parameter, a rank divided among the experts that a token is sent to."""
    from esft_bench.methods.moe.view import moe_layers

    layers = moe_layers(model).values()
    return {f"{layer.name}.{kind}": max(1, round(rank / layer.top_k)) for layer in layers for kind in layer.weights}


def _routers(model: PreTrainedModel) -> list[str]:
    """The paths of all routers. Raises MethodError for a layer without one."""
    from esft_bench.methods.moe.view import moe_layers, router_parameters

    layers = moe_layers(model).values()
    return [str(layer.router) for layer in layers if router_parameters(model, layer)]


def _routed(model: PreTrainedModel) -> list[str]:
    from esft_bench.methods.moe.view import moe_layers

    return [f"{layer.name}.{kind}" for layer in moe_layers(model).values() for kind in layer.weights]


def _shared(model: PreTrainedModel) -> Iterator[str]:
    """Weights of the shared experts' linear layers; the gate before them, itself a linear layer, is left out.

    Weights, not modules: peft 0.21 takes a module named `gate_proj` for the routed experts of an older transformers.
    """
    from torch import nn

    from esft_bench.methods.moe.view import moe_layers

    for layer in moe_layers(model).values():
        for path, shared in layer.shared:
            linear = (name for name, module in shared.named_modules() if name and isinstance(module, nn.Linear))
            yield from (f"{path}.{name}.weight" for name in linear)


def _dense(model: PreTrainedModel) -> Iterator[str]:
    """Weights of the linear layers in the MLPs of layers without experts."""
    from torch import nn

    from esft_bench.methods.moe.view import moe_layers

    mixtures = moe_layers(model)
    for name, module in model.named_modules():
        found = DENSE.search(name)
        if found and int(found[1]) not in mixtures and isinstance(module, nn.Linear):
            yield f"{name}.weight"
