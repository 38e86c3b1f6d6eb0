"""How much main memory do processes take that load one model together?

    python -m benchmarks.loading [PROCESSES] [apart]

`apart`: each holds experts of its own (training.expert_parallel), and reads no others.

A model of about 1 GB, random, is written, loaded and shared out among processes without accelerators (gloo), so that
the shards lie in main memory, too. Counted is what the kernel cannot drop (RssAnon and RssShmem in /proc/PID/status;
pages of the checkpoint's files are the cache's), above what a process holds before, summed over all at each moment.
"""

import os
import sys
import threading
import time
from bisect import bisect_right
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import OlmoeConfig, OlmoeForCausalLM

from esft_bench.harness.backbone.model import load_model, load_shapes
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.together.launching import launch
from esft_bench.harness.training.together.machines import SHARDED, Crew
from esft_bench.harness.training.together.sharding import read_onto, share_out
from esft_bench.methods.moe.experts import use_fast_experts
from esft_bench.spec.progress import Progress

EVERY = 0.005
"""Seconds from one look at the memory to the next."""
SHAPE = {"hidden_size": 1024, "intermediate_size": 128, "num_hidden_layers": 9, "num_experts": 64, "vocab_size": 8192}


class Watch(threading.Thread):
    """Looks at this process's memory until it is told to stop: pairs of time and bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = [(time.monotonic(), held())]
        self.over = threading.Event()

    def run(self) -> None:
        """Look."""
        while not self.over.wait(EVERY):
            self.seen.append((time.monotonic(), held()))


def held() -> int:
    """Bytes of this process that only writing to a swap would free."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def share(told: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One process's part: load, share out, and say what it held when."""
    watch = Watch()
    watch.start()
    folder = Path(told["folder"])
    model = load_shapes(folder) if told["apart"] else load_model(folder, device=read_onto())
    use_fast_experts(model.requires_grad_(False))
    loss = AnswerLoss(model)
    share_out(loss, torch.device("cpu"), "no", torch.float32, folder if told["apart"] else None)
    watch.over.set()
    watch.join()
    parameters = [each.to_local() if isinstance(each, DTensor) else each for each in loss.parameters()]
    kept = sum(parameter.nbytes for parameter in parameters)
    return {"seen": watch.seen, "shards": kept}


def peak(processes: list[list[tuple[float, int]]]) -> int:
    """The most that all of them held at one moment, above what each began with."""
    moments = sorted(moment for seen in processes for moment, _ in seen)
    return max(sum(_at(seen, moment) - seen[0][1] for seen in processes) for moment in moments)


def _at(seen: list[tuple[float, int]], moment: float) -> int:
    return seen[max(0, bisect_right(seen, moment, key=lambda one: one[0]) - 1)][1]


def main() -> None:
    """Print the peak as a multiple of the model."""
    count = int(sys.argv[1]) if sys.argv[1:] else 4
    os.environ[SHARDED] = "1"
    with TemporaryDirectory() as place:
        folder = Path(place)
        with torch.device("cpu"):
            model = OlmoeForCausalLM(OlmoeConfig(**SHAPE))
        size = sum(parameter.nbytes for parameter in model.parameters())
        model.save_pretrained(folder / "model")
        del model
        told = {"folder": str(folder / "model"), "apart": "apart" in sys.argv}
        results = launch("benchmarks.loading:share", told, Crew(count), folder, lambda step, steps: None)
    most = peak([result["seen"] for result in results])
    alone = max(max(held for _, held in result["seen"]) - result["seen"][0][1] for result in results)
    print(
        f"{count} processes, a model of {size / 1e9:.2f} GB, shards of {sum(r['shards'] for r in results) / 1e9:.2f} GB"
    )
    print(f"peak of all together: {most / size:.2f} copies; of the one that reads: {alone / size:.2f}")


if __name__ == "__main__":
    main()
