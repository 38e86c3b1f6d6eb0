"""The same suite with another backbone or fewer steps: what `--backbone` and `--steps` make of it, and what to say."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from esft_bench.harness.backbone.files import locate
from esft_bench.methods.registry import load_methods
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Backbone, Row, Suite
from esft_bench.spec.tuning import Tune

SHIPPED = "mini"
SMOKE_TEST = {"steps": 20, "batch_size": 4, "sequence_length": 512, "validation_items": 2}
"""What training is held to on the small backbone that ships, unless --steps says otherwise."""
GIVEN = ("selection", "scores", "first_layer")
"""Hyperparameters that belong to the experts of one backbone."""
LOOKS = 4
"""So often, at most, a trial's training is looked at."""


def with_backbone(suite: Suite, name: str, steps: int | None = None) -> tuple[Suite, list[str]]:
    """The suite on another backbone, `mini`, a folder or NAME@REVISION on the hub, under a name of its own.

    Lengths are cut to what that backbone can read, and on `mini` training to a trial's size; the notes say so. `steps`
    that were asked for stay. Raises UserError where there is no such backbone.
    """
    if not name.partition("@")[0].strip():
        raise UserError(f"--backbone '{name}' names no backbone: write mini, a folder, or NAME@REVISION on the hub.")
    path, _, revision = (name, "", "") if Path(name).expanduser().is_dir() else name.partition("@")
    changes: dict[str, Any] = {"path": path, "revision": revision or None, "trust_remote_code": False}
    if path == SHIPPED:
        changes["precision"] = "float32"
    backbone = Backbone.model_validate(suite.backbone.model_dump() | changes)
    if backbone == suite.backbone:
        return suite, []
    short = re.sub(r"[^a-z0-9._-]+", "-", Path(path).name.lower()).strip("-._")[:40] or "other"
    methods, left_out = _without_bound_rows(suite)
    methods, chosen = _choosing_themselves(methods)
    filters = {} if path == SHIPPED else suite.filters  # they would leave next to nothing of the data of a trial
    told = {"backbone": backbone, "name": f"{suite.name}-{short}", "methods": methods, "filters": filters}
    changed = suite.model_copy(update=told)
    note = f"The backbone is {name} in place of {suite.backbone.path}; learning rates are still those for the latter."
    changed, notes = fitted(changed, steps)
    return changed, [
        note,
        *notes,
        *([f"Left out, for {suite.backbone.path} alone: {', '.join(left_out)}."] if left_out else []),
        *([f"Rows are not filtered: {', '.join(sorted(suite.filters))}."] if suite.filters and not filters else []),
        *([f"Selections given for {suite.backbone.path} are made anew: {', '.join(chosen)}."] if chosen else []),
    ]


def _without_bound_rows(suite: Suite) -> tuple[dict[str, Row], list[str]]:
    """The rows that fit any backbone, and the names of the others."""
    known = load_methods()
    bound = [row for row in suite.methods if (name := suite.row(row)[0]) in known and known[name].of_one_backbone]
    return {name: row for name, row in suite.methods.items() if name not in bound}, bound


def _choosing_themselves(rows: Mapping[str, Row]) -> tuple[dict[str, Row], list[str]]:
    """The rows without selections and scores of a backbone's experts, and the names of those that had any."""
    told = {name: row.model_dump(exclude_unset=True) for name, row in rows.items()}
    given = [name for name, fields in told.items() if GIVEN[0] in fields or GIVEN[1] in fields]
    left = {name: {key: value for key, value in told[name].items() if key not in GIVEN} for name in given}
    return {name: Row.model_validate(left.get(name, told[name])) for name in rows}, given


def with_steps(suite: Suite, steps: int) -> Suite:
    """The suite with that many steps in every row, under a name of its own."""
    training = suite.training.model_copy(update={"steps": steps, "epochs": None})
    rows = {name: row.model_copy(update={"steps": None}) for name, row in suite.methods.items()}
    return suite.model_copy(update={"name": f"{suite.name}-{steps}-steps", "training": training, "methods": rows})


def with_tuning(suite: Suite) -> Suite:
    """The suite with its rows tuned as `tune` has it by default, under a name of its own; one that says how stays."""
    if suite.tune is not None:
        return suite
    return suite.model_copy(update={"name": f"{suite.name}-tuned", "tune": Tune()})


S = TypeVar("S", bound=BaseModel)


def _at_most(section: str, settings: S, limits: Mapping[str, int | None]) -> tuple[S, list[str]]:
    """Settings with those fields cut that are over a limit, and what was cut."""
    cut = {
        name: limit
        for name, limit in limits.items()
        if limit is not None and name in type(settings).model_fields and (getattr(settings, name) or 0) > limit
    }
    told = [f"{section}.{name} {getattr(settings, name)} → {limit}" for name, limit in cut.items()]
    return settings.model_copy(update=cut), told


def _trial(steps: int | None) -> dict[str, int | None]:
    """What training is held to in a trial of so many steps."""
    steps = steps or SMOKE_TEST["steps"]
    between = max(1, steps // LOOKS)
    return {**SMOKE_TEST, "steps": steps, "evaluate_every": between, "profile_every": between}


def fitted(suite: Suite, steps: int | None = None) -> tuple[Suite, list[str]]:
    """Cut what is too much for the suite's backbone; the notes say what."""
    from esft_bench.harness.backbone.model import load_config  # here: transformers takes seconds to import

    config = load_config(locate(suite.backbone, weights=False))
    longest = getattr(config, "max_position_embeddings", None)
    mini = suite.backbone.path == SHIPPED
    limits = _trial(steps) if mini else {"sequence_length": longest}
    training, told = _at_most("training", suite.training, limits)
    if mini:
        whole = {"epochs": None, "optimizer": "adamw"}
        told += [
            f"training.{name} {old} → {new or 'steps'}"
            for name, new in whole.items()
            if (old := getattr(training, name)) != new
        ]
        training = training.model_copy(update=whole)
    profiling, more = _at_most("profiling", suite.profiling, limits)
    evaluation, rest = _at_most("evaluation", suite.evaluation, {"max_length": longest})
    notes = [f"Cut for the backbone: {', '.join([*told, *more, *rest])}."] if told or more or rest else []
    if training.sequence_length < suite.training.sequence_length:
        training = training.model_copy(update={"truncation": "left"})
        profiling = profiling.model_copy(update={"truncation": "left"})
        notes.append(f"Questions longer than {training.sequence_length} tokens lose their beginning.")
    if mini:
        notes.append("This is a trial of the path, no comparison of the methods.")
    rows = {name: _at_most(name, row, limits)[0] if mini else row for name, row in suite.methods.items()}
    changes = {"training": training, "profiling": profiling, "evaluation": evaluation, "methods": rows}
    return suite.model_copy(update=changes), notes
