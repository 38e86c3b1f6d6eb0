"""Timing a row: a model of its own on the device, prepared as training prepares it, and some steps of it."""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.gpu.rows import Row
from benchmarks.gpu.shapes import Shape, assumed_context, draw_routing
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.optimizer import held_in, make
from esft_bench.harness.training.precision import held
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.recompute import checkpoint_gradients
from esft_bench.spec.training import Training

WARM_UP = 3


@dataclass(frozen=True)
class Measured:
    """A row's steps: `passes` and `optimizer` in median milliseconds.

    Attributes:
        trained: parameters trained.
        passes: forward and backward. `optimizer`: AdamW; None without it.
        peak: bytes allocated at most, and `synchronisations`, how often the host waited in a step; None off the GPU.
        share: of the token-expert pairs, those of experts with trainable weights of their own.
    """

    trained: int
    passes: float
    optimizer: float | None
    peak: int | None
    synchronisations: int | None
    share: float


class Marks:
    """Points in time on the device: events on a GPU, the wall clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def now(self) -> Any:
        """Mark what the device does next."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two marks."""
        if not self.cuda:
            return 1e3 * float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end))


def synchronisations(step: Callable[[], object]) -> int:
    """How often the host waits for the GPU in a step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def measure(shape: Shape, row: Row, device: torch.device, profile: Path | None = None) -> Measured:
    """Build a model, prepare it and time its steps; on a GPU, a table of its kernels is added to `profile`.

    Raises torch.OutOfMemoryError where it does not fit.
    """
    ids = torch.randint(3, shape.config.vocab_size, (1, shape.tokens), generator=torch.Generator().manual_seed(0))
    model = shape.build(device)
    context = assumed_context(model)
    drawn = draw_routing(model, context, shape.tokens)
    parameters = row.prepare(model, context)
    if row.checkpointing:
        checkpoint_gradients(model)
    marks = Marks(device)
    with ExitStack() as stack:
        if row.mixed:
            stack.enter_context(held(parameters, held_in(row.optimizer or "adamw")))
        step = _stepper(model, parameters, row, ids.to(device), marks)
        for _ in range(WARM_UP):
            step()
        if marks.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        steps = [step() for _ in range(row.rounds)]
        peak = torch.cuda.max_memory_allocated() if marks.cuda else None
        waits = synchronisations(step) if marks.cuda else None
        if marks.cuda and profile is not None:
            with profile.open("a", encoding="utf-8") as file:
                file.write(kernels(step) + "\n")
    return Measured(
        trained=sum(parameter.numel() for parameter in parameters),
        passes=statistics.median(marks.milliseconds(start, middle) for start, middle, _ in steps),
        optimizer=statistics.median(marks.milliseconds(middle, end) for _, middle, end in steps)
        if row.optimizer
        else None,
        peak=peak,
        synchronisations=waits,
        share=_selected_share(model, drawn),
    )


def kernels(step: Callable[[], object], rows: int = 25) -> str:
    """What a step's time on the device goes to, by kernel and by operator: the longest ones, as text."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    table: str = profiler.key_averages().table(
        sort_by="self_device_time_total", row_limit=rows, max_name_column_width=70
    )
    return table


def _stepper(
    model: PreTrainedModel, parameters: Sequence[nn.Parameter], row: Row, ids: Tensor, marks: Marks
) -> Callable[[], tuple[Any, Any, Any]]:
    """A step as training takes it on `ids` [1, T]: its start, the end of the backward pass, its end."""
    loss = AnswerLoss(model)
    optimizer = make(Training(optimizer=row.optimizer), parameters) if row.optimizer else None
    for parameter in () if row.optimizer else parameters:
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))

    def step() -> tuple[Any, Any, Any]:
        start = marks.now()
        with torch.autocast(ids.device.type, torch.bfloat16):
            total = loss(ids, ids)
        (total / ids.numel()).backward()
        middle = marks.now()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        return start, middle, marks.now()

    return step


def _selected_share(model: PreTrainedModel, drawn: Mapping[int, Tensor]) -> float:
    """Share of the drawn token-expert pairs that go to experts with trainable weights of their own."""
    shares = []
    for number, layer in moe_layers(model).items():
        index = drawn[number]
        chosen = torch.tensor(selected_experts(layer), dtype=index.dtype, device=index.device)
        shares.append(float(torch.isin(index, chosen).float().mean()))
    return statistics.mean(shares)


def product_rate(device: torch.device, size: int = 8192) -> float:
    """Operations a second of a large bf16 matrix product on random data: the rate that the device reaches."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    marks, times = Marks(device), []
    for _ in range(10):
        start = marks.now()
        left @ right
        times.append(marks.milliseconds(start, marks.now()))
    return 2 * size**3 / (1e-3 * statistics.median(times))
