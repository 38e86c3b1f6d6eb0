"""Packing: samples that share a sequence do not attend to each other, unless a suite asks for that.

Attention is masked (`methods.moe.packing`). Layers that carry a state along, such as convolutions and linear attention,
know nothing of that, and are found out here.
"""

import torch
from transformers import PreTrainedModel

from esft_bench.methods.moe.packing import apart
from esft_bench.spec.errors import UserError

LENGTH = 6
"""Tokens of each of the two samples that a model is tried on."""
LEAK = 0.02
"""The share of what a first sample does to a second one that attends to it, from which on it is no rounding."""


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
            "Some of the model's layers carry what one sample says on to the next one in its sequence, so samples "
            "cannot be packed apart: set training.packed_attention and profiling.packed_attention to across."
        )


def _influence(model: PreTrainedModel, *, packed: bool) -> float:
    """How far the logits of a second sample move at most when the sample before it is another one."""
    rows = min(model.config.get_text_config().vocab_size, 64)
    first, other, second = (torch.randperm(rows, generator=torch.Generator().manual_seed(n))[:LENGTH] for n in range(3))
    positions = torch.arange(LENGTH).repeat(2)[None].to(model.device)
    logits = []
    for before in (first, other):
        ids = {"input_ids": torch.cat([before, second])[None].to(model.device)}
        told = apart(model, {**ids, "position_ids": positions}) if packed else ids
        logits.append(model(**told, use_cache=False).logits[0, LENGTH:])
    return float((logits[0] - logits[1]).abs().max())
