"""What it takes to look at a training while it goes on: the passes over held-out rows, answers, and profiles."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from esft_bench.harness.plan.price.hardware import UTILISATION, Accelerator
from esft_bench.harness.plan.price.step import SimulatedStep
from esft_bench.harness.steps.benchmark import Benchmark
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.training.validation import BATCH
from esft_bench.spec.files import read_jsonl


def longest_answer(lm_eval: Path) -> int:
    """The most tokens of an answer to a benchmark's items, by its configuration; 0 where choices are compared."""
    from lm_eval.tasks._yaml_loader import load_yaml  # here, since lm-eval is slow to import

    options = load_yaml(lm_eval, resolve_func=False)
    if options.get("output_type", "generate_until") != "generate_until":
        return 0
    return int((options.get("generation_kwargs") or {}).get("max_gen_toks", 256))


@dataclass(frozen=True)
class Looks:
    """What all looks at one training come to: tokens that pass through the model, and steps of decoding.

    A step of decoding gives each answer of a batch one token more, and reads all weights for it.
    """

    tokens: int = 0
    decoding: int = 0

    def operations(self, step: SimulatedStep, tokens: int) -> float:
        """Floating-point operations, given a training step on so many `tokens`."""
        return self.tokens * step.forward / tokens

    def seconds(self, step: SimulatedStep, tokens: int, device: Accelerator) -> float:
        """Time on a device, of whose memory rate decoding gets the share that products get of the other."""
        computed = self.operations(step, tokens) / device.rate
        return (computed + self.decoding * step.weight_bytes / device.bandwidth) / UTILISATION


def looks_at(stage: TrainStep, tokenizer: PreTrainedTokenizerBase) -> Looks:
    """The looks at a training; answers and held-out rows count as long as they may become."""
    training, profiling = stage.training, stage.profiling
    tokens = decoding = 0
    if training.evaluate_every is not None:
        times = ceil(training.steps / training.evaluate_every)
        for benchmark, items in stage.looks.benchmarks:
            asked, steps = _asked(benchmark, items.path, tokenizer)
            tokens, decoding = tokens + times * asked, decoding + times * steps
        if training.evaluate_on == "held-out":
            tokens += times * len(stage.tasks) * training.validation_items * training.sequence_length
    if training.profile_every is not None and len(stage.tasks) == 1:
        times = 1 + ceil(training.steps / training.profile_every)
        tokens += times * (2 if stage.alignment else 1) * profiling.sequences * profiling.sequence_length
    return Looks(tokens, decoding)


def _asked(benchmark: Benchmark, items: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Tokens through the model to have a benchmark's items answered once, and steps of decoding."""
    rows, longest = read_jsonl(items), longest_answer(benchmark.lm_eval)
    prompts = sum(len(tokenizer.encode(row["prompt"])) * len(row.get("choices") or [""]) for row in rows)
    return prompts + longest * len(rows), longest * ceil(len(rows) / BATCH)
