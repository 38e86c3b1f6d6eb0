"""Engines that are servers of others: every model is proven there as it is on our own, and refused where it is not."""

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM

from esft_bench.harness.evaluate import quiet
from esft_bench.harness.merging import Model
from esft_bench.harness.serving.canary import Canary, compare
from esft_bench.harness.serving.client import Client
from esft_bench.harness.serving.endpoint import ALL, Endpoint, Seen, check_settings, endpoints_of
from esft_bench.harness.serving.engines import Engine, Loaded, SwappingEngine, changes_more, unlike
from esft_bench.harness.serving.lm import ServerLM
from esft_bench.harness.serving.needs import model_config, served_length
from esft_bench.harness.serving.requests import check_ids
from esft_bench.harness.serving.server import Settings
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.store.names import ADAPTER
from esft_bench.methods.overlay import MODEL_CONFIG, overlaid
from esft_bench.methods.tensor_files import tensor_files
from esft_bench.spec.errors import UserError

PEFT_CONFIG = "adapter_config.json"
ABSORBED = "kv_b_proj"
"""vLLM's multi-head latent attention decodes with a product of this layer's weight that an adapter does not reach."""


def external_engine(wanted: EngineSettings, settings: Settings, tolerance: float) -> Engine:
    """The engine that asks `wanted.endpoint`; where nothing can be swapped in there, others that the suite names too.

    Raises UserError where it does not answer.
    """
    endpoints = endpoints_of(wanted.evaluation)
    endpoints.sort(key=lambda each: each.url != wanted.endpoint)
    if endpoints[0].wait().swaps:
        return SwappedEndpoint(endpoints[0], settings, tolerance)
    return FixedEndpoints(endpoints, settings, tolerance)


def _check(seen: Seen, backbone: Path, settings: Settings) -> None:
    """Refuse a server that was started anew as one that cannot be asked."""
    check_settings([seen], settings.dtype, served_length(model_config(backbone), settings.max_length))


def _connected(endpoint: Endpoint, backbone: Path, settings: Settings) -> ServerLM:
    length = served_length(model_config(backbone), settings.max_length)
    with quiet():
        return ServerLM.connect(endpoint, backbone, length, settings.trust_remote_code)


class SwappedEndpoint(SwappingEngine):
    """A server with our worker extension: what models change is swapped in, as into our own."""

    def __init__(self, endpoint: Endpoint, settings: Settings, tolerance: float) -> None:
        super().__init__(settings, tolerance)
        self._endpoint, self._mark = endpoint, ""

    @property
    def name(self) -> str:
        """The server's address."""
        return self._endpoint.url

    @property
    def _alive(self) -> bool:
        return self._lm is not None

    def _open(self, checkpoint: Path) -> None:
        """Make it serve the backbone again, whatever was swapped in before, by whomever."""
        self.close()
        seen = self._endpoint.wait()
        _check(seen, checkpoint, self._settings)
        known = seen.stands_on(checkpoint) and seen.differs is not None
        self._mark = seen.mark
        if names := set(seen.differs or ()) if known else set(tensor_files(checkpoint).files):
            self.replace(checkpoint, [], names)
        self._lm = _connected(self._endpoint, checkpoint, self._settings)

    def _started_on(self, model: Model, canary: Canary) -> float:
        """Once more from the backbone on: it may have been started anew, or another client been at it."""
        with model.changed() as changed:
            tensors = overlaid(model.backbone, changed)
            if changes_more(tensors, changed):
                raise UserError(f"{self.name} cannot be made to serve {model.place}, which changes more than weights")
            self._open(model.backbone)
            self._why = ""
            difference = self._swapped(model.backbone, changed, tensors, canary)
        if self._why:
            raise UserError(f"{self.name} cannot be made to serve {model.place}: {self._why}")
        return difference

    def replace(self, base: Path, changed: Sequence[Path], names: set[str]) -> None:
        """See `SwappingEngine.replace`."""
        expected, self._mark = self._mark, secrets.token_hex(8)
        told = self._endpoint.swap(base, changed, names, self._mark)
        if told["before"] != expected:
            raise UserError(f"another client swaps weights into {self.name}: it serves one run at a time")

    def _measure(self, prompts: list[list[int]]) -> Canary:
        return self._endpoint.canary(prompts)

    def confirm(self) -> None:
        """See `Engine.confirm`."""
        if self._endpoint.look().mark != self._mark:
            self.close()
            raise UserError(
                f"another client swapped weights into {self.name}, or it was started anew, while it was asked: it "
                "serves one run at a time"
            )


class FixedEndpoints:
    """Servers that hold what they were started on, and LoRA adapters where they take these.

    All are looked through, the first one first: a merged checkpoint may be served by any of them.
    """

    def __init__(self, endpoints: Sequence[Endpoint], settings: Settings, tolerance: float) -> None:
        self._endpoints, self._settings, self._tolerance = endpoints, settings, tolerance
        self._lm: LM | None = None
        self._adapter: tuple[Endpoint, str] | None = None
        self._held: tuple[Endpoint, str] | None = None

    @property
    def name(self) -> str:
        """The first server's address."""
        return self._endpoints[0].url

    def load(self, model: Model, canary: Canary) -> Loaded:
        """See `Engine.load`. Raises UserError where no server holds the model, or can be handed it."""
        begin = time.perf_counter()
        self.close()
        why: list[str] = []
        for endpoint in self._endpoints:
            try:
                difference = self._held_by(endpoint, model, canary)
            except UserError as error:
                why.append(str(error))
                continue
            self._lm = _connected(endpoint, model.backbone, self._settings)
            check_ids(self._lm, canary)
            return Loaded("kept", time.perf_counter() - begin, difference)
        raise UserError(
            f"{why[0]}; start it with our worker extension (docs/clusters.md), or a server on the merged checkpoint, "
            "which --keep-checkpoints leaves in the run's folder"
        )

    def _held_by(self, endpoint: Endpoint, model: Model, canary: Canary) -> float:
        """The canary's difference of a model that a server holds, under the name by which it is asked from now on.

        Raises UserError where it does not hold it.
        """
        seen = endpoint.wait() if endpoint is self._endpoints[0] else endpoint.look()
        _check(seen, model.backbone, self._settings)
        try:
            if not holds(seen, model):
                self._hand_over(endpoint, seen, model)
            difference = compare(canary, one_by_one(endpoint, canary.prompts))
            if difference > self._tolerance:
                raise UserError(unlike(endpoint.url, model, difference, self._tolerance))
        except UserError:
            self._let_go()
            raise
        self._held = endpoint, seen.root
        return difference

    def _hand_over(self, endpoint: Endpoint, seen: Seen, model: Model) -> None:
        """Have a server take a model's adapter. Raises UserError where it cannot, or would not serve all of it."""
        folder = plain_adapter(model)
        on_backbone = seen.stands_on(model.backbone) or seen.is_named(model.backbone)
        if folder is None or not seen.adapters or not on_backbone or not self._takes_all(seen, folder):
            raise UserError(f"{endpoint.url} serves {seen.root} and cannot be made to serve {model.place}")
        name = f"esft-bench-{secrets.token_hex(8)}"
        endpoint.load_adapter(name, folder)
        endpoint.model, self._adapter = name, (endpoint, name)

    def _takes_all(self, seen: Seen, adapter: Path) -> bool:
        """Whether a server leaves nothing out of an adapter: it says so, or the canary would, as in float32."""
        if seen.layers is None:
            return self._settings.dtype == "float32"
        names = {name.rpartition(".")[2] for name in _targets(adapter)}
        return seen.layers == (ALL,) or names <= set(seen.layers)

    def lm(self) -> LM:
        """See `Engine.lm`."""
        if self._lm is None:
            raise RuntimeError("load a model first")
        return self._lm

    def confirm(self) -> None:
        """See `Engine.confirm`."""
        if self._held is None or self._held[0].look().root != self._held[1]:
            raise UserError(f"{self.name} was started on another model while it was asked")

    def _let_go(self) -> None:
        if self._adapter:
            endpoint, name = self._adapter
            endpoint.unload_adapter(name)
        self._adapter = None

    def close(self) -> None:
        """See `Engine.close`; the servers stay."""
        self._let_go()
        self._lm = self._held = None


def one_by_one(asked: Client, prompts: list[list[int]]) -> Canary:
    """A canary whose prompts are asked one after another.

    With --enable-lora vLLM 0.32 on CPUs dies of the log-probabilities of several prompts that it computes at a time.
    """
    return Canary(prompts=prompts, logprobs=[asked.canary([prompt]).logprobs[0] for prompt in prompts])


def holds(seen: Seen, model: Model) -> bool:
    """Whether the checkpoint that a server was started on is a model, tensor by tensor, as far as it can be seen here.

    The canary says then that this is what it serves; alone it would not tell weights apart that differ by little.
    """
    with model.changed() as changed:
        tensors, root = overlaid(model.backbone, changed), Path(seen.root)
        if not tensors.names and not changes_more(tensors, changed):
            return seen.stands_on(model.backbone) or seen.is_named(model.backbone)
        if not (root / MODEL_CONFIG).is_file():
            return False
        configs = [folder / MODEL_CONFIG for folder in (model.backbone, *changed)]
        last = next(each for each in reversed(configs) if each.is_file())
        if json.loads(last.read_text("utf-8")) != json.loads((root / MODEL_CONFIG).read_text("utf-8")):
            return False
        theirs = tensor_files(root)
        names = tensors.base.files.keys() | tensors.names
        return theirs.files.keys() == names and all(torch.equal(theirs.read(n), tensors.read(n)) for n in names)


def plain_adapter(model: Model) -> Path | None:
    """The folder of a model's LoRA adapter, where a server serves all of one like it; None where it is not one.

    Adapters of experts' fused weights, and modules that were trained whole, are none that vLLM takes.
    """
    if len(model.trained) != 1 or not (folder := model.trained[0] / ADAPTER).joinpath(PEFT_CONFIG).is_file():
        return None
    config: dict[str, Any] = json.loads((folder / PEFT_CONFIG).read_text("utf-8"))
    whole = config.get("target_parameters") or config.get("modules_to_save")
    return None if whole or any(ABSORBED in name for name in _targets(folder)) else folder


def _targets(adapter: Path) -> list[str]:
    """The layers that an adapter changes, as its configuration names them; a pattern stands for any."""
    targets = json.loads((adapter / PEFT_CONFIG).read_text("utf-8")).get("target_modules") or []
    return [ABSORBED] if isinstance(targets, str) else list(targets)
