"""A vLLM worker extension: replaces the weights of a running server by those of a checkpoint on disk.

vLLM mixes the class into its workers (`--worker-extension-cls harness.serving.swap.WeightSwap`); the harness calls it
through `/collective_rpc`. This file runs inside vLLM and imports nothing of the harness.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def checkpoint_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) for every tensor of a safetensors checkpoint, one at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                yield name, file.get_tensor(name)


class WeightSwap:
    """Methods that a vLLM worker gains. `model_runner` and `reload_weights` are the worker's own."""

    model_runner: Any
    reload_weights: Any

    def swap_weights(self, folder: str) -> dict[str, Any]:
        """Load the whole checkpoint in `folder` over the served weights; returns the seconds it took.

        Only the whole one: vLLM's layerwise reload is wrong for parts of a fused layer. Every matrix is made NaN
        before: one that is not written over is named in `left`, whatever a few prompts can tell.
        """
        begin = time.perf_counter()
        for _, weight in self._matrices():
            weight.data.fill_(float("nan"))
        packed = self._cpu_packed_experts()
        kernels = [method.moe_kernel for method in packed]
        for method in packed:
            method.moe_kernel = None
        self.reload_weights(weights_iterator=checkpoint_tensors(Path(folder)))
        for method, kernel in zip(packed, kernels, strict=True):
            if method.moe_kernel is None:  # a layer the checkpoint did not name keeps what it had
                method.moe_kernel = kernel
        left = [name for name, weight in self._matrices() if bool(weight.isnan().any())]
        return {"seconds": time.perf_counter() - begin, "left": left}

    def _matrices(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The served weights of two dimensions or more: those of every layer, and of all its experts."""
        for name, weight in self.model_runner.get_model().named_parameters():
            if weight.is_floating_point() and weight.dim() > 1:
                yield name, weight

    def _cpu_packed_experts(self) -> list[Any]:
        """The expert layers whose weights vLLM re-packs for the CPU.

        It skips the re-packing when a kernel exists already, which leaves the experts silently wrong after a reload.
        """
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            return []
        methods = (getattr(module, "quant_method", None) for module in self.model_runner.get_model().modules())
        return [method for method in methods if getattr(method, "moe_kernel", None) is not None]
