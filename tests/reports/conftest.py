"""A made-up run: records and items as the harness writes them, from known abilities."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esft_bench.reports import manifest
from esft_bench.reports.content import gather
from esft_bench.reports.markdown.report import render
from esft_bench.reports.prose.task_advice import TaskAdvice
from esft_bench.spec.record import ItemScore, Record
from esft_bench.spec.results import write

METHODS = {
    "base": ("Base", ""),
    "fft": ("FFT", ""),
    "lora": ("LoRA", ""),
    "esft-token": ("ESFT-Token", ""),
    "esft-gate": ("ESFT-Gate", ""),
    "random-token": ("Random (Token)", "esft-token"),
    "random-gate": ("Random (Gate)", "esft-gate"),
}
TASKS = {"intent": "Intent", "law": "Law", "translation": "Translation"}
GENERAL = {"facts": "Facts", "cloze": "Cloze"}
JUDGED = {"law", "translation"}
SKILL = {
    "base": 0.1,
    "fft": 0.9,
    "lora": 0.88,
    "esft-token": 0.88,
    "esft-gate": 0.88,
    "random-token": 0.5,
    "random-gate": 0.6,
}


@dataclass
class MadeUpRun:
    """What to make; every field can be changed before `build`."""

    methods: Sequence[str] = tuple(METHODS)
    tasks: Mapping[str, str] = field(default_factory=lambda: dict(TASKS))
    general: Mapping[str, str] = field(default_factory=lambda: dict(GENERAL))
    seeds: Sequence[int] = (0,)
    same_within: float = 2.0
    rates: Sequence[float] = (1.0,)
    items: int = 100
    general_items: int = 60
    skill: Mapping[str, float] = field(default_factory=lambda: dict(SKILL))
    change: Callable[[Record], Record | None] = lambda record: record
    unscored: Callable[[Record, int], bool] = lambda record, index: False

    def build(self, folder: Path) -> list[Record]:
        """Write items, results and manifest into `folder`; return the records."""
        records: list[Record] = []
        for method in self.methods:
            for task in [""] if method == "base" else list(self.tasks):
                for seed in self.seeds[:1] if method == "base" else self.seeds:
                    for rate in [1.0] if method == "base" else self.rates:
                        records += self._cell(folder, method, (task, seed), rate)
        kept = [changed for record in records if (changed := self.change(record)) is not None]
        write(kept, folder)
        (folder / "manifest.json").write_text(json.dumps(self.manifest(), ensure_ascii=False), encoding="utf-8")
        return kept

    def manifest(self) -> dict[str, Any]:
        """What the harness says about the run."""
        return {
            "command": "esft-bench run made-up",
            "suite": {
                "name": "made-up",
                "description": "A made-up comparison.",
                "tasks": list(self.tasks),
                "general": list(self.general),
                "seeds": list(self.seeds),
                "same_within": self.same_within,
                "curve": {"rates": list(self.rates)},
                "methods": {name: {"title": METHODS[name][0], "ablates": METHODS[name][1]} for name in self.methods},
            },
            "versions": {"python": "3.11.9", "torch": "2.13.0"},
            "hardware": {"cpu": "2 cores", "memory": "24 GB"},
            "git": {"commit": "0123abc", "dirty": False},
            "started": "2026-01-01T00:00:00Z",
            "finished": "2026-01-01T00:10:00Z",
            "seeds": list(self.seeds),
            "notes": ["One server served every cell."],
            "states": {"done": 19},
        }

    def _cell(self, folder: Path, method: str, run: tuple[str, int], rate: float) -> list[Record]:
        title, ablates = METHODS[method]
        task, seed = run
        common = {
            "run": "made-up",
            "suite": "made-up",
            "backbone": "mini",
            "method": method,
            "method_title": title,
            "ablates": ablates,
            "task": task,
            "seed": seed,
            "rate": rate,
        }
        records = []
        for column in self.tasks.items():
            if task in ("", column[0]):
                skill = self.skill[method] * rate**0.3
                records.append(self._record(folder, common, column, "ability", skill, self.items))
        for column in self.general.items():
            skill = 0.9 if method == "base" else 0.9 - 0.1 * rate
            records.append(self._record(folder, common, column, "general", skill, self.general_items))
        if method != "base":
            for metric, value in {
                "train_seconds": 12.0,
                "train_cpu_seconds": 11.5,
                "peak_memory_bytes": 4.2e8,
                "stored_bytes": 2.5e6,
                "trainable_parameters": 123_456.0,
            }.items():
                records.append(
                    Record(**common, benchmark="", benchmark_title="", role="cost", metric=metric, value=value)
                )
        return records

    def _record(
        self, folder: Path, common: dict[str, Any], column: tuple[str, str], role: Any, skill: float, count: int
    ) -> Record:
        benchmark, title = column
        judged = benchmark in JUDGED
        times = "" if common["rate"] == 1 else f"-x{common['rate']}"
        record = Record(
            **common,
            benchmark=benchmark,
            benchmark_title=title,
            role=role,
            metric="reference_judge" if judged else "exact_match",
            judge="reference (chrF)" if judged else "",
            value=None,
            n=count,
            items=f"items/{common['method']}-{common['task']}-{common['seed']}{times}-{benchmark}.jsonl",
            engine="vllm 0.32.0",
        )
        hardness = np.random.default_rng(zlib.crc32(benchmark.encode())).random(count)
        noise = np.random.default_rng(zlib.crc32(record.items.encode())).random(count)
        ability = np.clip(skill + 0.3 * (hardness - 0.5), 0.02, 0.98)
        graded = np.where(noise < ability, 0.8 + 0.2 * noise, 0.3 * noise)
        scores = graded if judged else (noise < ability).astype(float)
        items = [
            ItemScore(id=f"{benchmark}-{index}", score=None, state="unscored")
            if self.unscored(record, index)
            else ItemScore(id=f"{benchmark}-{index}", score=float(score))
            for index, score in enumerate(scores)
        ]
        path = folder / record.items
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(item.model_dump_json() + "\n" for item in items), encoding="utf-8")
        values = [item.score for item in items if item.score is not None]
        return record.model_copy(
            update={
                "value": 100 * float(np.mean(values)) if values else None,
                "scored": len(values),
                "state": "scored" if values else "unscored",
            }
        )


def report(folder: Path) -> str:
    """The text of a run's report, without figures."""
    return render(gather(folder))


def in_words(advice: TaskAdvice) -> str:
    """All of an advice in one line."""
    return " ".join(f"{one.lead}: {one.text}" if one.lead else one.text for one in advice.sentences)


def manifest_of(folder: Path, **suite: object) -> manifest.Manifest:
    """The manifest of a run folder, with other fields of the suite."""
    raw = json.loads((folder / manifest.FILE).read_text(encoding="utf-8"))
    raw["suite"] |= suite
    (folder / manifest.FILE).write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    return manifest.read(folder)[0]


@pytest.fixture
def made_up() -> MadeUpRun:
    """A run of seven rows, three tasks, two general benchmarks and one seed."""
    return MadeUpRun()
