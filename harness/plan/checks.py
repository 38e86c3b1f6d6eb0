"""Checks of a suite against what is installed and against its backbone, before anything is computed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from esft_bench.harness.backbone import files as backbones
from esft_bench.harness.backbone.aside import aside
from esft_bench.harness.backbone.packing import packing
from esft_bench.harness.plan.known import known_tasks
from esft_bench.harness.plan.matrix import Matrix
from esft_bench.harness.steps.train import OPTIMIZERS
from esft_bench.harness.store.artifacts import Store
from esft_bench.harness.store.keys import Code, modules_of, version
from esft_bench.methods.method import Method
from esft_bench.methods.registry import load_methods
from esft_bench.spec.cell import Cell
from esft_bench.spec.curve import Curve
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_text
from esft_bench.spec.suite import Suite
from esft_bench.spec.tuning import Range
from esft_bench.tasks.registry import get as find_task
from esft_bench.tasks.sieve import Keep
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import DIVERGENCE, Task

EXTRA = "optimizers"
"""The extra of this package that brings what optimizers other than AdamW need."""


def methods_of(suite: Suite) -> dict[str, Method]:
    """The methods of a suite's rows, with their hyperparameters. Raises UserError, naming the row."""
    methods = {row: make_method(*suite.row(row)[:2], row) for row in suite.methods}
    for row, method in methods.items():
        _check_row(suite, row, method)
    for row in (suite.tune.rows or []) if suite.tune else []:
        if not methods[row].trains:
            raise UserError(f"tune.rows: the row '{row}' trains nothing, so there is nothing to search: leave it out.")
    return methods


def make_method(name: str, hyperparameters: dict[str, Any], row: str) -> Method:
    """A method with its hyperparameters checked. Raises UserError, naming the suite's row."""
    known = load_methods()
    if name not in known:
        raise UserError(f"methods.{row}: there is no method '{name}'; there are {', '.join(sorted(known))}.")
    try:
        return known[name].model_validate(hyperparameters)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"methods.{row}.{field_name}: {first['msg']}.") from error


def _check_row(suite: Suite, row: str, method: Method) -> None:
    """Raise UserError where a suite lacks what a row's method asks for."""
    if method.needs_general and not suite.alignment:
        raise UserError(
            f"methods.{row}: the method holds a task's data against general data: name a task under `alignment`."
        )
    together = method.together if suite.together(row) is None else suite.together(row)
    if together and isinstance(getattr(method, "selection", None), str):
        raise UserError(
            f"methods.{row}.selection: tasks that are trained together have one selection: leave out {{task}}."
        )
    steps = suite.steps(row)
    if method.trains and suite.curve.along == "number of steps" and not suite.training.epochs:
        _check_points(suite.curve, row, steps)
    if method.first_stage and steps < 2:
        raise UserError(f"methods.{row}: two stages take at least 2 steps, and training.steps is {steps}.")
    for name, values in suite.methods[row].tune.others.items() if suite.tune else ():
        for value in [values.low, values.high] if isinstance(values, Range) else values:
            _check_tried(suite, row, method, {name: value})


def _check_points(curve: Curve, row: str, steps: int) -> None:
    """Raise UserError where two points of a row's curve are the same training."""
    seen: dict[int, float] = {}
    for point in curve.points:
        other = seen.setdefault(curve.steps_at(point, steps), point)
        if other != point:
            raise UserError(
                f"curve.steps: at {other:g} and {point:g} of its {steps} steps the row '{row}' is trained for the same "
                f"{curve.steps_at(point, steps)}: leave out one."
            )


def _check_tried(suite: Suite, row: str, method: Method, tried: dict[str, Any]) -> None:
    """Raise UserError where a row cannot be tried with another value of a hyperparameter."""
    name, hyperparameters, _ = suite.row(row)
    other = make_method(name, hyperparameters | tried, f"{row}.tune")
    if other.first_stage != method.first_stage:
        raise UserError(
            f"methods.{row}.tune.{', '.join(tried)}: what makes the first of two stages cannot be searched."
        )


def check_optimizer(suite: Suite) -> None:
    """Refuse an optimizer that is not installed, or one that rounds what is to stay float32."""
    name = suite.training.optimizer
    for library in OPTIMIZERS[name]:
        if not version(library):
            raise UserError(
                f"training.optimizer {name} needs {library}, which is not installed: pip install 'esft-bench[{EXTRA}]'."
            )
    if name == "adamw-8bit" and suite.training.expert_parallel:
        raise UserError("training.optimizer adamw-8bit was not tried with training.expert_parallel: choose adamw.")
    if name == "adamw-bf16-stochastic" and suite.backbone.precision != "bf16":
        raise UserError(f"training.optimizer {name} rounds to bfloat16: set backbone.precision to bf16.")


def check_frozen(suite: Suite, methods: Mapping[str, Method], folder: Path) -> None:
    """Refuse frozen experts in FP8 where the backbone ships in another format, or where others than its are frozen."""
    if suite.training.frozen_experts != "fp8":
        return
    packed = packing(folder)
    if packed is None or packed.quant_method != "fp8" or packed.weight_block_size != (128, 128):
        raise UserError(
            f"training.frozen_experts: {folder} does not ship in FP8 by blocks of 128 × 128, so its experts would be "
            "rounded: leave it out, or take a backbone that does."
        )
    for row, method in methods.items():
        changes = type(method).changes is not Method.changes
        if changes or method.first_stage or suite.methods[row].continues:
            what = "changes its experts on the way" if changes else "goes on from experts that were trained"
            raise UserError(
                f"methods.{row}: the row {what}, which are not in FP8: leave out the row or training.frozen_experts."
            )


def tasks_of(suite: Suite) -> dict[str, Task]:
    """The tasks a suite names, each checked to be what it is used as. Raises UserError or TaskError."""
    known = known_tasks(suite)
    chosen: dict[str, Task] = {}
    alignment = [suite.alignment] if suite.alignment else []
    for part, names in (
        ("tasks", suite.tasks),
        ("tested_only", suite.tested_only),
        ("general", suite.general),
        ("drift", suite.drift),
        ("alignment", alignment),
    ):
        for name in names:
            task = find_task(name, known)
            if part == "tasks" and name in suite.tested_on:
                task = replace(task, benchmarks=tuple(suite.tested_on[name]))
            if task.filters or name in suite.filters:
                task = replace(task, filters=_filters(task, suite.filters.get(name, [])))
            chosen |= _as_used(part, task, known)
    if any(task.metric == DIVERGENCE for task in chosen.values()) and base_row(suite) is None:
        raise UserError("drift: a divergence is one from the base model: add the row `base: {}` to methods.")
    if suite.judge.rubric == "paper":
        return {name: replace(task, rubric=task.paper_rubric or task.rubric) for name, task in chosen.items()}
    return chosen


def _filters(task: Task, names: Iterable[str]) -> dict[str, Callable[[Source], Keep]]:
    """The filters of a task that a suite asks for, in its order. Raises UserError for one that there is not."""
    for name in names:
        if name not in task.filters:
            there_are = f"there are {', '.join(task.filters)}" if task.filters else "it has none"
            raise UserError(f"filters.{task.name}: task '{task.name}' has no filter '{name}'; {there_are}.")
    return {name: task.filters[name] for name in names}


def _as_used(part: str, task: Task, known: Mapping[str, Task]) -> dict[str, Task]:
    """A task in a part of a suite, and the benchmarks that stand for it."""
    if part == "tested_only":
        task = replace(task, training=None)
    if part in ("tasks", "alignment") and task.training is None:
        raise UserError(f"{part}: task '{task.name}' has no training data.")
    tested = [find_task(other, known) for other in task.benchmarks] if part == "tasks" else []
    for other in tested or [task]:
        if (part == "drift") != (other.role == "drift"):
            wants = "how far a model has moved" if other.role != "drift" else "scores"
            raise UserError(f"{part}: task '{other.name}' does not measure {wants}: name it elsewhere.")
        if part != "alignment" and (other.items is None or (other.lm_eval is None and other.metric != DIVERGENCE)):
            raise UserError(f"{part}: task '{other.name}' has no evaluation items.")
    return {task.name: task, **{other.name: other for other in tested}}


def base_row(suite: Suite) -> str | None:
    """The first row that is the backbone as it is; None where a suite has none."""
    return next((row for row in suite.methods if suite.row(row)[0] == "base"), None)


def check_file_names(matrix: Matrix) -> None:
    """Refuse cells whose files would have one name, also where a file system does not tell capitals apart."""
    found: dict[str, Cell] = {}
    for cell in matrix.cells:
        for name in (cell.file_name, *(f"{cell.file_name}-{benchmark}" for benchmark in matrix.benchmarks(cell))):
            other = found.setdefault(name.casefold(), cell)
            if other != cell:
                raise UserError(
                    f"methods.{cell.method}: {cell.label} and {other.label} would have files of one name ({name}): "
                    "rename the row."
                )


def check_served_from(folders: Iterable[Path]) -> None:
    """Refuse folders that vLLM would read as patterns of names, and then find nothing there."""
    for folder in folders:
        if special := sorted(set(str(folder.resolve())) & set("[]*?")):
            raise UserError(f"{folder.resolve()}: vLLM takes '{special[0]}' for a pattern: give a path without it.")


def check_backbone(folder: Path, methods: Mapping[str, Method], suite: Suite, store: Store) -> None:
    """Refuse a backbone that a row's method cannot train, from its configuration and tokenizer: no weights are loaded.

    Nor can it where `training.expert_parallel` does not divide its experts. What was found fit is noted under these
    files, methods and code, since building a model, even without weights, takes seconds. Raises MethodError naming the
    row and what was looked for.
    """
    code = Code(
        (
            "esft_bench.harness.backbone.model",
            *{name: None for method in methods.values() for name in modules_of(method)},
        ),
        ("torch", "transformers", "peft"),
    )
    described = {row: [type(method).__qualname__, method.model_dump(mode="json")] for row, method in methods.items()}
    files = backbones.digest(folder, store.notes(backbones.NOTES), weights=False)
    trust_remote_code, shares = suite.backbone.trust_remote_code, suite.training.expert_parallel
    told = [files, described, trust_remote_code, *([shares] if shares else []), code.sources(), code.versions()]
    notes, name = store.notes("checked"), digest_of_text(canonical(told))[:20]
    if notes.read(name) is not None:
        return
    aside(_check_model, folder, methods, trust_remote_code, shares)
    notes.write(name, {"fit": list(methods)})


def _check_model(folder: Path, methods: Mapping[str, Method], trust_remote_code: bool, shares: int | None) -> None:
    from esft_bench.harness.backbone.model import check_methods, load_tokenizer  # here: seconds to import

    check_methods(folder, methods, trust_remote_code, shares)
    load_tokenizer(folder, trust_remote_code)
