"""How far a model has moved from the base model, on the base model's own answers.

With p the base model and q another one, over answers y of tokens y_1 … y_T to a prompt x, drawn from p,

    KL(p ‖ q | x) = E_{y ~ p(·|x)} [log p(y | x) − log q(y | x)]

The base model answers each of N prompts once, at temperature 1, and every model says how likely it finds these tokens.
What is reported is the Monte-Carlo estimate of the divergence a token, in bits, a ratio of two sums:

    KL̂ = Σ_n [log2 p(y_n | x_n) − log2 q(y_n | x_n)] / Σ_n T_n

An item is an answer; what it adds is its own difference over the mean length T̄, and the mean of the items is KL̂. All
models are asked about the same answers, so they are paired over them. Single items may be negative, where q finds an
answer likelier than p does; the expectation is not. Answers are drawn and asked about as token ids, their last one the
end of the sequence unless they were cut, so no text is tokenised twice.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from esft_bench.harness.backbone.model import question_ids
from esft_bench.spec.progress import Progress
from esft_bench.spec.record import ItemScore
from esft_bench.spec.strict import Strict
from esft_bench.tasks.prompt import question
from esft_bench.tasks.task import Item

LONGEST = 64
"""Tokens; longer answers are cut there. What is measured is then the divergence over their beginnings."""
SEED = 20240701
BATCH = 64


class Drawn(Strict):
    """An answer of the base model: the ids of the prompt and of what it said, and log p of these, in nats."""

    id: str
    prompt: str
    completion: str
    context: list[int]
    answer: list[int]
    likelihood: float


class Sampler(Protocol):
    """A served model that also answers by chance."""

    tokenizer: Any
    max_length: int

    def sample(self, prompts: Sequence[list[int]], longest: int, seed: int) -> list[list[int]]:
        """The ids of an answer to each prompt, drawn at temperature 1, with the end of the sequence where it came."""

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]: ...


def draw(lm: Sampler, items: Sequence[Item], progress: Progress) -> list[Drawn]:
    """Have the base model answer every prompt once. A prompt too long for an answer loses its beginning."""
    room = lm.max_length - LONGEST - 1
    contexts = [question_ids(lm.tokenizer, question(item["prompt"]))[-room:] for item in items]
    answers: list[list[int]] = []
    for start in range(0, len(contexts), BATCH):
        answers += lm.sample(contexts[start : start + BATCH], LONGEST, SEED + start)
        progress(len(answers), len(contexts))
    found = _likelihoods(lm, contexts, answers)
    return [
        Drawn(
            id=item["id"],
            prompt=item["prompt"],
            completion=lm.tokenizer.decode(answer, skip_special_tokens=True),
            context=context,
            answer=answer,
            likelihood=likelihood,
        )
        for item, context, answer, likelihood in zip(items, contexts, answers, found, strict=True)
    ]


def divergence(lm: Sampler, drawn: Sequence[Drawn]) -> list[ItemScore]:
    """What each of the base model's answers adds to the divergence of a served model from it, in bits a token."""
    found = _likelihoods(lm, [each.context for each in drawn], [each.answer for each in drawn])
    length = sum(len(each.answer) for each in drawn) / len(drawn)
    return [
        ItemScore(
            id=each.id,
            score=(each.likelihood - likelihood) / math.log(2) / length,
            prompt=each.prompt,
            completion=each.completion,
        )
        for each, likelihood in zip(drawn, found, strict=True)
    ]


def _likelihoods(lm: Sampler, contexts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[float]:
    """Log-likelihoods of answers after their prompts, in nats."""
    requests = [(None, context, answer) for context, answer in zip(contexts, answers, strict=True)]
    return [likelihood for likelihood, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]
