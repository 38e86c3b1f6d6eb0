"""From quantised weights to bfloat16: FP8 in blocks as DeepSeek-V3 ships, MXFP4 as gpt-oss ships.

FP8, `weight_dequant` of deepseek-ai/DeepSeek-V3's inference/kernel.py, which its fp8_cast_bf16.py calls: each block of
128 × 128 e4m3 numbers is multiplied by its scale in float32, and rounded to bfloat16. The last blocks of rows and
columns may be cut off.

MXFP4, OCP Microscaling Formats (MX) specification 1.0: 32 e2m1 numbers share a power of two, e8m0, biased by 127, whose
255 is no number. In gpt-oss's checkpoints a byte holds two of them, the low half first, and a matrix is the transpose
of the one in the model (transformers' `convert_moe_packed_tensors`). Powers of two are exact, and so is the result.
"""

import torch
from torch import Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The value of each code (MX specification 1.0, Table 5)."""


def from_fp8(weight: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    """The bfloat16 matrix (rows × columns) of e4m3 numbers, given a scale for each block.

    Raises ValueError, saying what the shape of the scales must be, where it is another.
    """
    rows, columns = weight.shape
    expected = [-(-rows // block[0]), -(-columns // block[1])]
    if list(scales.shape) != expected:
        raise ValueError(f"its scales are of shape {list(scales.shape)} where {expected} is expected")
    out = torch.empty(rows, columns, dtype=torch.bfloat16)
    for number, scale in enumerate(_numbers(scales)):
        at = slice(number * block[0], (number + 1) * block[0])
        out[at] = weight[at].float() * scale.repeat_interleave(block[1])[:columns]
    return out


def from_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The bfloat16 matrix (32 G × rows) of uint8 pairs of e2m1 (rows × G × 16), given their exponents (rows × G).

    Raises ValueError where the shapes are others.
    """
    rows, groups, width = blocks.shape
    if list(scales.shape) != [rows, groups] or width != 16:
        raise ValueError(f"blocks of shape {list(blocks.shape)} have scales of shape {list(scales.shape)}")
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).view(rows, groups, 32)
    values = torch.tensor(E2M1)[codes.int()] * _numbers(scales)[..., None]
    return values.to(torch.bfloat16).view(rows, groups * 32).T.contiguous()


def _numbers(scales: Tensor) -> Tensor:
    """Scales in float32; bytes are e8m0."""
    return (scales.view(torch.float8_e8m0fnu) if scales.dtype == torch.uint8 else scales).float()
