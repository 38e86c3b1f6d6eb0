"""Memory of a training step, method by method, counted in tensors: no allocator's cache, no interpreter.

    python -m benchmarks.memory [--shape mini|512|all]

The model, in float32 on the CPU, is that of `benchmarks.step_time`, untrained; a step is on 8 × 128 random tokens, loss
on every token. What is allocated is what PyTorch's allocator reports to its profiler, allocation by allocation; what it
should be is counted from the tensors themselves. The figures do not depend on what else the machine does.
"""

import argparse
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks.step_time import SHAPES, build, machine
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import profile as profiled
from esft_bench.methods.recompute import checkpoint_gradients

METHODS: dict[str, tuple[Method, bool]] = {
    "FFT": (FullFineTuning(), False),
    "LoRA on attention, rank 2": (Lora(rank=2), False),
    "ESFT-Token": (EsftToken(), False),
    "ESFT-Gate": (EsftGate(), False),
    "FFT, gradient checkpointing": (FullFineTuning(), True),
    "ESFT-Token, gradient checkpointing": (EsftToken(), True),
}
"""Methods, and whether layers are computed again in the backward pass."""


@dataclass(frozen=True)
class Memory:
    """What a step holds, in bytes.

    Attributes:
        base: the base model's weights. `copies`: what the method added to them without training it, or beside it.
        trained: the trained tensors' own size.
        states: gradients and optimizer state, as allocated; AdamW's need is three times `trained`.
        activations: what the forward pass saves for the backward pass, weights left out.
        step: the most that forward, backward and optimizer step had allocated at a time, in the steady state.
    """

    base: int
    copies: int
    trained: int
    states: int
    activations: int
    step: int

    @property
    def state_ratio(self) -> float:
        """Gradients and optimizer state, to what the trained tensors need."""
        return self.states / (3 * self.trained)

    @property
    def peak(self) -> int:
        """The peak of the step: all weights, optimizer state (two of the three parts) and what the step allocates."""
        return self.base + self.copies + 2 * self.states // 3 + self.step

    @property
    def peak_ratio(self) -> float:
        """The peak, to base weights, gradients and optimizer state, and activations."""
        return self.peak / (self.base + 3 * self.trained + self.activations)


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by address of the storages behind tensors, each once."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def held(model: nn.Module) -> dict[int, int]:
    """The storages of a model's parameters and buffers."""
    return storages([*model.parameters(), *model.buffers()])


@contextmanager
def allocations(changes: list[int]) -> Iterator[None]:
    """Append the bytes of every allocation in the block, and minus those of every release of one of them.

    Python's collector rests meanwhile: it would release what was left over from before, and that would be counted too.
    """
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield
    finally:
        gc.enable()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes += [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def highest(changes: Sequence[int]) -> int:
    """The most that was allocated at a time."""
    level = peak = 0
    for change in changes:
        level += change
        peak = max(peak, level)
    return peak


def saved(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Run a forward pass; returns its loss and the bytes it saved for the backward pass, without the model's own."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    own = held(model)
    return loss, sum(size for address, size in storages(kept).items() if address not in own)


def measure(
    model: PreTrainedModel, prepare: Callable[[PreTrainedModel], Sequence[nn.Parameter]], ids: Tensor
) -> Memory:
    """Take three steps with AdamW on `ids` [B, T] and count."""
    base = sum(held(model).values())
    parameters = prepare(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    trained = sum(parameter.nbytes for parameter in parameters)

    loss_module = AnswerLoss(model)

    def forward() -> Tensor:
        loss: Tensor = loss_module(input_ids=ids, labels=ids)
        return loss

    first: list[int] = []
    with allocations(first):
        forward().backward()
        optimizer.step()  # makes the optimizer state; gradients are kept
    optimizer.zero_grad()
    loss, activations = saved(model, forward)
    loss.backward()
    optimizer.zero_grad()
    del loss
    steady: list[int] = []
    with allocations(steady):
        forward().backward()
        optimizer.step()
    optimizer.zero_grad()
    copies = sum(held(model).values()) - base
    return Memory(base, copies, trained, sum(first), activations, highest(steady))


def report(shape: str) -> None:
    """Print a shape's table; without a peak's ratio where activations come back in the backward pass."""
    ids = torch.randint(3, 2048, (8, 128), generator=torch.Generator().manual_seed(0))
    seen = profiled(build(shape), [(ids, torch.ones_like(ids))])
    print(f"\n### hidden {SHAPES[shape]['hidden_size']}, 4 layers, 64 experts top-6, {ids.numel()} tokens: MB\n")
    print("| method | base | copies | trained | gradients + state | to need | activations | peak | to sum |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, (method, checkpointing) in METHODS.items():
        model = build(shape)
        if checkpointing:
            checkpoint_gradients(model)
        found = measure(model, lambda model, m=method: m.prepare(model, Context(seed=0, profile=seen)), ids)  # type: ignore[misc]
        sizes = [found.base, found.copies, found.trained, found.states, found.activations, found.peak]
        base, copies, trained, states, activations, peak = (f"{size / 1e6:.1f}" for size in sizes)
        need, total = f"{found.state_ratio:.3f}", "–" if checkpointing else f"{found.peak_ratio:.3f}"
        print(f"| {name} | {base} | {copies} | {trained} | {states} | {need} | {activations} | {peak} | {total} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}, torch {torch.__version__}, transformers {transformers.__version__}")
    for shape in SHAPES if arguments.shape == "all" else [arguments.shape]:
        report(shape)


if __name__ == "__main__":
    main()
