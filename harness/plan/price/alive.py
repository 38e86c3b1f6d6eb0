"""Counting what a block of work keeps alive and computes, storage by storage and product by product."""

import contextlib
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary


def _attention_forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


OPERATIONS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""How to count an operator's operations: torch's own table, and attention as it runs where shapes live, on the CPU."""

DEVICE = torch.ops.prim.device.default


@dataclass
class Stretch:
    """A stretch of the work: its name, the bytes alive when it began, and the most while it went on."""

    name: Hashable
    level: int
    peak: int


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages alive, `now` and at their `peak`, and `operations` of products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = 0
        self.stretches: list[Stretch] = []
        self._seen = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is DEVICE and hasattr(args[0], "fake_device"):  # the most frequent question by far
            return args[0].fake_device
        out = func(*args, **(kwargs or {}))
        if count := OPERATIONS.get(func._overloadpacket):  # type: ignore[attr-defined]
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> None:
        if hasattr(tensor, "__tensor_flatten__"):  # made of others, which are seen themselves
            return
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        if self.stretches:
            self.stretches[-1].peak = max(self.stretches[-1].peak, self.now)
        self._seen[storage] = weakref.finalize(storage, self._gone, size)

    def begin(self, name: Hashable) -> None:
        """A stretch of the work begins here, and the one before ends."""
        self.stretches.append(Stretch(name, self.now, self.now))

    def _gone(self, size: int) -> None:
        self.now -= size


@contextlib.contextmanager
def watched() -> Iterator[Alive]:
    """Count what a block that runs for real keeps alive: what an estimate is held against."""
    with Alive() as alive:
        yield alive
