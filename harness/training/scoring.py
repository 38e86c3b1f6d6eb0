"""A model in training, scored as a trained one is: asked in this process, greedily, by the tasks' own metrics.

Choices are compared by likelihood. Answers that a judge would read are held against their reference (chrF).
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from esft_bench.harness.evaluate import evaluate, quiet
from esft_bench.harness.serving.local_lm import LocalLM
from esft_bench.harness.serving.requests import generation_config
from esft_bench.harness.training.validation import BATCH
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.record import ItemScore
from esft_bench.tasks.likeness import likeness


class Scored(BaseModel):
    """What a model is scored on: a task as lm-eval needs it, and the file of the items."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    metric: str
    lm_eval: Path
    items: Path


class Scorer:
    """Scores `model`, in place, on all of `on`; questions and answers have at most `length` tokens together."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, on: Sequence[Scored], length: int
    ) -> None:
        self.model, self.on = model, [(each, read_jsonl(each.items)) for each in on]
        self.decoding = generation_config(tokenizer)
        with quiet():
            self.lm = LocalLM.of(model, tokenizer, length, BATCH)

    def __call__(self) -> float:
        """The mean score, 0 to 100; each of `on` counts alike. The model must be in evaluation mode.

        Raises UserError where none of the items of one can be scored.
        """
        device = self.model.device.type
        # lm-eval ends a surrounding autocast, unless it is told the same.
        self.lm.mixed_precision_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        own, self.model.generation_config = self.model.generation_config, self.decoding
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = evaluate(self.lm, self.on, Path(folder))
        finally:
            self.model.generation_config = own
        return sum(_mean(name, scores) for name, scores in found.items()) / len(found)


def _mean(name: str, scores: Sequence[ItemScore]) -> float:
    values = [value for score in scores if (value := _value(score)) is not None]
    if not values:
        raise UserError(f"Task {name}: none of its {len(scores)} rows could be scored: set training.evaluate_by: loss.")
    return 100.0 * sum(values) / len(values)


def _value(score: ItemScore) -> float | None:
    """An item's score; one for a judge is scored by its reference."""
    return likeness(score.completion, score.answer) if score.state == "unscored" else score.score
