"""What the tests of methods share: a few random tokens, their profile, and a few steps of training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.moe.profile import Profile, profile

MOE = ["deepseek-v2", "qwen2-moe", "qwen3-moe", "olmoe", "mixtral"]


def tokens(rows: int = 4, length: int = 12, seed: int = 1) -> Tensor:
    """Random token ids, no padding among them."""
    return torch.randint(3, 96, (rows, length), generator=torch.Generator().manual_seed(seed))


def profiled(model: PreTrainedModel) -> Profile:
    """A profile of the tokens above."""
    ids = tokens()
    return profile(model, [(ids, torch.ones_like(ids))])


def train(model: PreTrainedModel, parameters: Sequence[nn.Parameter], steps: int = 3) -> torch.optim.Optimizer:
    """Some AdamW steps, with a weight decay that would move anything it reached."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.5)
    ids = tokens()
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def logits(model: PreTrainedModel) -> Tensor:
    """The model's logits on the tokens above."""
    with torch.no_grad():
        output: Tensor = model.eval()(input_ids=tokens()).logits
    return output
