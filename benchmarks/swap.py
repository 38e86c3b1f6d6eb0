"""How much faster is a swap of weights than a restart of the server? python -m benchmarks.swap [CHECKPOINT]

Serves a checkpoint and a copy with other experts in turn: each round measures one swap and one restart, both until the
canary has answered. Prints a table of seconds; nothing is written.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft_bench.harness.serving.canary import Canary, compare, measure
from esft_bench.harness.serving.engines import VllmEngine
from esft_bench.harness.serving.server import Settings, VllmServer, choose_port

BACKBONE = Path(__file__).parents[1] / "tasks" / "mini" / "backbone"
PROMPT = "User: What is the capital of France?\n\nAssistant: Paris"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=BACKBONE)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "other"
        canaries = {options.checkpoint: _canary(options.checkpoint), other: _disturb(options.checkpoint, other)}
        table = _measure(canaries, options.rounds, Path(scratch))
    Console().print(table)


def _canary(checkpoint: Path) -> Canary:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return measure(model, [AutoTokenizer.from_pretrained(checkpoint)(PROMPT).input_ids])


def _disturb(checkpoint: Path, out: Path) -> Canary:
    """A copy of the checkpoint with noise in its experts, as fine-tuning leaves them; returns its canary."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.add_(parameter.std() * 0.3 * torch.randn_like(parameter))
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)
    return _canary(out)


def _measure(canaries: dict[Path, Canary], rounds: int, scratch: Path) -> Table:
    swaps, restarts, differences = [], [], []
    for number in range(rounds):
        first, second = list(canaries) if number % 2 == 0 else list(canaries)[::-1]
        begin = time.perf_counter()
        log = scratch / f"server-{number}.log"
        with VllmServer(first, log, Settings(), choose_port(None)) as server:
            differences.append(compare(canaries[first], server.canary(canaries[first].prompts)))
            restarts.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            server.swap(second)
            differences.append(compare(canaries[second], server.canary(canaries[second].prompts)))
            swaps.append(time.perf_counter() - begin)
    table = Table(title=f"{VllmEngine(scratch).name}, {os.cpu_count()} cores, {platform.machine()}, {rounds} rounds")
    for column in ("", "median s", "min s", "max s"):
        table.add_column(column, justify="left" if not column else "right")
    for name, seconds in (("restart", restarts), ("swap", swaps)):
        table.add_row(name, *(f"{value:.2f}" for value in (statistics.median(seconds), min(seconds), max(seconds))))
    ratio = statistics.median(restarts) / statistics.median(swaps)
    table.caption = f"a swap is {ratio:.0f} times faster; largest canary difference {max(differences):.1e} nats"
    return table


if __name__ == "__main__":
    main()
