"""A model in memory as lm-eval's."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from lm_eval.models.huggingface import HFLM
from torch import distributed
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from esft_bench.harness.serving.requests import TrainingIds, generation_config


class LocalLM(TrainingIds, HFLM):  # type: ignore[misc]
    """lm-eval's own transformers model, asked in training's ids."""

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int, batch_size: int) -> Self:
        """That of a model with its tokenizer; questions and answers have at most `length` tokens together."""
        return cls(
            pretrained=model,
            backend="causal",
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=length,
            add_bos_token=True,
        )

    def sample(self, prompts: Sequence[list[int]], longest: int, seed: int) -> list[list[int]]:
        """See `divergence.Sampler`."""
        greedy = generation_config(self.tokenizer)
        chance = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": longest}
        padded = self.tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            config = GenerationConfig(**{**greedy.to_diff_dict(), **chance})
            found = self.model.generate(**padded.to(self.device), generation_config=config)
        answers = found[:, padded["input_ids"].shape[1] :].tolist()
        return [_up_to(answer, self.tokenizer.eos_token_id) for answer in answers]

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As inherited; processes that share a model's parameters make as many steps as the longest of them."""
        together = distributed.is_initialized() and distributed.get_world_size() > 1
        answers: torch.Tensor = super()._model_generate(*args, **kwargs, **({"synced_gpus": True} if together else {}))
        return answers


def _up_to(ids: list[int], end: int) -> list[int]:
    """Ids up to the first end, and with it."""
    return ids[: ids.index(end) + 1] if end in ids else ids
