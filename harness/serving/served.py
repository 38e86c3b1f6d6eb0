"""A served model: an engine and what it serves, so that a model is loaded once for all steps that ask it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lm_eval.api.model import LM

from esft_bench.harness.backbone.model import load_config
from esft_bench.harness.merging import Model
from esft_bench.harness.serving.canary import BFLOAT16_TOLERANCE, Canary
from esft_bench.harness.serving.engines import (
    FLOAT32_TOLERANCE,
    Engine,
    Loaded,
    SwappingEngine,
    TransformersEngine,
    VllmEngine,
)
from esft_bench.harness.serving.external import external_engine
from esft_bench.harness.serving.server import Settings
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.store.names import CANARY
from esft_bench.spec.errors import UserError

Make = Callable[[], Engine]
_Model = tuple[object, ...]
"""A model's name, and the folders that the trainings' artifacts lie in."""


class Served:
    """An engine, made when it is first needed, and the model that it serves."""

    def __init__(self, make: Make, trust_remote_code: bool = False) -> None:
        self._make, self._trusts = make, trust_remote_code
        self._engine: Engine | None = None
        self._loaded: Loaded | None = None
        self._refused: dict[_Model, UserError] = {}
        self.state: _Model = ()
        self.has_served = False

    def serve(self, name: str, backbone: Path, trained: Sequence[Path], scratch: Path) -> Loaded:
        """Have the engine serve what `backbone` is after trainings (their artifacts' folders, in order).

        A model it serves already stays; one that it could not serve is refused again at once. Raises UserError.
        """
        asked = name, *(folder.stat().st_ino for folder in trained)  # what was made again lies in another folder
        if asked in self._refused:
            raise self._refused[asked]
        if asked == self.state and self._loaded:
            return Loaded("kept", 0.0, self._loaded.difference)
        self._engine = self._engine or self._make()
        self.state = ()
        try:
            load_config(backbone, self._trusts)  # makes code of the checkpoint's own known to what merges it
            model = Model(backbone, tuple(trained), scratch)
            self._loaded = self._engine.load(model, Canary.load(trained[-1] / CANARY))
        except UserError as error:
            self._refused[asked] = error
            raise
        self.state, self.has_served = asked, True
        return self._loaded

    def start(self, backbone: Path) -> None:
        """Have the engine serve a backbone before any step asks; where it cannot, the first that asks is told why."""
        with suppress(UserError):
            load_config(backbone, self._trusts)
            self._engine = self._engine or self._make()
            if isinstance(self._engine, SwappingEngine):
                self._engine.start(backbone)

    def lm(self) -> LM:
        """The model as lm-eval asks it."""
        if self._engine is None:
            raise RuntimeError("serve a model first")
        return self._engine.lm()

    def confirm(self) -> None:
        """Raise UserError where answers may have come from another model than the one that was to be served."""
        try:
            if self._engine is not None:
                self._engine.confirm()
        except UserError:
            self.state = ()
            raise

    def close(self) -> None:
        """Give back memory and processes."""
        if self._engine is not None:
            self._engine.close()
        self._engine, self._loaded, self.state = None, None, ()


def make_engine(wanted: EngineSettings, logs: Path) -> Engine:
    """The engine that a step asks for; a server's logs go to the folder `logs`. It starts with its first model."""
    tolerance = FLOAT32_TOLERANCE if wanted.dtype == "float32" else BFLOAT16_TOLERANCE
    settings = Settings(
        dtype=wanted.dtype,
        max_length=wanted.max_length,
        port=wanted.evaluation.port,
        tensor_parallel=wanted.tensor_parallel,
        trust_remote_code=wanted.trust_remote_code,
    )
    if wanted.external:
        return external_engine(wanted, settings, tolerance)
    if wanted.evaluation.engine == "vllm":
        return VllmEngine(logs, settings, tolerance)
    return TransformersEngine(settings, wanted.evaluation.batch_size, tolerance)
