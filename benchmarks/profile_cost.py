"""Cost of the profiling pass against a plain forward pass, interleaved so that other load falls on both alike.

    python -m benchmarks.profile_cost [--rounds 20] [--threads 1]

1024 tokens (8 × 128), hidden size 512, 4 layers of 64 experts, 6 of them chosen, float32. The plain pass is the same
model by transformers' own grouped products, without the LM head, as the profiling pass is. Times are CPU seconds of
this process; the ratio is the median over rounds of the two passes beside each other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from rich.console import Console

from benchmarks.step_time import build, machine
from esft_bench.methods.moe.profile import profile


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build("512").eval()
    model.set_experts_implementation("grouped_mm")
    ids = torch.randint(3, 2048, (8, 128), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    @torch.no_grad()
    def plain() -> None:
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)

    pairs = []
    for number in range(arguments.rounds + 2):
        pair = seconds(plain), seconds(profile, model, [(ids, mask)])
        pairs += [pair] if number >= 2 else []  # the first rounds warm up
    ratio = statistics.median(b / a for a, b in pairs)
    console = Console(width=120)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    console.print(f"{machine()}, {arguments.threads} thread(s), {versions}")
    for name, place in (("plain forward pass", 0), ("profiling pass", 1)):
        console.print(f"{name}: {1e3 * statistics.median(pair[place] for pair in pairs):.0f} CPU ms")
    console.print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
