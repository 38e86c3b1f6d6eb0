"""What a swap costs, held against one of the whole model: python -m benchmarks.swap [--shape v2-lite] [--engine …]

A random backbone of the shape is made on the spot, with two adapters of a twentieth of each layer's experts, no expert
in both, and one of all tensors. Each is swapped in turn into a served backbone: a small one, the other small one (the
first one's experts go back), and the whole. `swap` is what replaces the weights, `cell` all of a cell's loading: what
the adapter changes found out, weights replaced, canary answered. The last line is the ratio of the small ones to the
whole; nothing is written.
"""

import argparse
import gc
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV2Config

from benchmarks.step_time import machine
from esft_bench.harness.backbone.model import load_model
from esft_bench.harness.merging import Merger, Model
from esft_bench.harness.serving.canary import Canary, measure
from esft_bench.harness.serving.engines import PRECISION, SwappingEngine, TransformersEngine, VllmEngine
from esft_bench.harness.serving.server import Settings
from esft_bench.harness.store.names import ADAPTER
from esft_bench.methods.atomic import write_tensors
from esft_bench.methods.tensor_files import tensor_files

BACKBONE = Path(__file__).parents[1] / "tasks" / "mini" / "backbone"
PROMPT = "User: What is the capital of France?\n\nAssistant: Paris"
V2_LITE: dict[str, Any] = {
    **{"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27},
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None},
    **{"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 102400},
    **{"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    **{"n_group": 1, "topk_group": 1, "topk_method": "greedy", "max_position_embeddings": 2048},
}
SMALL = {"hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 256, "num_hidden_layers": 10}
SHAPES: dict[str, dict[str, Any]] = {
    "gigabyte": V2_LITE | SMALL | {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 2048},
    "v2-lite": V2_LITE,
}
"""`gigabyte`: 1 GB in float32; `v2-lite`: DeepSeek-V2-Lite's, 31 GB in bfloat16."""
SHARE = 0.05
PARTS = ("small", "other small", "whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="gigabyte")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--dtype", choices=PRECISION, default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        base = _backbone(SHAPES[options.shape], options.dtype, Path(scratch))
        models = {part: Model(base, (_adapter(base, part),), Path(scratch) / "scratch") for part in PARTS}
        models["backbone"] = Model(base, (), Path(scratch) / "scratch")
        canaries = {part: _canary(model, options.dtype) for part, model in models.items()}
        settings = Settings(dtype=options.dtype, max_length=256)
        vllm = options.engine == "vllm"
        tolerance = 1e-3 if options.dtype == "float32" else 1.0  # rounding of a random model may choose other experts
        logs = Path(scratch) / "logs"
        engine = VllmEngine(logs, settings, tolerance) if vllm else TransformersEngine(settings, 1, tolerance)
        try:
            table = _measured(engine, models, canaries, options.rounds)
        finally:
            engine.close()
        size = sum(path.stat().st_size for path in base.glob("*.safetensors")) / 1e9
    table.title = f"{machine()}: {engine.name}, {options.shape}, {size:.2f} GB in {options.dtype}"
    Console().print(table)


def _backbone(shape: dict[str, Any], dtype: str, scratch: Path) -> Path:
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(DeepseekV2Config(**shape), dtype=getattr(torch, dtype))
    model.save_pretrained(scratch / "base")
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(scratch / "base")
    return scratch / "base"


def _adapter(base: Path, part: str) -> Path:
    """The artifact of a training that changed a part of the backbone, each tensor by some noise."""
    folder = base.parent / part
    (folder / ADAPTER).mkdir(parents=True)
    Merger(method="fft", hyperparameters={}).save(folder)
    for number, path in enumerate(sorted(set(tensor_files(base).files.values()))):
        with safe_open(path, "pt") as file:
            changed = {name: _noisy(file.get_tensor(name)) for name in file.keys() if _is_in(part, name)}  # noqa: SIM118
        write_tensors(folder / ADAPTER / f"adapter-{number}.safetensors", changed)
    return folder


def _is_in(part: str, name: str) -> bool:
    expert = re.search(r"\.experts\.(\d+)\.", name)
    count = round(SHARE * V2_LITE["n_routed_experts"])
    first = PARTS.index(part) * count
    return part == "whole" or (expert is not None and first <= int(expert[1]) < first + count)


def _noisy(tensor: Tensor) -> Tensor:
    return tensor + (0.1 * tensor.float().std() * torch.randn(tensor.shape)).to(tensor.dtype)


def _canary(model: Model, dtype: str) -> Canary:
    with model.whole() as checkpoint:
        loaded = load_model(checkpoint, PRECISION[dtype])
        canary = measure(loaded, [AutoTokenizer.from_pretrained(checkpoint)(PROMPT).input_ids])
    del loaded
    gc.collect()
    return canary


@contextmanager
def _timed(engine: SwappingEngine) -> Iterator[list[float]]:
    """The seconds that each replacement of weights takes."""
    seconds: list[float] = []
    swap = engine.replace

    def timed(*arguments: Any) -> None:
        begin = time.perf_counter()
        swap(*arguments)
        seconds.append(time.perf_counter() - begin)

    engine.replace = timed  # type: ignore[method-assign]
    yield seconds
    engine.replace = swap  # type: ignore[method-assign]


def _measured(engine: SwappingEngine, models: dict[str, Model], canaries: dict[str, Canary], rounds: int) -> Table:
    swaps: dict[str, list[float]] = {part: [] for part in PARTS}
    loads: dict[str, list[float]] = {part: [] for part in PARTS}
    worst = 0.0
    for _ in range(rounds):
        engine.load(models["backbone"], canaries["backbone"])
        for part in PARTS:
            with _timed(engine) as seconds:
                loaded = engine.load(models[part], canaries[part])
            if loaded.how != "swap":
                raise SystemExit(f"{part}: {loaded}")
            swaps[part] += seconds
            loads[part].append(loaded.seconds)
            worst = max(worst, loaded.difference)
    return _table(swaps, loads, worst)


def _table(swaps: dict[str, list[float]], loads: dict[str, list[float]], worst: float) -> Table:
    table = Table("", "swap s", "of whole", "cell s", "of whole", caption=f"largest canary difference {worst:.1e} nats")
    for part in PARTS:
        row = [part]
        for taken in (swaps, loads):
            seconds = median(taken[part])
            row += [f"{seconds:.3f}", f"1/{median(taken['whole']) / seconds:.1f}"]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
