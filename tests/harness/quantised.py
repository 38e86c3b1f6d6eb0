"""Checkpoints quantised as DeepSeek-V3 and gpt-oss ship, and the bfloat16 ones that they stand for, written plainly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

SIDE, LARGEST = 128, 448.0
"""Of a block, and of the numbers of e4m3."""
CODES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])

Tensors = dict[str, Tensor]


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 numbers, and what each block of them is to be multiplied by."""
    rows, columns = weight.shape
    packed = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // SIDE), -(-columns // SIDE))
    for i in range(len(scales)):
        for j in range(scales.shape[1]):
            at = slice(i * SIDE, (i + 1) * SIDE), slice(j * SIDE, (j + 1) * SIDE)
            scales[i, j] = weight[at].float().abs().max() / LARGEST
            packed[at] = (weight[at].float() / scales[i, j]).to(torch.float8_e4m3fn)
    return packed, scales


def of_fp8(packed: Tensor, scales: Tensor, block: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    """The bfloat16 numbers, one by one."""
    out = torch.empty(packed.shape, dtype=torch.bfloat16)
    for i in range(packed.shape[0]):
        for j in range(packed.shape[1]):
            out[i, j] = packed[i, j].float() * scales[i // block[0], j // block[1]].float()
    return out


def to_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks and scales of a layer's experts (experts × in × out), as gpt-oss has them (experts × out × G × 16)."""
    groups = weight.float().transpose(1, 2).unflatten(2, (-1, 32))
    exponents = groups.abs().amax(-1).clamp(min=1e-9).log2().floor().int() - 2
    scaled = groups / torch.exp2(exponents.float())[..., None]
    codes = (scaled.abs()[..., None] - CODES).abs().argmin(-1) + 8 * (scaled < 0).int()
    return (codes[..., 0::2] + 16 * codes[..., 1::2]).to(torch.uint8), (exponents + 127).to(torch.uint8)


def _as_fp8(name: str, tensor: Tensor) -> tuple[Tensors, Tensor]:
    if not ("_proj" in name and name.endswith(".weight") and tensor.dim() == 2):
        return {name: tensor}, tensor
    packed, scales = to_fp8(tensor)
    return {name: packed, f"{name}_scale_inv": scales}, of_fp8(packed, scales)


def _as_mxfp4(name: str, tensor: Tensor) -> tuple[Tensors, Tensor]:
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return {name: tensor}, tensor
    blocks, scales = to_mxfp4(tensor)
    return {f"{name}_blocks": blocks, f"{name}_scales": scales}, convert_moe_packed_tensors(blocks, scales)


CONFIGS = {
    "fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [SIDE, SIDE], "activation_scheme": "dynamic"},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
}
WAYS: dict[str, Callable[[str, Tensor], tuple[Tensors, Tensor]]] = {"fp8": _as_fp8, "mxfp4": _as_mxfp4}


def quantise(folder: Path, method: str, files: int = 2) -> tuple[Path, Path]:
    """A folder's checkpoint quantised, in several files, and what it stands for in bfloat16; both lie beside it."""
    packed, plain = folder.with_name(f"{folder.name}-{method}"), folder.with_name(f"{folder.name}-{method}-plain")
    weights = load_file(folder / "model.safetensors")
    made = {name: WAYS[method](name, tensor.to(torch.bfloat16)) for name, tensor in weights.items()}
    for out in (packed, plain):
        shutil.copytree(folder, out, ignore=shutil.ignore_patterns("model*.safetensors"))
    save_file({name: tensor for name, (_, tensor) in made.items()}, plain / "model.safetensors", {"format": "pt"})
    tensors = {name: tensor for parts, _ in made.values() for name, tensor in parts.items()}
    where = {name: f"model-{number % files}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        held = {name: tensors[name].contiguous() for name in where if where[name] == file}
        save_file(held, packed / file, {"format": "pt"})
    (packed / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    config = json.loads((folder / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIGS[method]}))
    return packed, plain
