"""From finished artifacts to the flat records that every table reads."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from esft_bench.harness.plan import Cell, Plan
from esft_bench.harness.store import Artifact
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.record import ItemScore, Record

ITEMS = "items.jsonl"
LM_EVAL = "lm_eval"
"""The folder of lm-eval's own result files, in the store and in a run; under this name answers say which is theirs."""
COSTS = {
    "train_seconds": "seconds",
    "train_cpu_seconds": "cpu_seconds",
    "train_steps": "steps",
    "peak_memory_bytes": "peak_memory_bytes",
    "stored_bytes": "stored_bytes",
    "trainable_parameters": "trainable_parameters",
}
"""Metrics of the cost records, and where training measured them."""
JUDGE_COSTS = ("judge_requests", "judge_tokens_in", "judge_tokens_out", "judge_dollars")
"""Metrics of the cost records of judging, measured with the verdicts."""


def collect(plan: Plan, run_folder: Path, failures: Mapping[Cell, str]) -> list[Record]:
    """The records of every finished part of every cell, and of the cells that failed; item files are copied along."""
    records: list[Record] = []
    for cell in plan.cells:
        trained = plan.trained(cell)
        if trained is not None and plan.methods[cell.method].trains:
            records += _cost_records(plan, cell, run_folder.name)
        failed = failures.get(cell, "")
        for benchmark in plan.benchmarks(cell):
            artifact = plan.scores(cell, benchmark)
            if artifact is not None:
                records.append(_score_record(plan, cell, benchmark, artifact, run_folder))
            elif failed:
                records.append(_record(plan, cell, benchmark, run_folder.name, state="failed", note=failed))
        records += _judge_cost_records(plan, cell, run_folder.name)
        _copy_lm_eval(plan, cell, run_folder)
    return records


def _copy_lm_eval(plan: Plan, cell: Cell, run_folder: Path) -> None:
    """Put lm-eval's own result files of a cell into the run folder, one for each time it was asked."""
    answers = [plan.answers(cell, benchmark) for benchmark in plan.benchmarks(cell)]
    names = {str(found.measured[LM_EVAL]) for found in answers if found is not None and LM_EVAL in found.measured}
    for name in sorted(names):
        kept = plan.store.root / LM_EVAL / name
        target = run_folder / LM_EVAL / f"{cell.method}-{cell.task or 'none'}-{cell.seed}-{name[:8]}.json"
        if kept.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept, target)


def read_scores(artifact: Artifact) -> list[ItemScore]:
    """The item scores an artifact holds."""
    return [ItemScore.model_validate(row) for row in read_jsonl(artifact.folder / ITEMS)]


def mean_score(scores: list[ItemScore]) -> tuple[float | None, int]:
    """Mean over the scored items in per cent, and how many they are; None where none is."""
    values = [score.score for score in scores if score.state == "scored" and score.score is not None]
    return (100.0 * sum(values) / len(values), len(values)) if values else (None, 0)


def _score_record(plan: Plan, cell: Cell, benchmark: str, artifact: Artifact, run_folder: Path) -> Record:
    """The record of one benchmark; its item file is copied into the run folder."""
    name = f"items/{cell.method}-{cell.task or 'none'}-{cell.seed}-{benchmark}.jsonl"
    target = run_folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact.folder / ITEMS, target)
    scores = read_scores(artifact)
    value, scored = mean_score(scores)
    judged = plan.tasks[benchmark].rubric is not None
    states = {score.state for score in scores}
    return _record(
        plan,
        cell,
        benchmark,
        run_folder.name,
        value=value,
        n=len(scores),
        scored=scored,
        items=name,
        state="scored" if scored else ("failed" if states == {"failed"} else "unscored"),
        metric="judge" if judged else plan.tasks[benchmark].metric,
        judge=plan.judge if judged else "",
        engine=plan.engine,
        source=f"{artifact.folder.parent.name}/{artifact.key}",
    )


def _cost_records(plan: Plan, cell: Cell, run: str) -> Iterator[Record]:
    """What training a cell cost: seconds and steps of all its trainings, the most memory that one of them took.

    Parameters are those of its own method's stages, bytes those of all adapters that make its model.
    """
    stage = plan.stage(cell)
    parts = [made for each in stage.whole if (made := plan.keys.find(each)) is not None]
    before = len(stage.start.whole) if stage.start else 0
    over = {"stored_bytes": plan.keys.adapters(stage), "trainable_parameters": parts[before:]}
    for metric, name in COSTS.items():
        yield _record(
            plan,
            cell,
            "",
            run,
            metric=metric,
            value=float(_combined(metric)(part.measured[name] for part in over.get(metric, parts))),
            n=1,
            scored=1,
            source=f"train/{parts[-1].key}",
        )


def _combined(metric: str) -> Callable[[Iterable[float]], float]:
    """How a cost of several trainings is that of the cell."""
    return max if metric == "peak_memory_bytes" else sum


def _judge_cost_records(plan: Plan, cell: Cell, run: str) -> Iterator[Record]:
    """What the replies behind a cell's verdicts took, whichever run paid for them; nothing where no model judged."""
    artifacts = [plan.verdicts(cell, benchmark) for benchmark in plan.benchmarks(cell)]
    paid = [found for found in artifacts if found is not None and found.measured.get("judge_requests")]
    for metric in JUDGE_COSTS if paid else ():
        if metric == "judge_dollars" and plan.suite.judge.rate is None:
            continue
        value = float(sum(found.measured[metric] for found in paid))
        source = " ".join(f"verdicts/{found.key}" for found in paid)
        yield _record(plan, cell, "", run, metric=metric, value=value, n=1, scored=1, source=source)


def _role(plan: Plan, cell: Cell, benchmark: str) -> str:
    """What a benchmark is to a cell."""
    own = {name for task in cell.tasks for name in plan.tested_on(task)}
    earlier = {name for task in cell.after for name in plan.tested_on(task)}
    if benchmark in earlier - own - set(plan.suite.general):
        return "retained"
    return plan.tasks[benchmark].role if benchmark else "cost"


def _record(plan: Plan, cell: Cell, benchmark: str, run: str, **fields: object) -> Record:
    """A record with what it says about its cell and benchmark filled in."""
    task = plan.tasks.get(benchmark)
    about = {
        "run": run,
        "suite": plan.suite.name,
        "backbone": plan.suite.backbone.path,
        "method": cell.method,
        "method_title": plan.suite.title(cell.method),
        "ablates": plan.suite.methods[cell.method].ablates,
        "task": cell.task,
        "after": " ".join(cell.after),
        "seed": cell.seed,
        "benchmark": benchmark,
        "benchmark_title": task.title if task else "",
        "role": _role(plan, cell, benchmark),
        "metric": task.metric if task else "",
        "value": None,
    }
    return Record.model_validate({**about, **fields})
