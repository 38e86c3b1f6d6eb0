"""`--data FILE`: the suite that compares the usual rows on a user's own files, with defaults that fit."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from esft_bench.harness.backbone.files import locate
from esft_bench.harness.plan.availability import there
from esft_bench.harness.plan.known import made
from esft_bench.harness.plan.overrides import SHIPPED, fitted
from esft_bench.spec import suite_file
from esft_bench.spec.errors import UserError
from esft_bench.spec.learning_rates import learning_rate
from esft_bench.spec.own import OwnTask
from esft_bench.spec.suite import Suite
from esft_bench.tasks.source import Source

SUITES = Path(suite_file.__file__).parent
DEFAULT = "mini"
"""The suite that is meant where none is named; with data of the user's own it is made for these."""
PASSES = 3
"""So often every row is trained on, about, within these numbers of steps."""
FEWEST, MOST = 20, 500
SMALL_STEP = 8 * 256
"""Tokens of a step, in the suite made for the small backbone."""
SEQUENCES, LENGTH = 16, 2048
"""The most sequences of a step for other backbones, and their length; for few rows it is fewer sequences."""
CHARACTERS_A_TOKEN = {SHIPPED: 2.0}
OTHER_CHARACTERS = 3.5
GENERAL = ("mmlu", "ceval", "hellaswag", "arc-challenge", "triviaqa", "ifeval", "commonsenseqa", "strategyqa")
"""General benchmarks for any backbone, as far as the data folder has them."""
TEXTS = ("general-text",)
ALWAYS_THERE = "python-text"
"""Where there is no general benchmark: how likely a text still is."""
ACCELERATORS = ("/dev/nvidia0", "/dev/kfd")


@dataclass(frozen=True)
class OwnFiles:
    """What the command line says of a user's files."""

    data: Sequence[str]
    columns: str | None = None
    metric: str | None = None
    test: str | None = None


def own_suite(files: OwnFiles, suite: str, backbone: str | None) -> tuple[str, list[str]]:
    """The suite for a user's files, as the name or path of one and changes to its fields, FIELD=VALUE each.

    Raises UserError or TaskError for files that cannot be used.
    """
    tasks = _tasks(files)
    name = "-".join(task.name for task in tasks)[:60].strip("-")
    described = [task.model_dump(mode="json", exclude_defaults=True) for task in tasks]
    changes = [f"tasks={json.dumps(described)}", f"name={name}", "quick=null", "tested_only=[]", "tested_on={}"]
    if suite != DEFAULT:
        return suite, changes
    small = backbone in (None, SHIPPED)
    tokens = _tokens(tasks, SHIPPED if small else "")
    if small:
        return str(SUITES / "own-mini.yaml"), [*changes, f"training.steps={_steps(tokens, SMALL_STEP)}"]
    sequences = max(1, min(SEQUENCES, round(PASSES * tokens / FEWEST / LENGTH)))
    changes += [f"training.batch_size={sequences}", f"training.steps={_steps(tokens, sequences * LENGTH)}"]
    path, _, revision = (str(backbone), "", "") if Path(str(backbone)).is_dir() else str(backbone).partition("@")
    precision = "bf16" if any(Path(each).exists() for each in ACCELERATORS) else "float32"
    told = {"path": path, "precision": precision} | ({"revision": revision} if revision else {})
    return str(SUITES / "own.yaml"), [*changes, f"backbone={json.dumps(told)}"]


def made_for_data(suite: Suite, data_dir: Path | None) -> tuple[Suite, list[str]]:
    """The suite made for a user's files, fitted to its backbone, with what general benchmarks there are data for."""
    if suite.backbone.path == SHIPPED:
        return suite, []
    suite, notes = _with_known_rates(*fitted(suite))
    general = there(GENERAL, Source(data_dir)) if data_dir else []
    drift = [] if general else (there(TEXTS, Source(data_dir)) if data_dir else []) or [ALWAYS_THERE]
    if drift:
        notes.append(
            "No general benchmark has data here, so what a row forgets is told by bits a byte on a text that nobody "
            f"trains on ({drift[0]}) alone: give --data-dir, or name benchmarks under `general` in a suite."
        )
    return suite.model_copy(update={"general": general, "drift": drift}), notes


def _with_known_rates(suite: Suite, notes: list[str]) -> tuple[Suite, list[str]]:
    """The rows with the learning rates that are known to do well for models as wide as the backbone."""
    from esft_bench.harness.backbone.model import load_config  # here: transformers takes seconds to import

    config = load_config(locate(suite.backbone, weights=False), suite.backbone.trust_remote_code).get_text_config()
    rows, told = dict(suite.methods), []
    for name, row in suite.methods.items():
        if found := learning_rate(suite.row(name)[0], config.hidden_size):
            rows[name] = row.model_copy(update={"learning_rate": found[0]})
            told.append(f"{suite.title(name)} {found[0]:g} ({found[1]})")
    said = (
        f"Learning rates for a hidden size of {config.hidden_size}: {'; '.join(told)}. Search around them with --tune."
    )
    return suite.model_copy(update={"methods": rows}), [*notes, *([said] if told else [])]


def _tasks(files: OwnFiles) -> list[OwnTask]:
    """A task of each file, named after it."""
    if files.test is not None and len(files.data) > 1:
        raise UserError("--test is for one --data; describe several in a suite, `tasks: [{files: …, test: …}]`.")
    taken: list[str] = []
    tasks = []
    for path in files.data:
        where = Path(path).expanduser()
        hub, at, revision = path.partition("@")
        fields: dict[str, object] = {"name": _name(hub if at else where.stem, taken)}
        if not where.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", hub):
            fields |= {"hub": hub, "revision": revision}
        else:
            fields |= {"files": [str(path)]}
        fields |= {"columns": _columns(files.columns)} if files.columns else {}
        fields |= {"metric": files.metric} if files.metric else {}
        fields |= {"test": [files.test]} if files.test else {}
        try:
            tasks.append(OwnTask.model_validate(fields))
        except ValidationError as error:
            first = error.errors()[0]
            where_in = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"--data {path}{', ' if where_in else ''}{where_in}: {said}.") from error
    return tasks


def _name(text: str, taken: list[str]) -> str:
    """A file's name as a task's, another one for each."""
    name = re.sub(r"[^a-z0-9]+", "-", Path(text).name.lower()).strip("-")[:40].strip("-") or "data"
    number = sum(each == name or re.fullmatch(rf"{name}-\d+", each) is not None for each in taken)
    taken.append(f"{name}-{number + 1}" if number else name)
    return taken[-1]


def _columns(text: str) -> dict[str, str]:
    """`prompt=question,answer=label` as it is meant."""
    pairs = [each.partition("=") for each in text.split(",")]
    if not all(part.strip() and equals and column.strip() for part, equals, column in pairs):
        raise UserError(f"--columns {text}: write PART=COLUMN, several with commas, e.g. prompt=question,answer=label.")
    return {part.strip(): column.strip() for part, _, column in pairs}


def _tokens(tasks: Sequence[OwnTask], backbone: str) -> float:
    """The tokens of the task with the most of them; a token is taken to be so many characters."""
    longest = 0
    for task in tasks:
        rows = made(task).training
        assert rows is not None
        texts = (row for row in rows(Source()) if isinstance(row, list))
        longest = max(longest, sum(len(message["content"]) for row in islice(texts, 10**6) for message in row))
    return longest / CHARACTERS_A_TOKEN.get(backbone, OTHER_CHARACTERS)


def _steps(tokens: float, of_a_step: int) -> int:
    """Steps that pass over the rows a few times."""
    return int(min(MOST, max(FEWEST, round(PASSES * tokens / of_a_step))))
