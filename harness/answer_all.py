"""The testing half of a run: merge, serve, answer, judge, cell by cell on one engine."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from esft_bench.harness.evaluate import evaluate
from esft_bench.harness.judge import Usage
from esft_bench.harness.merging import merged
from esft_bench.harness.plan import Cell, Plan
from esft_bench.harness.results import ITEMS, LM_EVAL, mean_score, read_scores
from esft_bench.harness.serving.canary import Canary
from esft_bench.harness.serving.engines import FLOAT32_TOLERANCE, Engine, TransformersEngine, VllmEngine
from esft_bench.harness.serving.server import Settings
from esft_bench.harness.store import Artifact
from esft_bench.harness.walk import Walk, failed, refresh_now_and_then
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import digest_of_files, read_jsonl, write_jsonl
from esft_bench.spec.record import ItemScore

BFLOAT16_TOLERANCE = 0.3
"""In nats: bfloat16 kernels differ in rounding, and a router near a tie then picks another expert (facts of vLLM)."""

REASONS = 3
"""So many of the reasons why answers could not be judged are printed."""


def answer_all(walk: Walk, cells: list[Cell]) -> None:
    """Serve and test each cell's merged checkpoint; the engine starts once, and only if something needs it."""
    unserved = [cell for cell in cells if _missing_answers(walk.plan, cell)]
    for cell in cells:
        if cell not in unserved:
            _finish_now_or_later(walk, cell)
    if unserved:
        _serve_all(walk, unserved)
    if walk.plan.suite.judge.batch:
        walk.display.enter_phase("waiting for the judge's batches")
        for cell in cells:
            if cell not in walk.failures:
                _finish_cell(walk, cell)


def _serve_all(walk: Walk, unserved: list[Cell]) -> None:
    """Have each cell's merged checkpoint answer, on one engine; a cell that breaks does not stop the others."""
    walk.display.enter_phase("testing")
    served = False
    with _engine(walk) as engine:
        for cell in unserved:
            walk.display.cell(cell, "testing")
            try:
                _answer(walk, engine, cell)
                served = True
                _finish_now_or_later(walk, cell)
            except Exception as error:  # lm-eval and the client raise anything; the other cells go on
                mendable = isinstance(error, UserError)
                if isinstance(error, NoSpaceError) or (mendable and not served):
                    raise  # nor is a full disk a matter of one cell, nor an engine that has never served
                logging.getLogger(__name__).exception(cell.label)
                failed(walk, cell, str(error) if mendable else f"{type(error).__name__}: {error}")
            finally:
                walk.display.step_ended(cell.label)


@contextmanager
def _engine(walk: Walk) -> Iterator[Engine]:
    """The engine of this run, closed whatever happens. It starts with the first checkpoint it is given."""
    evaluation = walk.plan.suite.evaluation
    float32 = walk.plan.suite.backbone.precision == "float32"
    dtype, tolerance = ("float32", FLOAT32_TOLERANCE) if float32 else ("bfloat16", BFLOAT16_TOLERANCE)
    engine: Engine
    if evaluation.engine == "vllm":
        settings = Settings(dtype=dtype, max_length=evaluation.max_length, port=evaluation.port)
        engine = VllmEngine(walk.folder / "server", settings, tolerance)
    else:
        engine = TransformersEngine(dtype, evaluation.max_length, evaluation.batch_size, tolerance)
    try:
        yield engine
    finally:
        engine.close()


def _missing_answers(plan: Plan, cell: Cell) -> list[str]:
    return [name for name in plan.benchmarks(cell) if plan.answers(cell, name) is None]


def _answer(walk: Walk, engine: Engine, cell: Cell) -> None:
    """Merge a cell's checkpoint, serve it, and store its answers to every benchmark that has none yet."""
    plan = walk.plan
    trained = plan.trained(cell)
    assert trained is not None
    missing = _missing_answers(plan, cell)
    walk.display.step(cell.label)
    with _merged(walk, cell, trained) as checkpoint:
        loaded = engine.load(checkpoint, Canary.load(trained.folder / "canary.json"))
        scratch = plan.store.scratch(f"answers-{trained.key}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        answers = evaluate(
            engine.lm(),
            [(plan.tasks[name], read_jsonl(_items_file(plan, name))) for name in missing],
            scratch,
            progress=lambda done, total: walk.display.step(cell.label, done, total),
        )
    kept = _keep_lm_eval(plan, scratch)
    for name, scores in answers.items():
        key = plan.answers_key(cell, name)
        assert key is not None
        about = {"cell": cell.label, "benchmark": name, "loaded": loaded.how, "canary": loaded.difference}
        _keep_scores(walk, "answers", key, scores, about, {"load_seconds": loaded.seconds, LM_EVAL: kept})
    shutil.rmtree(scratch, ignore_errors=True)


def _keep_lm_eval(plan: Plan, scratch: Path) -> str:
    """Keep lm-eval's own result file in the store, from where every run with these answers takes it; its name there."""
    made = scratch / "lm_eval.json"
    kept = plan.store.root / LM_EVAL / f"{digest_of_files([made], scratch)[:20]}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    made.replace(kept)
    return kept.name


def _items_file(plan: Plan, name: str) -> Path:
    path = plan.data[name].items
    assert path is not None
    return path


@contextmanager
def _merged(walk: Walk, cell: Cell, trained: Artifact) -> Iterator[Path]:
    """The cell's merged Hugging Face checkpoint, made for serving and dropped after it unless asked to be kept."""
    folder = walk.plan.store.scratch(f"merged-{trained.key}")
    with merged(walk.plan.backbone, walk.plan.keys.changes(walk.plan.stage(cell)), folder) as checkpoint:
        yield checkpoint
        if walk.transport.keep_checkpoints:
            kept = walk.folder / "checkpoints" / f"{cell.method}-{cell.task or 'base'}-{cell.seed}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(checkpoint, kept)


def _keep_scores(
    walk: Walk, kind: str, key: str, scores: list[ItemScore], about: dict[str, object], measured: dict[str, object]
) -> None:
    """Store item scores as an artifact."""
    built = walk.plan.store.begin(kind, key)
    write_jsonl(built / ITEMS, [score.model_dump() for score in scores])
    walk.plan.store.finish(kind, key, built, about, measured)


def _finish_now_or_later(walk: Walk, cell: Cell) -> None:
    """Finish a cell; where the judge works in batches, only send its answers off, so that no cell waits for another."""
    if not walk.plan.suite.judge.batch:
        _finish_cell(walk, cell)
        return
    for benchmark in _unjudged(walk.plan, cell):
        answers = walk.plan.answers(cell, benchmark)
        assert answers is not None
        walk.judge.announce(walk.plan.tasks[benchmark], read_scores(answers))


def _unjudged(plan: Plan, cell: Cell) -> list[str]:
    return [benchmark for benchmark in plan.benchmarks(cell) if not plan.judged(cell, benchmark)]


def _finish_cell(walk: Walk, cell: Cell) -> None:
    """Judge what is not judged yet, print the cell's line and refresh the report."""
    silent = [why for benchmark in _unjudged(walk.plan, cell) for why in _judge(walk, cell, benchmark)]
    own, general = _scores(walk.plan, cell)
    if silent:
        reasons = "; ".join(list(dict.fromkeys(silent))[:REASONS])
        failed(walk, cell, f"{len(silent)} answers could not be judged ({reasons}); the others are kept")
    else:
        walk.display.cell(cell, "done", own)
        walk.display.say(f"✓ {cell.label}: {_shown(own)}, general ability {_shown(general)}")
    refresh_now_and_then(walk)


def _judge(walk: Walk, cell: Cell, benchmark: str) -> list[str]:
    """Have a cell's stored answers judged and store the verdicts; returns why, for each that could not be.

    Those are asked again by the next run; what was judged is in the judge's own store and is not paid for twice.
    """
    answers = walk.plan.answers(cell, benchmark)
    key = walk.plan.verdicts_key(cell, benchmark)
    assert answers is not None
    assert key is not None
    stored = read_scores(answers)
    verdicts = walk.judge.score(walk.plan.tasks[benchmark], stored)
    judged = [
        item.model_copy(update={"score": verdict.score, "state": verdict.state, "reason": verdict.reason})
        for item, verdict in zip(stored, verdicts, strict=True)
    ]
    silent = [verdict.reason for verdict in verdicts if verdict.state == "failed"]
    usage = sum((verdict.usage for verdict in verdicts), Usage())
    measured: dict[str, object] = {"failed": len(silent), **{f"judge_{k}": v for k, v in asdict(usage).items()}}
    walk.notes += [note for note in walk.judge.notes if note not in walk.notes]
    _keep_scores(walk, "verdicts", key, judged, {"cell": cell.label, "judge": walk.judge.name}, measured)
    return silent


def _scores(plan: Plan, cell: Cell) -> tuple[float | None, float | None]:
    """Mean score on a cell's own benchmarks and on the general ones."""

    def mean(names: list[str]) -> float | None:
        artifacts = [plan.scores(cell, name) for name in names]
        values = [mean_score(read_scores(artifact))[0] for artifact in artifacts if artifact is not None]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    own = [name for name in plan.benchmarks(cell) if name not in plan.suite.general]
    return mean(own), mean(plan.suite.general)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
