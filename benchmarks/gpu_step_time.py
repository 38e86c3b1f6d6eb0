"""Step time, tokens a second and peak memory at DeepSeek-V2-Lite's exact shapes, on one GPU, in bf16.

    python -m benchmarks.gpu_step_time [--out docs/benchmarks] [--gradient-checkpointing] [--shape v2-lite|tiny]

The model is made on the device, with random weights: nothing is downloaded and nothing passes through main memory. A
step is forward, backward and fused AdamW on one sequence of 4096 random tokens, loss on every token. Methods come one
after the other, each with a model of its own, warm-up first; times are CUDA events, the median over rounds. Where FFT
does not fit, its forward and backward passes are timed alone, with gradients dropped as they come: a lower bound of its
step.

A random router spreads tokens evenly, a trained one does not, and ESFT's time depends on that. So the experts that
tokens go to are drawn: the selected experts of a layer together get the share of tokens they get in the released data.
Counts and shares are those of the paper's intent task (`v2_lite.py`); all methods meet the same draw.

`--shape tiny` runs every line of this on a CPU.
"""

import argparse
import datetime
import gc
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DeepseekV2Config, PreTrainedModel

from benchmarks.step_time import machine
from benchmarks.v2_lite import GATE, SHAPES, SHARE, TOKEN
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.recompute import checkpoint_gradients

COLUMNS = (
    *("method", "parameters trained", "rows trained", "passes, ms", "AdamW, ms", "step, ms"),
    *("ratio", "tokens/s", "peak, GB", "host syncs"),
)

Prepare = Callable[[PreTrainedModel], Sequence[nn.Parameter]]


def selection(model: PreTrainedModel, counts: Sequence[int]) -> dict[int, list[int]]:
    """The first experts of each MoE layer, as many as were released; which ones does not matter."""
    return {index: list(range(count)) for index, count in zip(moe_layers(model), counts, strict=False)}


def stock_fft(model: PreTrainedModel) -> Sequence[nn.Parameter]:
    model.set_experts_implementation("grouped_mm")
    return list(model.parameters())


METHODS: dict[str, Prepare] = {
    "FFT, transformers' grouped_mm": stock_fft,
    "FFT": lambda model: FullFineTuning().prepare(model, Context(seed=0)),
    "LoRA on attention, rank 8": lambda model: Lora().prepare(model, Context(seed=0)),
    "ESFT-Token": lambda model: EsftToken().train_experts(model, selection(model, TOKEN)),
    "ESFT-Gate": lambda model: EsftGate().train_experts(model, selection(model, GATE)),
}


@dataclass(frozen=True)
class Measured:
    """Medians of a method's steps: milliseconds, bytes (None off the GPU), host synchronisations (likewise)."""

    trained: int
    passes: float
    optimizer: float | None
    peak: int | None
    synchronisations: int | None
    share: float


def build(config: DeepseekV2Config, device: torch.device) -> PreTrainedModel:
    """A model with random weights, made on the device in bf16."""
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.train()


def draw_routing(model: PreTrainedModel, tokens: int) -> None:
    """From now on send the tokens of a step [tokens] to drawn experts, those of `TOKEN` with `SHARE` of the pairs."""
    generator = torch.Generator(model.device).manual_seed(0)
    for layer, count in zip(moe_layers(model).values(), TOKEN, strict=False):
        odds = torch.full((layer.num_experts,), (1 - SHARE) / (layer.num_experts - count), device=model.device)
        odds[:count] = SHARE / count
        index = torch.multinomial(odds.expand(tokens, -1), layer.top_k, generator=generator)

        def reroute(module: nn.Module, args: tuple[Any, ...], index: Tensor = index) -> tuple[Any, ...]:
            hidden, _, *rest = args
            return hidden, index, *rest

        layer.experts.register_forward_pre_hook(reroute)


def selected_share(model: PreTrainedModel, ids: Tensor) -> float:
    """Share of the token-expert pairs that go to experts with trainable weights of their own."""
    seen: list[float] = []

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        bank = getattr(module, "selected_experts", torch.empty(0))
        seen.append(float(torch.isin(args[1], bank.to(args[1].dtype)).float().mean()))

    handles = [layer.experts.register_forward_pre_hook(count) for layer in moe_layers(model).values()]
    with torch.no_grad():
        model.base_model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return statistics.mean(seen)


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


def measure(
    prepare: Prepare, arguments: argparse.Namespace, device: torch.device, with_optimizer: bool = True
) -> Measured:
    """Build a model, prepare it and time its steps. Raises torch.OutOfMemoryError where it does not fit."""
    config, tokens = SHAPES[arguments.shape]
    ids = torch.randint(3, config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0)).to(device)
    model = build(config, device)
    draw_routing(model, tokens)
    parameters = prepare(model)
    if arguments.gradient_checkpointing:
        checkpoint_gradients(model)
    share = selected_share(model, ids)
    loss, marks = AnswerLoss(model), Marks(device)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True) if with_optimizer else None
    if optimizer is None:
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))

    def step() -> tuple[Any, Any, Any]:
        start = marks.now()
        (loss(ids, ids) / tokens).backward()
        middle = marks.now()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        return start, middle, marks.now()

    for _ in range(arguments.warm_up):
        step()
    if marks.cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    rounds = [step() for _ in range(arguments.rounds)]
    return Measured(
        trained=sum(parameter.numel() for parameter in parameters),
        passes=statistics.median(marks.milliseconds(start, middle) for start, middle, _ in rounds),
        optimizer=statistics.median(marks.milliseconds(middle, end) for _, middle, end in rounds)
        if optimizer
        else None,
        peak=torch.cuda.max_memory_allocated() if marks.cuda else None,
        synchronisations=synchronisations(step) if marks.cuda else None,
        share=share,
    )


def measure_all(arguments: argparse.Namespace, device: torch.device) -> dict[str, Measured | None]:
    """Every method; None where it does not fit, and then the passes alone under a name of their own."""
    found: dict[str, Measured | None] = {}
    for name, prepare in METHODS.items():
        attempts = [(name, True), (f"{name}: passes alone", False)]
        for title, with_optimizer in attempts if name.startswith("FFT") else attempts[:1]:
            print(f"{title} ...", file=sys.stderr, flush=True)
            try:
                found[title] = measure(prepare, arguments, device, with_optimizer)
                break
            except torch.OutOfMemoryError:
                found[title] = None
            finally:
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    return found


def table(found: dict[str, Measured | None], tokens: int) -> str:
    """Markdown. A step's ratio is to the first FFT that was measured, whole or in its passes alone."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" + "|--:" * (len(COLUMNS) - 1) + "|",
    ]
    reference = next((m.passes + (m.optimizer or 0.0) for m in found.values() if m is not None), None)
    for name, m in found.items():
        if m is None:
            lines.append(f"| {name} | does not fit |" + " |" * (len(COLUMNS) - 2))
            continue
        step = m.passes + (m.optimizer or 0.0)
        cells = [
            name,
            f"{m.trained:,}",
            f"{m.share:.1%}" if m.share else "–",
            f"{m.passes:.1f}",
            "–" if m.optimizer is None else f"{m.optimizer:.1f}",
            f"{step:.1f}",
            f"{step / reference:.2f}" if reference else "–",
            f"{1e3 * tokens / step:,.0f}",
            "–" if m.peak is None else f"{m.peak / 1e9:.1f}",
            "–" if m.synchronisations is None else str(m.synchronisations),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(arguments: argparse.Namespace, device: torch.device) -> tuple[str, str]:
    """The page's file name and its text."""
    tokens = SHAPES[arguments.shape][1]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    today = datetime.datetime.now(datetime.UTC).date()
    shape = "a model of DeepSeek-V2-Lite's shapes" if arguments.shape == "v2-lite" else "a tiny model"
    options = " --gradient-checkpointing" if arguments.gradient_checkpointing else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    text = (
        f"`python -m benchmarks.gpu_step_time --shape {arguments.shape} --rounds {arguments.rounds}{options}`\n\n"
        f"# {name}: a training step of {shape} ({today:%d %B %Y})\n\n"
        f"{versions}, bf16, {tokens} tokens a step, loss on every token, median of {arguments.rounds} rounds.\n"
        f"Drawn routing: {SHARE:.1%} of the token-expert pairs to the experts that the release selects for intent.\n"
        "The paper's ratios of time to FFT: ESFT-Token 0.695, ESFT-Gate 0.733 (A100).\n\n"
        f"{table(measure_all(arguments, device), tokens)}\n"
    )
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    suffix = "-gradient-checkpointing" if arguments.gradient_checkpointing else ""
    return f"{today:%Y-%m-%d}-step-{slug}{suffix}.md", text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="v2-lite")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder to write the page into; printed alone without it")
    arguments = parser.parse_args()
    if arguments.shape == "v2-lite" and not torch.cuda.is_available():
        parser.error("DeepSeek-V2-Lite's shapes need a GPU, and there is none here: --shape tiny runs on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, text = report(arguments, device)
    print(text)
    if arguments.out:
        (arguments.out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
