"""Packed sequences: what a model is told so that samples in one row do not attend to each other.

Positions that begin anew with each sample are all that flash attention needs, which then takes a batch as one row. For
eager attention and SDPA most models make a mask of blocks of them, but not all (gpt-oss): the mask is made here, by
transformers' own function, for whatever kinds of attention the model's layers have.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import create_masks_for_generate


def apart(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of `model`, (B, T) each, with what keeps samples apart, where they have `position_ids` that say so."""
    positions = inputs.get("position_ids")
    if positions is None:
        return inputs
    if "flash" in str(model.config._attn_implementation):
        return {name: tensor.reshape(1, -1) for name, tensor in inputs.items()}
    shape = torch.empty(*positions.shape, 1, dtype=model.dtype, device=positions.device)
    masks = create_masks_for_generate(model.config, shape, None, None, positions)
    return {**inputs, "attention_mask": masks}
