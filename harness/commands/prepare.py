"""From a command's options to a plan: the suite, changed as asked, checked, with its data and its judge."""

import importlib.metadata
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.version import Version

from esft_bench.harness.backbone.aside import warm_up
from esft_bench.harness.commands.endpoints import version_of
from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.execute.local import PRELOADED
from esft_bench.harness.judge.panel import Panel, seat
from esft_bench.harness.plan.availability import with_available
from esft_bench.harness.plan.overrides import SHIPPED, with_backbone, with_steps, with_tuning
from esft_bench.harness.plan.own import DEFAULT, OwnFiles, made_for_data, own_suite
from esft_bench.harness.plan.plan import PARSED, Plan, make_plan
from esft_bench.harness.serving.settings import EngineSettings, vllm_version
from esft_bench.harness.steps.train import TrainStep
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.keys import recall_parsed
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.selection import quick_slice, selection
from esft_bench.spec.suite import Suite
from esft_bench.spec.suite_file import load
from esft_bench.tasks.source import Address, Source

STORE = ".store"
"""The folder of artifacts under --run-dir, shared by its runs: nothing is computed twice."""


@dataclass(frozen=True)
class Prepared:
    """A suite, checked and planned, with its store and judges, and what there is to say about it.

    `chosen` are the cells that are to be computed, `options` what it was prepared from; `micro_batch` is how many
    sequences fit the memory at a time, where that was found out.
    """

    plan: Plan
    store: Store
    judges: Panel
    chosen: list[Cell]
    run_dir: Path
    notes: list[str]
    options: SuiteOptions
    micro_batch: int | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run_dir / self.plan.suite.name


def prepare(options: SuiteOptions, *, weights: bool = True) -> Prepared:
    """Read a suite, apply the options, check everything and plan it. Computes nothing.

    Without `weights` the backbone need not be there whole. Raises UserError, one sentence.
    """
    suite, notes = _asked_for(options)
    source = _source(options, suite)
    if options.data_dir is not None:
        suite, missing = with_available(suite, source)
        notes += missing
    judges, unseated = seat(suite.judge, account=str((options.run_dir / suite.name).resolve()))
    store = Store(options.run_dir / STORE)
    recall_parsed(store.notes(PARSED))
    engine = engine_of(suite, store)
    if weights and not (store.root / TrainStep.kind).exists():  # there is something to do, for sure
        warm_up(PRELOADED)
        import torch  # noqa: F401 - needed in a moment, and until then there is nothing to do but wait
    planned = partial(make_plan, store=store, source=source, engine=engine, judges=judges.named)
    micro_batch = None
    if _is_made_for_data(options, suite):
        from esft_bench.harness.plan.price.fit import fitting_rows  # here: it brings torch along

        suite, micro_batch, told = fitting_rows(planned(suite, weights=False), store)
        notes += told
    plan = planned(suite, weights=weights)
    filtered = (data.sentence(name) for name, data in plan.data.items())
    left_out = (data.note for data in plan.data.values())
    remarks = (task.note for task in plan.tasks.values())
    said = (each for each in (*filtered, *remarks, *left_out) if each)
    notes += [plan.unpacking.sentence] if plan.unpacking else []
    notes += [*_optimizer(suite), _put(plan.suite), *_looked_at(plan), *_tuned(suite), *said]
    chosen = _chosen(plan, options.only)
    return Prepared(plan, store, judges, chosen, options.run_dir, [*notes, *unseated], options, micro_batch)


def _is_made_for_data(options: SuiteOptions, suite: Suite) -> bool:
    """Whether the rows are ours to choose: on files of the user's own, with no suite named, on a backbone of theirs."""
    return bool(options.data) and options.suite == DEFAULT and suite.backbone.path != SHIPPED


def _asked_for(options: SuiteOptions) -> tuple[Suite, list[str]]:
    """The suite with the options' changes, and what there is to say about them."""
    name = options.suite
    own: list[str] = []
    if options.data:
        files = OwnFiles(options.data, options.columns, options.metric, options.test)
        name, own = own_suite(files, options.suite, options.backbone)
    elif options.columns or options.metric or options.test:
        raise UserError("--columns, --metric and --test say what --data FILE is: give that too.")
    suite = load(name, [*own, *_overrides(options)])
    notes: list[str] = []
    if options.tune:
        suite = with_tuning(suite)
    if options.steps:
        suite = with_steps(suite, options.steps)
    if name != options.suite:
        suite, notes = made_for_data(suite, options.data_dir)
    elif options.backbone is not None:
        suite, notes = with_backbone(suite, options.backbone, steps=options.steps)
    return (quick_slice(suite) if options.quick else suite), notes


def _overrides(options: SuiteOptions) -> list[str]:
    """The options that stand for fields of the suite, and those that name fields."""
    short = {
        "seeds": None if options.seeds is None else f"[{options.seeds}]",
        "evaluation.limit": options.limit,
        "evaluation.engine": options.engine,
        "include_path": options.include_path,
    }
    return [*(f"{field}={value}" for field, value in short.items() if value is not None), *(options.set or [])]


def _source(options: SuiteOptions, suite: Suite) -> Source:
    if options.data_dir is not None and not options.data_dir.is_dir():
        raise UserError(f"--data-dir {options.data_dir}: there is no such folder.")
    addresses = {name: Address(**at.model_dump()) for name, at in suite.data.items()}
    return Source(options.data_dir, addresses=addresses)


def _chosen(plan: Plan, only: str | None) -> list[Cell]:
    """The cells that --only leaves to compute."""
    chosen = selection(plan.suite, only)
    return [
        cell
        for cell in plan.cells
        if cell.method in chosen["method"] and set(cell.tasks) <= chosen["task"] and f"{cell.rate:g}" in chosen["rate"]
    ]


def _optimizer(suite: Suite) -> list[str]:
    """The optimizer, where it is not AdamW in float32."""
    name = suite.training.optimizer
    return [] if name == "adamw" else [f"Every row was trained by {name}, which needs less memory than AdamW."]


def _put(suite: Suite) -> str:
    """How conversations are put to the model, and how samples share a sequence."""
    format_of = {"release": "the ESFT release's", "chat_template": "the tokenizer's own chat template"}
    apart = {"within": "attend to themselves alone", "across": "attend to those before them, as in the papers' code"}
    shared = f"Samples that share a training sequence {apart[suite.training.packed_attention]}"
    shared = shared if suite.training.packing else "A training sequence is one sample"
    return f"Prompt format: `{suite.backbone.prompt}`, {format_of.get(suite.backbone.prompt, '')}. {shared}."


def _looked_at(plan: Plan) -> list[str]:
    """What a suite says about looking at its trainings while they go on; nothing where it does not."""
    training = plan.suite.training
    if training.evaluate_every is None:
        return []
    scored = training.evaluate_by == "metric"
    kept = f"weights of the {'highest score' if scored else 'lowest loss'} there was were taken"
    kept = kept if training.choose == "best" else "weights of the last step were taken"
    rows = f"{training.validation_items} rows held out of each task's training data"
    what = f"the task's own metric on {rows}" if scored else f"the loss on {rows}"
    if training.evaluate_on == "benchmark":
        what = "the score on the task's own benchmarks"
        kept += ": a selection on the test, so its scores flatter" if training.choose == "best" else ""
    notes = [f"Every {training.evaluate_every} steps {what} was measured; the {kept}."]
    unscored = [plan.tasks[name].title for name in plan.suite.tasks if plan.data[name].held_out is None]
    if scored and unscored and training.evaluate_on == "held-out":
        notes.append(f"No metric scores rows of {', '.join(unscored)}: there it was the loss on them.")
    return notes


def _tuned(suite: Suite) -> list[str]:
    """What a suite says about the values that it searches for; nothing where it does not."""
    tune = suite.tune
    if tune is None:
        return []
    whole = suite.training.steps
    rungs = [str(tune.steps(rung, whole)) for rung in range(tune.rungs)]
    going_on = f"; of each rung one in {tune.reduction} went on to {', then '.join(rungs[1:])} steps"
    halved = f"{going_on}, with {tune.beside} beside the best" if rungs[1:] else ""
    other = " (rows with steps of their own: in proportion)" if any(row.steps for row in suite.methods.values()) else ""
    return [
        f"Learning rates were searched for each row and {'task' if tune.per == 'task' else 'over all tasks'} by the "
        f"loss on {suite.training.validation_items} rows held out of each task's training data, in {tune.trials} "
        f"trials of {rungs[0]} steps{halved}{other}. No test item was looked at; the cells were then trained on all "
        "rows."
    ]


def engine_of(suite: Suite, store: Store) -> EngineSettings:
    """The engine as the report names it; refuses vLLM where it is neither installed nor run by others."""
    evaluation = suite.evaluation
    dtype = "float32" if suite.backbone.precision == "float32" else "bfloat16"
    if evaluation.endpoints:
        version: str | None = version_of(suite, store)
    else:
        version = vllm_version() if evaluation.engine == "vllm" else importlib.metadata.version("transformers")
    if version is None:
        raise UserError("vLLM is not installed here: run `make env`, or choose --engine transformers.")
    trusted = suite.backbone.trust_remote_code
    public = Version(version).public  # as servers say it; a build's suffix changes no result
    return EngineSettings(f"{evaluation.engine} {public}", dtype, evaluation.max_length, evaluation, trusted)
