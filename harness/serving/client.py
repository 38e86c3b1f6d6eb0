"""Requests to a vLLM server, whoever started it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from esft_bench.harness.serving.canary import Canary
from esft_bench.spec.errors import UserError

MODEL = "model"
"""The name that our own servers answer to, whatever weights they hold."""


class Client:
    """A server at `url`, asked for what it calls `model`. Requests go through no proxy that the environment names."""

    def __init__(self, url: str, timeout: float, model: str = MODEL, headers: Mapping[str, str] | None = None) -> None:
        self.url, self.model, self.headers = url, model, dict(headers or {})
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=timeout, headers=self.headers)

    def _failed(self, path: str, error: httpx.HTTPError) -> str:
        """The sentence about a request that failed."""
        return f"{self.url} failed at {path}: {error}"

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST JSON and return the JSON answer. Raises UserError if the server has died or refuses."""
        try:
            response = self._client.post(path, json=body)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise UserError(self._failed(path, error)) from error
        return response.json()

    def swap(self, base: Path, changed: Sequence[Path], names: Iterable[str], mark: str = "") -> dict[str, Any]:
        """Make the served tensors `names` those of `base` with the changes in folders, and forget every cached prefix.

        `mark` is kept, for this client to see that no other one came after it. Returns what
        `swap.WeightSwap.swap_weights` says. Raises UserError where a layer does not serve them then.
        """
        folders = [str(folder.resolve()) for folder in changed]
        arguments = {"base": str(base.resolve()), "changed": folders, "names": sorted(names), "mark": mark}
        answer = self.post("/collective_rpc", {"method": "swap_weights", "kwargs": arguments})
        left = [name for worker in answer["results"] for name in worker["left"]]
        if left:
            raise UserError(f"the vLLM server does not serve what was to replace the weights of `{left[0]}`")
        if not self.post("/reset_prefix_cache")["success"]:
            raise UserError("the vLLM server could not reset its prefix cache: a request is still running")
        first: dict[str, Any] = answer["results"][0]
        return first

    def canary(self, prompts: list[list[int]]) -> Canary:
        """The log-probabilities the served weights give `prompts` (token ids)."""
        body = {"model": self.model, "prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        choices = sorted(self.post("/v1/completions", body)["choices"], key=lambda choice: int(choice["index"]))
        pairs = zip(prompts, choices, strict=True)
        rows = [choice["logprobs"]["token_logprobs"][1 : len(prompt)] for prompt, choice in pairs]
        return Canary(prompts=prompts, logprobs=rows)

    def close(self) -> None:
        """End the connections. Closing twice is fine."""
        self._client.close()
