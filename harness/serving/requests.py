"""What both engines share: texts become ids as in training, and decoding is ours, whatever lies beside the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import GenerationConfig, PreTrainedTokenizerBase

from esft_bench.harness.backbone.model import question_ids, text_ids
from esft_bench.harness.serving.canary import Canary
from esft_bench.spec.errors import UserError

SAMPLING: dict[str, float] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Greedy, and nothing that bends it. A task's own lm-eval configuration may say otherwise, for both engines alike."""

DECODING: dict[str, Any] = {
    **SAMPLING,
    "ends_at": "the tokenizer's end-of-sequence token, the task's stops and its longest answer",
    "generation_config": "none (the checkpoint's is not read)",
    "special_tokens": "left out of answers",
}
"""How every answer is decoded, for a run's manifest."""


class TrainingIds:
    """For a model of lm-eval's, before it among the bases: requests as the ids that training made of such texts.

    BOS first where the tokenizer has one, EOS never, and a continuation encoded by itself, as answers are.
    """

    tokenizer: Any
    max_length: Any
    prefix_token_id: Any
    _loglikelihood_tokens: Callable[..., list[tuple[float, bool]]]

    def tok_encode(
        self,
        string: str | Sequence[str],
        left_truncate_len: int | None = None,
        add_special_tokens: bool | None = None,
        **_: Any,
    ) -> list[Any]:
        """The ids of a text, or of each of several; without BOS where `add_special_tokens` is False."""
        if not isinstance(string, str):
            return [self.tok_encode(each, left_truncate_len, add_special_tokens) for each in string]
        ids = (text_ids if add_special_tokens is False else question_ids)(self.tokenizer, string)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self, strings: Sequence[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask of texts, padded to one length: LongTensors (B, T)."""
        ids = self.tok_encode(strings, left_truncate_len)
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side=padding_side, return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a question and of what may follow it; spaces between them belong to the latter."""
        kept = context.rstrip()
        return self.tok_encode(kept), self.tok_encode(context[len(kept) :] + continuation, add_special_tokens=False)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, windows after windows where they are longer than what the model reads.

        lm-eval's own windows; its versions for the two engines differ by a token and put a second BOS before texts.
        """
        longest = self.max_length - 2  # a server wants room for a token to generate, and one precedes each window
        windows: list[tuple[int, tuple[Any, list[int], list[int]]]] = []
        for place, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            found = get_rolling_token_windows(ids, self.prefix_token_id, max_seq_len=longest, context_len=1)
            windows += [(place, (None, *make_disjoint_window(window))) for window in found]
        totals = [0.0] * len(requests)
        answers = self._loglikelihood_tokens([window for _, window in windows], disable_tqdm=True)
        for (place, _), (likelihood, _greedy) in zip(windows, answers, strict=True):
            totals[place] += likelihood
        return totals


def generation_config(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """transformers' form of `DECODING`."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=pad)


def check_ids(lm: LM, canary: Canary) -> None:
    """Raise UserError where a model to be tested makes other ids of the canary's texts than training did."""
    for (question, answer), prompt in zip(canary.turns, canary.prompts, strict=False):
        context, continuation = lm._encode_pair(question, answer)
        asked = [*context, *continuation, lm.tokenizer.eos_token_id][: len(prompt)]
        if asked != prompt:
            place = next(
                (n for n, pair in enumerate(zip(asked, prompt, strict=False)) if pair[0] != pair[1]), len(asked)
            )
            raise UserError(
                f"The tokenizer that tests makes other ids of '{' '.join(question.split())[:60]}' than the one that "
                f"trained, {asked[place : place + 4]} for {prompt[place : place + 4]} at place {place}: the tokenizer "
                "files of backbone and merged checkpoint must be the same."
            )
