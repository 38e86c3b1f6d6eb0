"""A canary: the log-probabilities a trained model gives a few fixed prompts.

The training step measures it on the trained model itself. A server that gives the same log-probabilities has therefore
proven everything in between at once: export, merge and the swap of weights.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from transformers import PreTrainedModel

from esft_bench.spec.errors import UserError

BFLOAT16_TOLERANCE = 0.3
"""In nats: bfloat16 kernels differ in rounding, and a router near a tie then picks another expert (facts of vLLM)."""


class Canary(BaseModel):
    """Prompts as token ids and, for each, the log-probability of every token but the first given those before it.

    `turns` are the questions and answers that training made the prompts of, where it did; a prompt may be cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompts: list[list[int]]
    logprobs: list[list[float]]
    turns: list[tuple[str, str]] = []

    @model_validator(mode="after")
    def _lengths_fit(self) -> "Canary":
        if [len(prompt) - 1 for prompt in self.prompts] != [len(row) for row in self.logprobs]:
            raise ValueError("a canary has one log-probability for each token after the first of a prompt")
        return self

    def save(self, path: Path) -> None:
        """Write it as JSON. The caller's folder becomes visible as a whole, so no renaming here."""
        path.write_text(self.model_dump_json())

    @classmethod
    def load(cls, path: Path) -> "Canary":
        """Read what `save` wrote. Raises pydantic's ValidationError if it is not a canary."""
        return cls.model_validate(json.loads(path.read_text()))


@torch.no_grad()
def measure(model: PreTrainedModel, prompts: Sequence[Sequence[int]], turns: Sequence[tuple[str, str]] = ()) -> Canary:
    """The log-probabilities `model` gives `prompts` (token ids, two or more each), in evaluation mode.

    One forward pass a prompt, so no padding can blur it; the log-softmax is taken in float32 whatever the model's type.
    Raises UserError where one is no finite number.
    """
    if not prompts or min(len(prompt) for prompt in prompts) < 2:
        raise ValueError("a canary needs prompts of two tokens or more")
    was_training = model.training
    model.eval()
    try:
        logprobs = [_token_logprobs(model, prompt) for prompt in prompts]
    finally:
        model.train(was_training)
    if not all(math.isfinite(value) for row in logprobs for value in row):
        raise UserError("The model gives log-probabilities that are no finite numbers: its weights are no use.")
    return Canary(prompts=[list(prompt) for prompt in prompts], logprobs=logprobs, turns=list(turns))


def _token_logprobs(model: PreTrainedModel, prompt: Sequence[int]) -> list[float]:
    # B = 1 prompt of T tokens, V the vocabulary: ids [B, T], logits [T, V], logprobs [T - 1, V].
    ids = torch.tensor([list(prompt)], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    logprobs = torch.log_softmax(logits[:-1], dim=-1)
    row: list[float] = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return row


def compare(expected: Canary, got: Canary) -> float:
    """The largest absolute difference of log-probability, in nats. A NaN anywhere makes it infinite.

    Raises ValueError if the two are about different prompts.
    """
    if expected.prompts != got.prompts:
        raise ValueError("canaries about different prompts cannot be compared")
    worst = 0.0
    for row, other in zip(expected.logprobs, got.logprobs, strict=True):
        for a, b in zip(row, other, strict=True):
            difference = abs(a - b)
            # NaN compares false with everything; it must never pass for a small difference.
            worst = max(worst, difference) if difference == difference else float("inf")
    return worst
