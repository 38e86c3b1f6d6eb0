"""Which engine is to serve. Light, since plans name engines that they never start."""

import importlib.metadata
from dataclasses import dataclass

from esft_bench.spec.sections import Evaluation


@dataclass(frozen=True)
class EngineSettings:
    """The engine a step borrows: its name and version (`vllm 0.32.0`), its type of numbers, and the longest sequence.

    Of `evaluation` only what changes no result is read; `trust_remote_code` lets a checkpoint's own code run. An
    executor says the rest: `tensor_parallel`, how many accelerators share the model, and, where others run the servers,
    the `endpoint` that this engine asks.
    """

    name: str
    dtype: str
    max_length: int
    evaluation: Evaluation
    trust_remote_code: bool = False
    tensor_parallel: int = 1
    endpoint: str = ""

    @property
    def external(self) -> bool:
        """Whether others run the servers."""
        return bool(self.evaluation.endpoints)

    @property
    def gpus(self) -> int:
        """How many accelerators it takes, before the cards are known: none where others run the servers."""
        return 0 if self.external else self.evaluation.tensor_parallel or 1


def vllm_version() -> str | None:
    """The installed vLLM's version, None without one."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None
