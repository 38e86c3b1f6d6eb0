"""peft's LoRA on fused experts in split form: W x + s B (A x), expert by expert, in place of (W + s B A) x.

peft 0.21 makes the product B A of every expert, as large as the experts themselves, in each forward pass, and in the
backward pass the gradient of all of it; factors need neither. The adapter stays peft's own: its modules, its names, its
file. Only what computes with it changes, and only while the experts run by a forward that knows such updates.
"""

from collections.abc import Sequence
from functools import partial
from types import MethodType
from typing import Any

from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.experts import DROPOUT, UPDATES, knows_updates


def use_split_form(model: PreTrainedModel) -> None:
    """Compute the updates of all parameters that peft wraps in `model` in split form, in place.

    Those of linear layers' weights too; other modules keep peft's form.
    """
    wrappers = [module for module in model.modules() if isinstance(module, ParamWrapper)]
    wrapped = {id(wrapper.base_layer) for wrapper in wrappers}
    for outer in wrappers:
        base = outer.get_base_layer()
        if isinstance(base, nn.Linear):
            outer.forward = MethodType(_linear_forward, outer)
        elif id(outer) not in wrapped and hasattr(base, "num_experts"):
            setattr(base, UPDATES, {each.parameter_name: partial(_factors, each) for each in _chain(outer)})
            outer.forward = MethodType(_experts_forward, outer)


def drop_inputs(model: PreTrainedModel, share: float) -> None:
    """Drop a share of the inputs of all updates while `model` trains, in place; `use_split_form` goes before.

    peft drops none of an update that it has for a fused parameter. Raises MethodError where experts run in its form.
    """
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for name in module.lora_dropout:
            module.lora_dropout[name] = nn.Dropout(share)
        base = module.get_base_layer()
        if isinstance(module, ParamWrapper) and not isinstance(base, nn.Linear):
            if not (hasattr(base, UPDATES) and knows_updates(base)):
                raise MethodError(
                    f"the inputs of updates of {type(base).__name__} cannot be dropped: leave out dropout"
                )
            setattr(base, DROPOUT, share)


def _chain(outer: ParamWrapper) -> list[ParamWrapper]:
    """The wrappers of one module, which peft puts into each other, one for each parameter."""
    chain = [outer]
    while isinstance(chain[-1].base_layer, ParamWrapper):
        chain.append(chain[-1].base_layer)
    return chain


def _active(wrapper: ParamWrapper) -> list[str]:
    """The adapters whose updates are to be added now."""
    if wrapper.disable_adapters or wrapper.merged:
        return []
    return [name for name in wrapper.active_adapters if name in wrapper.lora_A]


def _factors(wrapper: ParamWrapper) -> Sequence[tuple[Tensor, Tensor]]:
    """Pairs whose products are the updates of the parameter, in its own layout; the scaling is in the second."""
    found = (wrapper.get_delta_factors(name) for name in _active(wrapper))
    return [(left, scaling * right) for left, right, scaling in found]


def _experts_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    base = self.get_base_layer()
    return base(*args, **kwargs) if knows_updates(base) else type(self).forward(self, *args, **kwargs)


def _linear_forward(self: Any, hidden: Tensor) -> Tensor:
    out: Tensor = self.get_base_layer()(hidden)
    for name in _active(self):
        dropped = self.lora_dropout[name](hidden)
        out = out + self.lora_B[name](self.scaling[name] * self.lora_A[name](dropped))
    return out
