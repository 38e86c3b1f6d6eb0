"""A vLLM server that others run: what it says of itself, and whether it is one that a suite can ask.

Which routes it has decides how it may come to hold a model:

- with our worker extension (`swap.WeightSwap`, and VLLM_SERVER_DEV_MODE=1) changed tensors are swapped in;
- with `/v1/load_lora_adapter` (--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1) it takes LoRA adapters by path;
- else it serves what it was started on, the backbone or a merged checkpoint.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from packaging.version import InvalidVersion, Version

from esft_bench.harness.serving.client import Client
from esft_bench.harness.serving.needs import model_config
from esft_bench.spec.errors import UserError
from esft_bench.spec.sections import Evaluation

LOOKS_WITHIN = 10.0
"""Seconds that a server gets to say what it is."""
ANSWERS_WITHIN = 1800.0
"""Seconds that it gets for a swap, or for a canary behind other requests."""
COMES_BACK_WITHIN = 120.0
"""Seconds that one which does not answer is waited for while a run goes on: it may be starting anew."""
SHOWN = 200
ALL = "*"
REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
EXTENSION = "--worker-extension-cls esft_bench.harness.serving.swap.WeightSwap"


class SilentError(UserError):
    """A server does not answer at all."""


@dataclass(frozen=True)
class Seen:
    """What a server says of itself.

    Attributes:
        model: the name that it answers to; `root`: the folder, or the name on the hub, that it was started on.
        max_length: tokens a sequence may have.
        swaps, adapters: whether it has our worker extension, and whether it takes LoRA adapters.
        dtype, generation_config: empty where it does not say (it does with VLLM_SERVER_DEV_MODE=1).
        layers: those that adapters may have, by the last part of their names, or ALL; None where it does not say. vLLM
            leaves out of an adapter, without a word, what others have.
        differs: names of the tensors that were swapped in, None where that is not known; `mark`: whose
            swap was the last.
        sees: whether it sees the folder in which models will lie; None where it cannot be asked.
    """

    url: str
    version: str
    model: str
    root: str
    max_length: int
    swaps: bool = False
    adapters: bool = False
    dtype: str = ""
    generation_config: str = ""
    layers: tuple[str, ...] | None = None
    differs: tuple[str, ...] | None = ()
    mark: str = ""
    sees: bool | None = None

    def stands_on(self, backbone: Path) -> bool:
        """Whether it was started on a backbone's folder."""
        here = Path(self.root)
        return here.is_dir() and here.resolve() == backbone.resolve()

    def is_named(self, backbone: Path) -> bool:
        """Whether it was started on the backbone by its name on the hub; which revision it has is not known."""
        return f"models--{self.root.replace('/', '--')}" in backbone.resolve().parts


class Endpoint(Client):
    """A server that others run, asked with the key that the environment has, which is said nowhere."""

    def __init__(self, url: str, key_env: str, timeout: float = ANSWERS_WITHIN) -> None:
        self._key_env, self._key = key_env, os.environ.get(key_env, "")
        super().__init__(url, timeout, headers={"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _failed(self, path: str, error: httpx.HTTPError) -> str:
        if not isinstance(error, httpx.HTTPStatusError):
            return f"{self.url} does not answer ({type(error).__name__})"
        if error.response.status_code in REFUSED:
            has = "another than it wants" if self._key else "none"
            return f"{self.url} wants a key, and {self._key_env} in the environment is {has}"
        return f"{self.url} failed at {path} ({error.response.status_code}): {self._masked(_message(error.response))}"

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _get(self, path: str) -> httpx.Response:
        try:
            response = self._client.get(path, timeout=LOOKS_WITHIN)
            if response.status_code in REFUSED or response.is_server_error:
                response.raise_for_status()
            return response
        except httpx.HTTPStatusError as error:
            raise UserError(self._failed(path, error)) from error
        except httpx.HTTPError as error:
            raise SilentError(self._failed(path, error)) from error

    def version(self) -> str:
        """The public version of its vLLM. Raises UserError where it does not answer, or is no vLLM server."""
        try:
            return Version(_json(self._get("/version"))["version"]).public
        except (KeyError, TypeError, InvalidVersion) as error:
            raise UserError(f"{self.url} is no vLLM server: it says no version at /version") from error

    def look(self, token: Path | None = None) -> Seen:
        """What it says of itself; `token` is a file that it must see to be handed models.

        Raises UserError where it does not answer, wants another key, or is no vLLM server.
        """
        version, listed = self.version(), _json(self._get("/v1/models"))
        try:
            card = next(each for each in listed["data"] if not each.get("parent"))
            told: dict[str, Any] = {
                "model": str(card["id"]),
                "root": str(card["root"]),
                "max_length": int(card["max_model_len"]),
            }
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise UserError(f"{self.url} is no vLLM server: it says at /v1/models what vLLM does not") from error
        self.model = told["model"]
        adapters = self._get("/v1/load_lora_adapter").status_code == httpx.codes.METHOD_NOT_ALLOWED
        return Seen(self.url, version, **told, adapters=adapters, **self._more(token))

    def _more(self, token: Path | None) -> dict[str, Any]:
        """What it says where it has our worker extension, or is in vLLM's development mode at all."""
        asked = {"method": "esft_served", "kwargs": {"token": str(token.resolve()) if token else ""}}
        try:
            workers = _json(self._client.post("/collective_rpc", json=asked, timeout=LOOKS_WITHIN))["results"]
            differs = [each["differs"] for each in workers]
            return {
                "swaps": True,
                "dtype": str(workers[0]["dtype"]),
                "generation_config": str(workers[0]["generation_config"]),
                "differs": None if None in differs else tuple(sorted(set().union(*differs))),
                "mark": str(workers[0]["mark"]),
                "sees": all(each["sees"] == token.read_text("utf-8") for each in workers) if token else None,
            }
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            pass  # no worker extension
        try:
            told = _json(self._get("/server_info?config_format=json"))["vllm_config"]
            config, adapters = told["model_config"], told.get("lora_config") or {}
            return {
                "dtype": str(config["dtype"]).removeprefix("torch."),
                "generation_config": str(config["generation_config"]),
                "layers": tuple(adapters.get("target_modules") or [ALL]),
            }
        except (ValueError, KeyError, TypeError):
            return {}

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have it take a LoRA adapter, to be asked for by this name. Raises UserError where it does not."""
        try:
            told = {"lora_name": name, "lora_path": str(folder.resolve())}
            self._client.post("/v1/load_lora_adapter", json=told).raise_for_status()
        except httpx.HTTPError as error:
            raise UserError(self._failed("/v1/load_lora_adapter", error)) from error

    def unload_adapter(self, name: str) -> None:
        """Have it let go of an adapter, if it can still be asked."""
        with contextlib.suppress(httpx.HTTPError):
            self._client.post("/v1/unload_lora_adapter", json={"lora_name": name}, timeout=LOOKS_WITHIN)

    def wait(self, seconds: float = COMES_BACK_WITHIN) -> Seen:
        """As `look`; one that does not answer is waited for."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.look()
            except SilentError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(min(2.0, seconds / 4))


def endpoints_of(evaluation: Evaluation, timeout: float = ANSWERS_WITHIN) -> list[Endpoint]:
    """The servers that a suite names."""
    return [Endpoint(url, evaluation.key_env, timeout) for url in evaluation.endpoints]


def check_settings(seen: Sequence[Seen], dtype: str, length: int) -> None:
    """Refuse servers of another type of numbers, with less room, that decode in a way of their own, or differ."""
    for each in seen:
        if each.dtype and each.dtype != dtype:
            raise UserError(
                f"{each.url} computes in {each.dtype} and the suite in {dtype}: start it with --dtype {dtype}"
            )
        if each.max_length < length:
            raise UserError(
                f"{each.url} takes {each.max_length} tokens and the suite asks with {length}: start it with "
                f"--max-model-len {length}, or lower evaluation.max_length"
            )
        if each.generation_config not in ("", "vllm"):
            raise UserError(
                f"{each.url} decodes by the generation_config.json of its model: start it with --generation-config vllm"
            )
        if each.sees is False:
            raise UserError(f"{each.url} does not see the files of --run-dir: give a folder that the server sees, too")
    kinds = {(each.version, each.swaps): each.url for each in seen}
    if len(kinds) > 1:
        raise UserError(
            f"{' and '.join(sorted(kinds.values()))} differ in vLLM's version or in the extension: start all alike"
        )


def check_models(seen: Sequence[Seen], backbone: Path) -> None:
    """Refuse servers of another model than the backbone, or, where nothing can be swapped in, a merged one of it."""
    ours = model_config(backbone)
    for each in seen:
        if each.stands_on(backbone) or each.is_named(backbone):
            continue
        folder = Path(each.root)
        theirs = model_config(folder) if (folder / "config.json").is_file() else {}
        alike = all(theirs.get(key) == ours.get(key) for key in ("model_type", "num_hidden_layers", "hidden_size"))
        if each.swaps or not theirs or not alike:
            raise UserError(f"{each.url} serves {each.root}, which is not the suite's backbone: start it on {backbone}")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json() if response.is_success else None
    except ValueError:
        return None


def _message(response: httpx.Response) -> str:
    """What a server says about an error, its first line."""
    told = response.text
    try:
        error = response.json()["error"]
        told = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        pass
    return next((line.strip()[:SHOWN] for line in told.splitlines() if line.strip()), "it says nothing")
