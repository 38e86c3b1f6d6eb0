"""What of a checkpoint goes where in a model that vLLM serves, found out by letting vLLM load it.

Runs inside vLLM, between `initialize_layerwise_reload` and `finalize_layerwise_reload`.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.model_loader.reload.utils import get_layer_tensors
from vllm.model_executor.model_loader.weight_utils import default_weight_loader


@dataclass(frozen=True)
class Load:
    """A tensor on its way into a parameter: what vLLM would have called, not called yet.

    Attributes:
        parameter: its name in the layer.
        loader: vLLM's; within a reload it waits until the layer has all its tensors, and then packs them.
        bound: the loader's arguments.
    """

    parameter: str
    loader: Callable[..., Any]
    bound: inspect.BoundArguments

    @property
    def tensor(self) -> Tensor:
        """What is loaded."""
        _, loaded = (value for value in self.bound.arguments.values() if isinstance(value, Tensor))
        return loaded

    @property
    def expert(self) -> int | None:
        """The expert that it is of; None where it is of none, or of all."""
        expert: int | None = self.bound.arguments.get("expert_id")
        return expert

    def run(self) -> None:
        """Hand it to vLLM."""
        self.loader(*self.bound.args, **self.bound.kwargs)

    def into(self, parameter: Tensor, row: int | None = None) -> None:
        """Load it at once into another parameter, as its expert `row`."""
        loader = inspect.unwrap(self.loader)
        bound = inspect.signature(loader).bind(*self.bound.args, **self.bound.kwargs)
        bound.arguments[next(iter(bound.arguments))] = parameter
        if row is not None:
            bound.arguments["expert_id"] = row
        loader(*bound.args, **bound.kwargs)


Loads = dict[nn.Module, list[Load]]
"""What each layer would load."""


def loads_of(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> Loads:
    """What each layer of `model` would load of a checkpoint's tensors; nothing is loaded."""
    loads: Loads = {}
    loaders: list[tuple[Tensor, Callable[..., Any]]] = []
    seen: set[int] = set()
    try:
        for layer in model.modules():
            for name, tensor in get_layer_tensors(layer).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    loader = getattr(tensor, "weight_loader", default_weight_loader)
                    loaders.append((tensor, loader))
                    tensor.weight_loader = _noting(loads, layer, name, loader)
        model.load_weights(weights)  # type: ignore[operator]
    finally:
        for tensor, loader in loaders:
            tensor.weight_loader = loader  # type: ignore[attr-defined]
    return loads


def _noting(loads: Loads, layer: nn.Module, name: str, loader: Callable[..., Any]) -> Callable[..., bool]:
    signature = inspect.signature(loader)

    def note(*args: Any, **kwargs: Any) -> bool:
        loads.setdefault(layer, []).append(Load(name, loader, signature.bind(*args, **kwargs)))
        return True  # what a loader of experts answers where it was the right one to ask

    return note
