"""Engines: what turns a trained model into answers. One engine serves a whole run, one model after another.

`VllmEngine` keeps one vLLM server; `TransformersEngine` is for machines where vLLM cannot run. Both keep the backbone:
what a model changes is swapped in, and the backbone's tensors are put back for what the one before changed. Either
proves that it serves what it was asked to serve, or refuses.
"""

import importlib.metadata
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
import transformers
from lm_eval.api.model import LM
from packaging.version import Version
from transformers import PreTrainedModel

from esft_bench.harness.backbone.model import load_model, load_tokenizer
from esft_bench.harness.evaluate import quiet
from esft_bench.harness.merging import Model
from esft_bench.harness.serving.canary import Canary, compare, measure
from esft_bench.harness.serving.lm import ServerLM
from esft_bench.harness.serving.local_lm import LocalLM
from esft_bench.harness.serving.needs import model_config, served_length
from esft_bench.harness.serving.requests import check_ids, generation_config
from esft_bench.harness.serving.server import Settings, VllmServer, choose_port, log_names
from esft_bench.methods.moe.places import places
from esft_bench.methods.overlay import MODEL_CONFIG, Overlaid, overlaid
from esft_bench.spec.errors import UserError

FLOAT32_TOLERANCE = 1e-3
"""Largest difference of log-probability, in nats, between float32 implementations; rounding reaches about 1e-5."""

PRECISION = {"float32": "float32", "bfloat16": "bf16"}
"""The suite's name for an engine's type of numbers."""

UNPROVEN = float("inf")
"""The difference of what could not be swapped in."""


@dataclass(frozen=True)
class Loaded:
    """How a model came to be served.

    Attributes:
        how: `start` (there was nothing to swap into), `swap`, `restart` (a swap could not be proven, or changes more
            than weights) or `kept` (the very same model was there already).
        seconds: wall time, canary included.
        difference: largest difference of log-probability to the canary, in nats.
    """

    how: Literal["start", "swap", "restart", "kept"]
    seconds: float
    difference: float


class Engine(Protocol):
    """Serves one model at a time to lm-eval."""

    @property
    def name(self) -> str:
        """What results say generated the answers, e.g. `vllm 0.32.0`."""
        ...

    def load(self, model: Model, canary: Canary) -> Loaded:
        """Serve a model, proven by `canary`. Its folders may go once this returns, but for the backbone's.

        Raises UserError if the weights served are not those of the canary, MethodError where an adapter does not fit.
        """
        ...

    def lm(self) -> LM:
        """The loaded model as lm-eval's."""
        ...

    def confirm(self) -> None:
        """Raise UserError where it has not served the loaded model alone since `load`, by another's doing."""
        ...

    def close(self) -> None:
        """Give back memory and processes. The next `load` starts afresh."""
        ...


def changes_more(tensors: Overlaid, changed: Sequence[Path]) -> bool:
    """Whether folders change more of a base than weights that it has."""
    return bool(tensors.added) or any((folder / MODEL_CONFIG).is_file() for folder in changed)


def unlike(name: str, model: Model, difference: float, tolerance: float) -> str:
    """The sentence about an engine that does not give the log-probabilities of a canary."""
    what = f"{name} does not compute what {model.place} computed when it was trained"
    return f"{what}: log-probabilities differ by {difference:.2g}, {tolerance:.2g} allowed"


class SwappingEngine(ABC):
    """What engines share: swap the changed tensors where that can be proven, else start on the merged checkpoint."""

    def __init__(self, settings: Settings | None, tolerance: float) -> None:
        self._settings = settings or Settings()
        self._tolerance = tolerance
        self._base: Path | None = None
        self._differs: set[str] | None = None
        """Names of the tensors in which the model served differs from `_base`; None where more does."""
        self._lm: LM | None = None
        self._why = ""  # the last swap was not proven

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Engine.name`."""

    @property
    @abstractmethod
    def _alive(self) -> bool:
        """Whether a model is served."""

    @abstractmethod
    def _open(self, checkpoint: Path) -> None:
        """Serve the checkpoint in a folder, in place of whatever is served."""

    @abstractmethod
    def replace(self, base: Path, changed: Sequence[Path], names: set[str]) -> None:
        """Make the tensors `names` of the model served those of `base` with the changes in the folders `changed`.

        Raises UserError where it is not proven that they are.
        """

    @abstractmethod
    def _measure(self, prompts: list[list[int]]) -> Canary:
        """The canary of the model served."""

    def start(self, base: Path) -> None:
        """Serve a backbone as it is, unproven, for models that will be swapped in. Raises UserError."""
        self._open(base)
        self._base, self._differs = base, set()

    def load(self, model: Model, canary: Canary) -> Loaded:
        """See `Engine.load`: swap, and restart where the swap fails or cannot be proven."""
        begin, held = time.perf_counter(), self._holds(model.backbone)
        how: Literal["start", "swap", "restart"] = "swap" if held else "start"
        with model.changed() as changed:
            tensors = overlaid(model.backbone, changed)
            swaps = not changes_more(tensors, changed)
            if swaps and not held:
                self.start(model.backbone)
            difference = self._swapped(model.backbone, changed, tensors, canary) if swaps else UNPROVEN
        if difference > self._tolerance:
            how = "restart" if self._alive or swaps else "start"
            difference = self._started_on(model, canary)
            self._base, self._differs = model.backbone, tensors.names if swaps else None
        if difference > self._tolerance:
            self.close()
            advice = "; choose the engine transformers" if isinstance(self, VllmEngine) else ""
            raise UserError(unlike(self.name, model, difference, self._tolerance) + advice)
        check_ids(self.lm(), canary)
        return Loaded(how, time.perf_counter() - begin, difference)

    def _started_on(self, model: Model, canary: Canary) -> float:
        """Serve a model's merged checkpoint, in place of whatever is served; returns the canary's difference."""
        with model.whole() as checkpoint:
            self._open(checkpoint)
            return compare(canary, self._measure(canary.prompts))

    def _holds(self, base: Path) -> bool:
        """Whether what is served differs from `base` in known tensors, and in nothing else."""
        return self._alive and self._base == base and self._differs is not None

    def _swapped(self, base: Path, changed: Sequence[Path], tensors: Overlaid, canary: Canary) -> float:
        """Swap and return the canary's difference; infinite where it is not proven that every tensor was replaced.

        The proof is for each tensor, so the canary need not tell the weights before from those after.
        """
        names = tensors.names | (self._differs or set())
        self._differs = None
        try:
            if names:
                self.replace(base, changed, names)
            difference = compare(canary, self._measure(canary.prompts))
        except UserError as error:  # the server died or refused: a restart is the answer to that, too
            self._why = str(error)
            return UNPROVEN
        self._differs = tensors.names
        return difference

    def lm(self) -> LM:
        """See `Engine.lm`. The same object as long as nothing is started anew."""
        if self._lm is None:
            raise RuntimeError("load a model first")
        return self._lm

    def confirm(self) -> None:
        """See `Engine.confirm`: what this process alone reaches stays as it is."""
        return

    def close(self) -> None:
        """See `Engine.close`."""
        self._lm, self._base, self._differs = None, None, None


class VllmEngine(SwappingEngine):
    """One vLLM server for a run. A model's changes replace those before it; digests and the canary prove that."""

    def __init__(self, logs: Path, settings: Settings | None = None, tolerance: float = FLOAT32_TOLERANCE) -> None:
        """Nothing starts before the first `load`; the server's logs go to the folder `logs`."""
        super().__init__(settings, tolerance)
        self._logs = log_names(logs)
        self._server: VllmServer | None = None

    @property
    def name(self) -> str:
        """`vllm` and its version, without what a build adds to it."""
        return f"vllm {Version(importlib.metadata.version('vllm')).public}"

    @property
    def _alive(self) -> bool:
        return self._server is not None and self._server.alive

    def _open(self, checkpoint: Path) -> None:
        self.close()
        self._server = VllmServer(checkpoint, next(self._logs), self._settings, choose_port(self._settings.port))
        length = served_length(model_config(checkpoint), self._settings.max_length)
        with quiet():
            self._lm = ServerLM.connect(self._server, checkpoint, length, self._settings.trust_remote_code)

    def replace(self, base: Path, changed: Sequence[Path], names: set[str]) -> None:
        """See `SwappingEngine.replace`."""
        assert self._server
        self._server.swap(base, changed, names)

    def _measure(self, prompts: list[list[int]]) -> Canary:
        assert self._server
        return self._server.canary(prompts)

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        if self._server:
            self._server.close()
        self._server = None


class TransformersEngine(SwappingEngine):
    """lm-eval's own transformers model: slower, and runs wherever torch does."""

    def __init__(
        self, settings: Settings | None = None, batch_size: int = 32, tolerance: float = FLOAT32_TOLERANCE
    ) -> None:
        """Of the settings, `dtype`, `max_length` and `trust_remote_code` count here."""
        super().__init__(settings, tolerance)
        self._batch_size = batch_size
        self._model: PreTrainedModel | None = None
        self._places: dict[str, torch.Tensor] = {}

    @property
    def name(self) -> str:
        """`transformers` and its version."""
        return f"transformers {transformers.__version__}"

    @property
    def _alive(self) -> bool:
        return self._model is not None

    def _open(self, checkpoint: Path) -> None:
        self.close()
        trusted = self._settings.trust_remote_code
        with quiet():
            model = load_model(checkpoint, PRECISION[self._settings.dtype], trusted)
            tokenizer = load_tokenizer(checkpoint, trusted)
            model.generation_config = generation_config(tokenizer)
            length = served_length(model_config(checkpoint), self._settings.max_length)
            self._lm = LocalLM.of(model, tokenizer, length, self._batch_size)
        self._model, self._places = model, places(model)

    @torch.no_grad()
    def replace(self, base: Path, changed: Sequence[Path], names: set[str]) -> None:
        """Each tensor into its place in memory, which must be of its shape."""
        tensors = overlaid(base, changed)
        for name in names:
            place, value = self._places.get(name), tensors.read(name)
            if place is None or place.shape != value.shape:
                raise UserError(f"{self.name} keeps `{name}` in no form in which it could be replaced")
            place.copy_(value)
            if not torch.equal(place, value.to(place)):
                raise UserError(f"`{name}` was not replaced")

    def _measure(self, prompts: list[list[int]]) -> Canary:
        assert self._model is not None
        return measure(self._model, prompts)

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        self._model, self._places = None, {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
