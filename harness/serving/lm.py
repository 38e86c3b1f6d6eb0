"""lm-eval's `local-completions` model, set up for our own vLLM server.

Multiple choice costs most of an evaluation, and most of that is waste: each option is sent with the whole question, and
the server computes the distribution of every token of it. Options of one question share their beginnings, so a few
next-token queries answer them all. By the chain rule, for a question x and an option of tokens o_1 … o_n,

    log p(o | x) = sum over i of log p(o_i | x, o_1 … o_(i-1)),

and each distinct beginning (x, o_1 … o_(i-1)) is asked once, for the tokens that follow it in any option.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
from lm_eval.models.openai_completions import LocalCompletionsAPI

from esft_bench.harness.backbone.model import load_tokenizer
from esft_bench.harness.backbone.prompts import ends
from esft_bench.harness.serving.client import Client
from esft_bench.harness.serving.requests import SAMPLING, TrainingIds

PROMPTS_A_REQUEST = 64
CONNECTIONS = 2
SAMPLERS = 16
"""Connections where each asks for one answer."""
STOPS = 4
"""vLLM's upper bound on the strings that end an answer."""
TOKENS_A_QUERY = 128
"""vLLM's upper bound on the tokens whose log-probability one query asks for."""

ECHO_COST = 2
"""What the log-probabilities of a whole prompt cost, in next-token queries (about; measured on a CPU)."""

Tokens = tuple[int, ...]
Request = tuple[Any, list[int], list[int]]
"""lm-eval's: a key for its cache, the token ids of the context, those of the continuation."""

Distribution = dict[int, float]
"""Log-probability by token id: of the tokens asked for, and of the most likely one."""


class ServerLM(TrainingIds, LocalCompletionsAPI):  # type: ignore[misc]
    """Requests of token ids, many prompts each, over a few connections; three times faster than one prompt each.

    `on_answers`, if set, is called with the number of lm-eval's requests answered, batch by batch.
    """

    on_answers: Callable[[int], None] | None = None
    ends: list[int]

    @classmethod
    def connect(cls, server: Client, checkpoint: Path, max_length: int, trust_remote_code: bool = False) -> Self:
        """A model that asks `server`, with the checkpoint's tokenizer used as in training."""
        lm = cls(
            base_url=f"{server.url}/v1/completions",
            model=server.model,
            tokenizer_backend="huggingface",
            tokenizer=str(checkpoint),
            max_length=max_length,
            batch_size=PROMPTS_A_REQUEST,
            num_concurrent=CONNECTIONS,
            max_retries=2,
            timeout=1800,
            trust_remote_code=trust_remote_code,
            # Without a header of our own lm-eval would send the user's OPENAI_API_KEY.
            header={"Accept": "application/json", **server.headers},
        )
        lm.tokenizer = load_tokenizer(checkpoint, trust_remote_code)
        lm.add_bos_token = True  # where there is one
        lm.ends = ends(lm.tokenizer)
        return lm

    def _client(self) -> httpx.Client:
        return httpx.Client(trust_env=False, timeout=self.timeout, headers=self.header)

    def _create_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As inherited, decoded our way, with no more stops than the server takes; the others cut answers here."""
        payload: dict[str, Any] = super()._create_payload(*args, **kwargs)
        if "stop" not in payload:  # nothing is to be generated
            return payload
        ours = {**SAMPLING, "stop_token_ids": self.ends}
        return ours | payload | {"stop": payload["stop"][:STOPS]}

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers, in order, each up to the first of its request's stops."""
        answers = super().generate_until(requests, disable_tqdm)
        stops = [request.args[1].get("until") or [] for request in requests]
        listed = [[each] if isinstance(each, str) else each for each in stops]
        return [_until(answer, each) for answer, each in zip(answers, listed, strict=True)]

    def sample(self, prompts: Sequence[list[int]], longest: int, seed: int) -> list[list[int]]:
        """See `divergence.Sampler`. A request for each prompt: in one they would share their random numbers."""
        ours = {**SAMPLING, "temperature": 1.0, "top_k": 0, "stop_token_ids": [self.tokenizer.eos_token_id]}
        told = ours | {"model": self.model, "max_tokens": longest, "logprobs": 0, "return_tokens_as_token_ids": True}
        with self._client() as client, ThreadPoolExecutor(SAMPLERS) as pool:

            def ask(place: int) -> list[int]:
                body = told | {"prompt": prompts[place], "seed": seed + place}
                response = client.post(str(self.base_url), json=body)
                response.raise_for_status()
                return [_id_of(name) for name in response.json()["choices"][0]["logprobs"]["tokens"]]

            return list(pool.map(ask, range(len(prompts))))

    async def amodel_call(self, *args: Any, **kwargs: Any) -> Any:
        """As inherited, and tells `on_answers`."""
        answers = await super().amodel_call(*args, **kwargs)
        self._tell(len(answers or ()))
        return answers

    def _tell(self, count: int) -> None:
        if self.on_answers and count:
            self.on_answers(count)

    def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs: Any) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding would say it) of each continuation, in order."""
        options: defaultdict[Tokens, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            options[tuple(request[1])].append(place)
        following: dict[Tokens, set[int]] = {}  # beginning -> the tokens that may follow
        shared: list[int] = []
        for context, places in options.items():
            if max(len(requests[place][2]) for place in places) > ECHO_COST * len(places):
                continue  # as many beginnings at least
            tree = _beginnings(context, [tuple(requests[place][2]) for place in places])
            if len(tree) <= ECHO_COST * len(places) and max(map(len, tree)) < self.max_length:
                following |= tree
                shared += places
        known = self._next_tokens(following, len(shared))
        answers = {place: _chain(tuple(requests[place][1]), tuple(requests[place][2]), known) for place in shared}
        rest = [place for place in range(len(requests)) if place not in answers]
        if rest:
            echoed = super()._loglikelihood_tokens([requests[place] for place in rest], **kwargs)
            answers |= dict(zip(rest, echoed, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _next_tokens(self, following: dict[Tokens, set[int]], answered: int) -> dict[Tokens, Distribution]:
        """Ask the server for what follows each beginning; `answered` requests of lm-eval hang on it."""
        known: dict[Tokens, Distribution] = {}
        with self._client() as client, ThreadPoolExecutor(CONNECTIONS) as pool:

            def ask(batch: list[Tokens]) -> dict[Tokens, Distribution]:
                tokens = sorted(set().union(*(following[beginning] for beginning in batch)))
                response = client.post(str(self.base_url), json=_query(self.model, batch, tokens))
                response.raise_for_status()
                return _read(batch, response.json()["choices"])

            told = 0
            for found in pool.map(ask, _batches(following)):
                known |= found
                share = answered * len(known) // len(following)
                self._tell(share - told)
                told = share
        return known


def _until(answer: str, stops: Iterable[str]) -> str:
    """An answer without what begins at any of the stops."""
    return min((answer.partition(stop)[0] for stop in stops), key=len, default=answer)


def _beginnings(context: Tokens, continuations: Iterable[Tokens]) -> dict[Tokens, set[int]]:
    """Every distinct beginning of context + continuation that a token of a continuation follows, with those tokens."""
    tree: defaultdict[Tokens, set[int]] = defaultdict(set)
    for tokens in continuations:
        for place, token in enumerate(tokens):
            tree[context + tokens[:place]].add(token)
    return dict(tree)


def _chain(context: Tokens, tokens: Tokens, known: dict[Tokens, Distribution]) -> tuple[float, bool]:
    """The chain rule: (log p of the continuation, whether each of its tokens is the most likely one)."""
    total, greedy = 0.0, True
    for place, token in enumerate(tokens):
        distribution = known[context + tokens[:place]]
        total += distribution[token]
        greedy = greedy and distribution[token] == max(distribution.values())
    return total, greedy


def _batches(following: dict[Tokens, set[int]]) -> Iterable[list[Tokens]]:
    """Group beginnings so that no batch asks for too many prompts or tokens; like ones lie together."""
    batch: list[Tokens] = []
    tokens: set[int] = set()
    for beginning in sorted(following, key=lambda each: (sorted(following[each]), each)):
        wanted = tokens | following[beginning]
        if batch and (len(batch) == PROMPTS_A_REQUEST or len(wanted) > TOKENS_A_QUERY):
            yield batch
            batch, wanted = [], following[beginning]
        batch.append(beginning)
        tokens = wanted
    if batch:
        yield batch


def _query(model: str, batch: Sequence[Tokens], tokens: Sequence[int]) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": [list(beginning) for beginning in batch],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": len(tokens),
        "logprob_token_ids": list(tokens),
        "return_tokens_as_token_ids": True,
    }


def _read(batch: Sequence[Tokens], choices: Iterable[dict[str, Any]]) -> dict[Tokens, Distribution]:
    """The most likely token is among them because it is the one that was sampled."""
    return {
        batch[choice["index"]]: {_id_of(name): value for name, value in choice["logprobs"]["top_logprobs"][0].items()}
        for choice in choices
    }


def _id_of(name: str) -> int:
    """The id that a token is named by, `token_id:7`."""
    return int(name.removeprefix("token_id:"))
