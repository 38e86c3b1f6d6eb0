"""Which engine is to serve. Light, since plans name engines that they never start."""

import importlib.metadata
from dataclasses import dataclass

from esft_bench.spec.sections import Evaluation


@dataclass(frozen=True)
class EngineSettings:
    """The engine a step borrows: its name and version (`vllm 0.32.0`), its type of numbers, and the longest sequence.

    Of `evaluation` only port and batch size are read, which change no result; `trust_remote_code` lets a checkpoint's
    own code run.
    """

    name: str
    dtype: str
    max_length: int
    evaluation: Evaluation
    trust_remote_code: bool = False


def vllm_version() -> str | None:
    """The installed vLLM's version, None without one."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None
