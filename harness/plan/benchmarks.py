"""A task as an answer step knows it: its lm-eval configuration, and the source that scores."""

import importlib.util
import re
from functools import cache
from pathlib import Path

from esft_bench import tasks
from esft_bench.harness.steps.benchmark import Benchmark
from esft_bench.harness.store.keys import module_of
from esft_bench.spec.files import digest_of_files
from esft_bench.tasks.task import Task

FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")
"""A function that an lm-eval configuration names: MODULE.NAME."""
SANDBOX = tuple(f"{tasks.__name__}.{path.stem}" for path in sorted(Path(tasks.__path__[0]).glob("sandbox*.py")))
"""Some of these run as text, so no import statement leads to them."""


@cache
def _files(configuration: Path) -> str:
    """Digest of a configuration's folder and of the configurations above it, which it may include."""
    folder = configuration.parent
    files = [*folder.glob("*.py"), *folder.glob("*.yaml"), *folder.parent.glob("*.yaml")]
    return digest_of_files(files, folder.parent)


def benchmark_of(task: Task) -> Benchmark:
    """What a step needs of a task that has an lm-eval configuration."""
    assert task.lm_eval is not None
    modules = [*_scoring(task.lm_eval, module_of(task.items or task.training)), *(SANDBOX if task.runs_code else ())]
    return Benchmark(
        task.name, task.title, task.version, task.metric, task.lm_eval, _files(task.lm_eval), tuple(modules)
    )


@cache
def _scoring(configuration: Path, module: str) -> tuple[str, ...]:
    """The modules whose functions a configuration names: beside it, by name alone, or anywhere, by their whole name."""
    named = FUNCTION.findall(configuration.read_text("utf-8"))
    package = _package(configuration.parent, module)
    beside = {path.stem for path in configuration.parent.glob("*.py")} if package else set()
    whole = [f"{package}.{name}" if name in beside else name for name in named]
    return tuple(name for name in dict.fromkeys(whole) if _is_module(name))


def _package(folder: Path, module: str) -> str:
    """The name under which a folder is imported, given a module in it or somewhere above; empty where there is none."""
    while module:
        spec = importlib.util.find_spec(module)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if folder.resolve().is_relative_to(Path(place).resolve()):
                below = folder.resolve().relative_to(Path(place).resolve()).parts
                return ".".join([module, *below])
        module = module.rpartition(".")[0]
    return ""


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
