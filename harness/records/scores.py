"""From finished artifacts to the flat records that every table reads."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from esft_bench.harness.plan.paths import CellPath
from esft_bench.harness.plan.plan import Plan
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.store.artifacts import Artifact
from esft_bench.harness.store.names import ITEMS, LM_EVAL
from esft_bench.spec.cell import Cell
from esft_bench.spec.files import digest_of_file, made_folder, read_jsonl, remove
from esft_bench.spec.record import ItemScore, Record

COSTS = {
    "train_seconds": "seconds",
    "train_cpu_seconds": "cpu_seconds",
    "train_steps": "steps",
    "peak_memory_bytes": "peak_memory_bytes",
    "stored_bytes": "stored_bytes",
    "trainable_parameters": "trainable_parameters",
}
"""Metrics of the cost records, and where training measured them."""
MIXED = {f"alignment_{name}" for name in ("conversations", "tokens", "supervised")}
"""Metrics of the cost records that say how much of what was trained on was alignment data, in per cent."""
JUDGE_COSTS = ("judge_requests", "judge_tokens_in", "judge_tokens_out", "judge_dollars")
"""Metrics of the cost records of judging, measured with the verdicts."""


def collect(plan: Plan, graph: Graph, run_folder: Path, failures: Mapping[Cell, str]) -> Iterator[Record]:
    """The records of every finished part of every cell, and of the cells that failed; item files are copied along."""
    for cell, path in plan.paths.items():
        yield from _CellRecords(plan, graph, path, run_folder).all(failures.get(cell, ""))


def read_scores(artifact: Artifact) -> list[ItemScore]:
    """The item scores an artifact holds."""
    return [ItemScore.model_validate(row) for row in read_jsonl(artifact.folder / ITEMS)]


def mean_score(scores: list[ItemScore], scale: float = 100.0) -> tuple[float | None, int]:
    """Mean over the scored items, in per cent unless another `scale` is given; and how many they are: None of none."""
    values = [score.score for score in scores if score.state == "scored" and score.score is not None]
    return (scale * sum(values) / len(values), len(values)) if values else (None, 0)


@dataclass(frozen=True)
class _CellRecords:
    """The records of one cell."""

    plan: Plan
    graph: Graph
    path: CellPath
    run_folder: Path

    def all(self, failed: str) -> Iterator[Record]:
        """Costs and scores; for what is missing a record that says so, where the cell `failed`."""
        yield from self._costs()
        for benchmark, step in self.path.scores.items():
            artifact = self.graph.artifacts.get(step)
            if artifact is not None:
                yield self._score(benchmark, artifact)
            elif failed:
                yield self._record(benchmark, state="failed", note=failed)
        for (benchmark, time), step in self.path.repeats.items():
            if (artifact := self.graph.artifacts.get(step)) is not None:
                yield self._score(benchmark, artifact, time)
        yield from self._test_seconds()
        yield from self._judge_costs()
        self._copy_lm_eval()

    def _copy_lm_eval(self) -> None:
        """Put lm-eval's own result files of the cell into the run folder, one for each benchmark."""
        for benchmark, step in self.path.answers.items():
            artifact = self.graph.artifacts.get(step)
            target = self.run_folder / "lm_eval" / f"{self.path.cell.file_name}-{benchmark}.json"
            if artifact is not None:
                _copy(artifact, LM_EVAL, target)

    def _score(self, benchmark: str, artifact: Artifact, repeat: int = 0) -> Record:
        """The record of one benchmark; its item file is copied into the run folder."""
        again = f"-again{repeat}" if repeat else ""
        name = f"items/{self.path.cell.file_name}-{benchmark}{again}.jsonl"
        _copy(artifact, ITEMS, self.run_folder / name)
        scores = read_scores(artifact)
        task = self.plan.tasks[benchmark]
        value, scored = mean_score(scores, 1.0 if task.role == "drift" else 100.0)
        states = {score.state for score in scores}
        return self._record(
            benchmark,
            **({"role": "repeat", "repeat": repeat} if repeat else {}),
            value=value,
            n=len(scores),
            scored=scored,
            items=name,
            state="scored" if scored else ("failed" if states == {"failed"} else "unscored"),
            metric="judge" if task.rubric else task.metric,
            judge=self.plan.judge if task.rubric else "",
            engine=self.plan.engine.name,
            source=artifact.name,
        )

    def _costs(self) -> Iterator[Record]:
        """What training cost: seconds and steps of all trainings, the most memory that one of them took.

        Parameters are those of the cell's own method's stages, bytes those of all adapters that make its model.
        """
        if not self.plan.methods[self.path.cell.method].trains or self.path.training not in self.graph.artifacts:
            return
        training, artifacts = self.path.training, self.graph.artifacts
        before = len(training.before[-1].whole) if training.before else 0
        over = {"stored_bytes": training.ends_with, "trainable_parameters": training.whole[before:]}
        measured = {step: artifacts[step].measured for step in (*training.whole, *training.ends_with)}
        about = {"n": 1, "scored": 1, "source": artifacts[training.whole[-1]].name}
        for metric, name in COSTS.items():
            values = (measured[step][name] for step in over.get(metric, training.whole))
            yield self._record("", metric=metric, value=float(_combined(metric)(values)), **about)
        last = measured[training.whole[-1]]
        for metric in sorted(MIXED & last.keys()):
            yield self._record("", metric=metric, value=float(last[metric]), **about)

    def _test_seconds(self) -> Iterator[Record]:
        """How long the model took to be served and to answer; nothing where a part of it is missing or unmeasured."""
        artifacts = [self.graph.artifacts.get(step) for step in self.path.answers.values()]
        seconds = [found.measured.get("seconds") if found else None for found in artifacts]
        if seconds and all(one is not None for one in seconds):
            source = " ".join(found.name for found in artifacts if found)
            total = float(sum(one for one in seconds if one is not None))
            yield self._record("", metric="test_seconds", value=total, n=1, scored=1, source=source)

    def _judge_costs(self) -> Iterator[Record]:
        """What the replies behind the verdicts took, whichever run paid for them; nothing where no model judged."""
        judged = [step for name, step in self.path.scores.items() if self.plan.tasks[name].rubric]
        artifacts = [self.graph.artifacts[step] for step in judged if step in self.graph.artifacts]
        measured = [(found, found.measured) for found in artifacts]
        paid = [(found, told) for found, told in measured if told.get("judge_requests")]
        for metric in JUDGE_COSTS if paid else ():
            if metric == "judge_dollars" and self.plan.suite.judge.rate is None:
                continue
            value = float(sum(told[metric] for _, told in paid))
            source = " ".join(found.name for found, _ in paid)
            yield self._record("", metric=metric, value=value, n=1, scored=1, source=source)

    def _role(self, benchmark: str) -> str:
        """What a benchmark is to the cell."""
        if not benchmark:
            return "cost"
        matrix, cell = self.plan.matrix, self.path.cell
        own = {name for task in cell.tasks for name in matrix.tested_on(task)}
        earlier = {name for task in cell.after for name in matrix.tested_on(task)}
        if benchmark in earlier - own - set(matrix.suite.general):
            return "retained"
        return self.plan.tasks[benchmark].role

    def _record(self, benchmark: str, **fields: object) -> Record:
        """A record with what it says about its cell and benchmark filled in."""
        task, cell, suite = self.plan.tasks.get(benchmark), self.path.cell, self.plan.suite
        trained = self.graph.artifacts.get(self.path.training)
        about = {
            "run": self.run_folder.name,
            "suite": suite.name,
            "backbone": suite.backbone.path,
            "method": cell.method,
            "method_title": suite.title(cell.method),
            "ablates": suite.methods[cell.method].ablates,
            "task": cell.task,
            "after": " ".join(cell.after),
            "seed": cell.seed,
            "rate": cell.rate,
            "benchmark": benchmark,
            "benchmark_title": task.title if task else "",
            "role": self._role(benchmark),
            "metric": task.metric if task else "",
            "value": None,
            "training": trained.name if trained else "",
        }
        return Record.model_validate({**about, **fields})


def _combined(metric: str) -> Callable[[Iterable[float]], float]:
    """How a cost of several trainings is that of the cell."""
    return max if metric == "peak_memory_bytes" else sum


def _copy(artifact: Artifact, name: str, target: Path) -> None:
    """Copy a file of an artifact unless the very same one is there."""
    regular = target.is_file() and not target.is_symlink()
    if regular and digest_of_file(target) == digest_of_file(artifact.folder / name):
        return
    made_folder(target.parent)
    remove(target)
    shutil.copy2(artifact.folder / name, target)
