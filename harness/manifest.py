"""What a run was: command, suite, versions, hardware, git state, seeds. Written beside the results."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from esft_bench.harness.store.notes import Notes
from esft_bench.spec.files import remove, write_json
from esft_bench.spec.suite import Suite
from esft_bench.spec.version import git_state

FILE = "manifest.json"
NOTE = ".manifest"
"""A second copy of a run's manifest, sealed."""
PACKAGES = (
    "esft-bench",
    "accelerate",
    "datasets",
    "lm_eval",
    "math-verify",
    "openai",
    "pandas",
    "peft",
    "sacrebleu",
    "safetensors",
    "scipy",
    "torch",
    "torchao",
    "transformers",
    "vllm",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; missing ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerators of this machine."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(path: Path) -> dict[str, Any]:
    """A run's manifest, or an empty one."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def is_of(path: Path, suite: Suite) -> bool:
    """Whether there is a manifest that describes this very suite."""
    return bool(read(path).get("suite") == suite.model_dump(mode="json"))


def write(path: Path, suite: Suite, *, command: str, **more: Any) -> None:
    """Write a run's manifest; `started` stays that of the first attempt at the same suite."""
    started = read(path).get("started") if is_of(path, suite) else None
    said = {
        "command": command,
        "suite": suite.model_dump(mode="json"),
        "seeds": suite.seeds,
        "started": started or now(),
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
        **more,
    }
    write_json(path, said)
    Notes(path.parent).write(NOTE, said)


def restore(path: Path, news: list[str]) -> None:
    """Write a run's manifest, or its second copy, again where it is not what was written; `news` takes the sentence."""
    notes, there = Notes(path.parent, news), read(path)
    said = notes.read(NOTE)
    if said is None and there:
        notes.write(NOTE, there)
    if said is None or said == there:
        return
    if os.path.lexists(path):
        news.append(f"Damaged: {path} is not what was written; it is written again.")
    remove(path)
    write_json(path, said)
