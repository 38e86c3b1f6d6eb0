"""Engines: what turns a merged checkpoint into answers. One engine serves a whole run, one checkpoint after another.

`VllmEngine` keeps one vLLM server and swaps its weights; `TransformersEngine` is for machines where vLLM cannot run.
Either proves by a canary that it serves the weights it was asked to serve, or refuses.
"""

import hashlib
import importlib.metadata
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
import transformers
from lm_eval.api.model import LM
from packaging.version import Version

from esft_bench.harness.backbone.model import load_model, load_tokenizer
from esft_bench.harness.evaluate import quiet
from esft_bench.harness.serving.canary import Canary, compare, measure
from esft_bench.harness.serving.lm import ServerLM
from esft_bench.harness.serving.local_lm import LocalLM
from esft_bench.harness.serving.requests import check_ids, generation_config
from esft_bench.harness.serving.server import Settings, VllmServer, choose_port, log_names, model_config, served_length
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError

FLOAT32_TOLERANCE = 1e-3
"""Largest difference of log-probability, in nats, between float32 implementations; rounding reaches about 1e-5."""

PRECISION = {"float32": "float32", "bfloat16": "bf16"}
"""The suite's name for an engine's type of numbers."""


@dataclass(frozen=True)
class Loaded:
    """How a checkpoint came to be served.

    Attributes:
        how: `start` (the engine's first), `swap`, `restart` (a swap could not be proven) or `kept` (the very same
            weights were there already).
        seconds: wall time, canary included.
        difference: largest difference of log-probability to the canary, in nats.
    """

    how: Literal["start", "swap", "restart", "kept"]
    seconds: float
    difference: float


class Engine(Protocol):
    """Serves one checkpoint at a time to lm-eval."""

    @property
    def name(self) -> str:
        """What results say generated the answers, e.g. `vllm 0.32.0`."""
        ...

    def load(self, checkpoint: Path, canary: Canary) -> Loaded:
        """Serve the merged checkpoint in a folder, proven by `canary`.

        The folder may go once this returns. Raises UserError if the weights served are not those of the canary.
        """
        ...

    def lm(self) -> LM:
        """The loaded checkpoint as lm-eval's model."""
        ...

    def close(self) -> None:
        """Give back memory and processes. The next `load` starts afresh."""
        ...


class VllmEngine:
    """One vLLM server for a run. A checkpoint's weights replace those before it; the canary proves it happened."""

    def __init__(self, logs: Path, settings: Settings | None = None, tolerance: float = FLOAT32_TOLERANCE) -> None:
        """Nothing starts before the first `load`; the server's logs go to the folder `logs`."""
        self._settings = settings or Settings()
        self._tolerance = tolerance
        self._logs = log_names(logs)
        self._server: VllmServer | None = None
        self._served = ""  # digest of the served weights; empty when unknown
        self._tensors: Set[str] = set()  # names of those that the server began with
        self._lm: LM | None = None

    @property
    def name(self) -> str:
        """`vllm` and its version, without what a build adds to it."""
        return f"vllm {Version(importlib.metadata.version('vllm')).public}"

    def load(self, checkpoint: Path, canary: Canary) -> Loaded:
        """See `Engine.load`: swap, and restart where the swap fails or cannot be proven."""
        begin = time.perf_counter()
        digest = weights_digest(checkpoint)
        how: Literal["start", "swap", "restart", "kept"] = "start"
        difference = float("inf")
        if self._server and self._server.alive:
            how = "kept" if digest == self._served else "swap"
            difference = self._swap(self._server, checkpoint, canary, keep=how == "kept")
            if difference > self._tolerance:
                how = "restart"
        if how in ("start", "restart"):
            difference = self._restart(checkpoint, canary)
        if difference > self._tolerance:
            self.close()
            raise UserError(
                f"{self.name} does not compute what {checkpoint} computed when it was trained: log-probabilities "
                f"differ by {difference:.2g}, {self._tolerance:.2g} allowed; choose the engine transformers"
            )
        check_ids(self.lm(), canary)
        self._served = digest
        return Loaded(how, time.perf_counter() - begin, difference)

    def _swap(self, server: VllmServer, checkpoint: Path, canary: Canary, keep: bool) -> float:
        """Swap (unless `keep`) and return the canary's difference; infinite where a weight was not replaced.

        A checkpoint of the tensors that the server began with replaces every layer and expert, and the server sees to
        it that each one was; so the canary need not tell the weights before from those after.
        """
        self._served = ""
        if tensor_files(checkpoint).files.keys() != self._tensors:
            return float("inf")
        try:
            if not keep:
                server.swap(checkpoint)
            return compare(canary, server.canary(canary.prompts))
        except UserError:  # the server died or refused: a restart is the answer to that, too
            return float("inf")

    def _restart(self, checkpoint: Path, canary: Canary) -> float:
        self.close()
        log = next(self._logs)
        self._tensors = tensor_files(checkpoint).files.keys()
        self._server = VllmServer(checkpoint, log, self._settings, choose_port(self._settings.port))
        length = served_length(model_config(checkpoint), self._settings)
        with quiet():
            trusted = self._settings.trust_remote_code
            self._lm = ServerLM.connect(self._server.url, checkpoint, length, trusted)
        return compare(canary, self._server.canary(canary.prompts))

    def lm(self) -> LM:
        """See `Engine.lm`. The same object as long as the server lives."""
        if self._lm is None:
            raise RuntimeError("load a checkpoint first")
        return self._lm

    def close(self) -> None:
        """See `Engine.close`."""
        if self._server:
            self._server.close()
        self._server, self._lm, self._served = None, None, ""


def weights_digest(checkpoint: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's weight files."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class TransformersEngine:
    """lm-eval's own transformers model, loaded anew for each checkpoint: slower, and runs wherever torch does."""

    def __init__(
        self, settings: Settings | None = None, batch_size: int = 32, tolerance: float = FLOAT32_TOLERANCE
    ) -> None:
        """Of the settings, `dtype`, `max_length` and `trust_remote_code` count here."""
        self._settings = settings or Settings()
        self._batch_size = batch_size
        self._tolerance = tolerance
        self._lm: LM | None = None

    @property
    def name(self) -> str:
        """`transformers` and its version."""
        return f"transformers {transformers.__version__}"

    def load(self, checkpoint: Path, canary: Canary) -> Loaded:
        """See `Engine.load`. There is nothing to swap: `how` is always `start`."""
        begin = time.perf_counter()
        self.close()
        trusted = self._settings.trust_remote_code
        with quiet():
            model = load_model(checkpoint, PRECISION[self._settings.dtype], trusted)
            tokenizer = load_tokenizer(checkpoint, trusted)
        model.generation_config = generation_config(tokenizer)
        difference = compare(canary, measure(model, canary.prompts))
        if difference > self._tolerance:
            raise UserError(
                f"{checkpoint} does not compute what it computed when it was trained: log-probabilities differ by "
                f"{difference:.2g}, {self._tolerance:.2g} allowed"
            )
        with quiet():
            length = served_length(model_config(checkpoint), self._settings)
            self._lm = LocalLM.of(model, tokenizer, length, self._batch_size)
        check_ids(self._lm, canary)
        return Loaded("start", time.perf_counter() - begin, difference)

    def lm(self) -> LM:
        """See `Engine.lm`."""
        if self._lm is None:
            raise RuntimeError("load a checkpoint first")
        return self._lm

    def close(self) -> None:
        """See `Engine.close`."""
        self._lm = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
