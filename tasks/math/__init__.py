"""MATH (Hendrycks et al. 2021) and its subset MATH-500 (Lightman et al. 2023): competition problems.

4-shot with the examples of Minerva (Lewkowycz et al. 2022, Appendix D), taken from the training split; lm-eval's
minerva_math has the same. An answer is right where lm-eval's math_verify finds it equivalent to the reference.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import few_shot, numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Item, Task

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
MATH = Dataset("EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", "math", configs=SUBJECTS)
MATH500 = Dataset("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "math500")
SHOTS = Path(__file__).with_name("shots.json")


def asked(problem: str) -> str:
    """The problem as Minerva puts it."""
    return f"Problem:\n{problem}\n\nSolution:"


def items(source: Source) -> Iterator[Item]:
    """Yield the problems of MATH's test split."""
    return _items(source, MATH, "math")


def items_500(source: Source) -> Iterator[Item]:
    """Yield the problems of MATH-500."""
    return _items(source, MATH500, "math500")


def _items(source: Source, dataset: Dataset, name: str) -> Iterator[Item]:
    solved = json.loads(SHOTS.read_text(encoding="utf-8"))
    shots = [(asked(shot["problem"]), shot["solution"]) for shot in solved]
    rows = numbered(source, dataset, "test", {"problem": str, "solution": str})
    for number, (place, row) in enumerate(rows):
        if "\\boxed" not in row["solution"] and "\\fbox" not in row["solution"]:
            raise TaskError(f"{place}: 'solution' must have its answer in \\boxed{{}}.")
        yield {
            "id": f"{name}-{number:04d}",
            "prompt": few_shot(shots, asked(row["problem"])),
            "answer": row["solution"],
            "problem": row["problem"],
            "solution": row["solution"],
        }


_YAML = Path(__file__).with_name("math.yaml")

TASKS = (
    Task("math", "MATH", "ability", _YAML, "math_verify", items=items),
    Task("math-500", "MATH-500", "ability", _YAML.with_name("math500.yaml"), "math_verify", items=items_500),
)
