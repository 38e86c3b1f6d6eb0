"""Packing: samples that share a sequence do not attend to each other, unless a suite asks for that.

Positions begin anew with each sample, and transformers masks attention by them: eager and SDPA with a mask of blocks,
flash attention by the lengths of the samples, for which a batch must be one row. Layers that carry a state along
(linear attention, convolutions) know nothing of it, and are found out here.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.spec.errors import UserError

LENGTH = 6
"""Tokens of each of the two samples that a model is tried on."""
LEAK = 0.05
"""The share of what a first sample does to a second one that attends to it, from which on it is no rounding."""


def in_one_row(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of packed rows, (B, T) each, as the model's attention wants it: (1, B · T) for flash attention."""
    if "flash" not in str(model.config._attn_implementation) or "position_ids" not in inputs:
        return inputs
    return {name: tensor.reshape(1, -1) for name, tensor in inputs.items()}


@torch.no_grad()
def check_isolation(model: PreTrainedModel) -> None:
    """Raise UserError where what one sample of a sequence says reaches the next one, whatever their positions."""
    was_training = model.training
    model.eval()
    try:
        packed, across = _influence(model, packed=True), _influence(model, packed=False)
    finally:
        model.train(was_training)
    if packed > LEAK * across:
        raise UserError(
            "Some of the model's layers carry what one sample says on to the next one in its sequence, so samples cannot "
            "be packed apart: set training.packed_attention and profiling.packed_attention to across."
        )


def _influence(model: PreTrainedModel, *, packed: bool) -> float:
    """How far the logits of a second sample move, in the median, when the sample before it is another one."""
    rows = min(model.config.get_text_config().vocab_size, 64)
    first, other, second = (torch.randperm(rows, generator=torch.Generator().manual_seed(n))[:LENGTH] for n in range(3))
    positions = torch.arange(LENGTH).repeat(2)[None].to(model.device)
    told = {"position_ids": positions} if packed else {}
    logits = [
        model(input_ids=torch.cat([before, second])[None].to(model.device), use_cache=False, **told).logits[0, LENGTH:]
        for before in (first, other)
    ]
    return float((logits[0] - logits[1]).abs().float().median())
