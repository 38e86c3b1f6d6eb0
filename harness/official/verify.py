"""Fidelity to the ESFT paper: what the official release published, beside what this code makes of the same inputs.

The release (deepseek-ai/ESFT) holds raw routing logs, expert scores, expert configs, completions and their scores. Each
check rebuilds one of these from what it was made of; a part whose files are missing is a row that says so.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, product
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from esft_bench.methods.esft import EsftToken
from esft_bench.methods.moe.layout import AdapterConfig
from esft_bench.methods.moe.released_scores import read_logs, read_summary
from esft_bench.methods.moe.scores import Score, Scores, expert_scores
from esft_bench.methods.moe.selection import select
from esft_bench.reports.statistics.paired import mean_interval
from esft_bench.spec.errors import UserError
from esft_bench.tasks.intent_bdci.metric import score as intent_score

Verdict = Literal["ok", "differs", "info", "missing"]
Compared = tuple[str, str, Verdict]
"""What one comparison found: published, ours, verdict."""


@dataclass(frozen=True)
class Row:
    """One line of the comparison: which `part` of the release, `what` in it, the published value and ours."""

    part: str
    what: str
    published: str
    ours: str
    verdict: Verdict


@dataclass(frozen=True)
class Paper:
    """A task in the paper: evaluation `items` (as many as datasets/eval has), and Table 1's values for both rows."""

    items: int
    token: float
    gate: float


PAPER = {
    "intent": Paper(500, token=75.6, gate=78.6),
    "summary": Paper(100, token=65.4, gate=67.2),
    "law": Paper(100, token=45.7, gate=49.1),
    "translation": Paper(100, token=36.2, gate=35.2),
}
"""ESFT paper, Table 1, rows ESFT-Token and ESFT-Gate, in points of 100; the release holds these four tasks."""

SCORES: tuple[Score, Score] = ("token", "gate")
MOE_LAYERS, TOP_K = 26, 6
"""DeepSeek-V2-Lite: layers 1 to 26 are mixtures, each token goes to 6 routed experts (the model's config.json)."""
HALF_A_DIGIT = 5e-5
"""Released scores have 4 decimals: a difference below half of the last one is no difference."""


class _Item(BaseModel):
    """A line of datasets/eval."""

    prompt: str
    raw_answers: list[str] = Field(min_length=1)


class _Example(_Item):
    raw_prediction: str


class Completion(BaseModel):
    """A line of completions/{token,gate}/{task}.jsonl: the item, what the model wrote, and its stored score."""

    example: _Example
    score: float = Field(ge=0, le=1)


Line = TypeVar("Line", bound=BaseModel)


def verify(official: Path) -> list[Row]:
    """Run every check on a checkout of the official repository, or on a folder laid out as its `results`.

    Raises UserError where the folder holds nothing that could be verified.
    """
    checks = (check_selections, check_scores, check_intent, check_judged, check_items)
    rows = [row for check in checks for row in check(official)]
    if all(row.verdict == "missing" for row in rows):
        raise UserError(
            f"{official} holds nothing to verify: give --official a checkout of deepseek-ai/ESFT, or a folder with its "
            "expert_scores, expert_configs or completions."
        )
    return rows


def check_selections(official: Path) -> list[Row]:
    """Rebuild each released expert config, in order, from the released scores by ESFT-Token's own settings."""
    method = EsftToken()

    def compare(summary: Path, config: Path) -> Compared:
        released = _parse(config.read_bytes(), AdapterConfig, str(config)).experts
        ours = select(read_summary(summary, method.score), method.p)
        layers = sorted(released.keys() | ours.keys())
        wrong = [layer for layer in layers if released.get(layer) != ours.get(layer)]
        found = f"{len(layers) - len(wrong)} of {MOE_LAYERS} equal, {_experts(ours)}"
        if wrong:
            found += f"; layer {wrong[0]} is {released.get(wrong[0])} there, {ours.get(wrong[0])} here"
        return f"{len(released)} layers, {_experts(released)}", found, _ok(not wrong and len(layers) == MOE_LAYERS)

    part = f"Expert configs, selected from the released scores ({method.score}, p = {method.p})"
    configs = _released(official, "expert_configs")
    return [_row(part, task, official, [_scores(official, task), configs / f"{task}.json"], compare) for task in PAPER]


def check_scores(official: Path) -> list[Row]:
    """Rebuild the released scores from the raw routing logs of as many layers as are there."""
    read = lru_cache(maxsize=1)(partial(read_logs, top_k=TOP_K))  # logs are long, and both scores come from the same

    def compare(score: Score, summary: Path, log: Path) -> Compared:
        released = read_summary(summary, score)
        profile = read(log.parent, released.values.shape[1])
        gap = _largest_gap(expert_scores(profile, score, "released"), released)
        found = f"{len(profile.layers)} layers, largest gap {gap:.4f}"
        return f"{len(released.layers)} layers, 4 decimals", found, _ok(gap < HALF_A_DIGIT)  # not ok where NaN

    part, rows = "Expert scores, from the raw logs of the layers that are there", []
    for task, score in product(PAPER, SCORES):
        summary = _scores(official, task)
        log = min(summary.parent.glob("expert_weights_*.txt"), default=summary.with_name("expert_weights_1.txt"))
        rows.append(_row(part, f"{task} {score}", official, [summary, log], partial(compare, score)))
    return rows


def check_intent(official: Path) -> list[Row]:
    """Score each released intent completion with our metric: the stored scores, and the mean beside Table 1's."""

    def score_all(path: Path) -> list[tuple[float, int]]:
        """The stored score and ours of each line."""
        lines = [(line.score, line.example) for line in read_lines(path, Completion)]
        return [(stored, intent_score(example.raw_prediction, example.raw_answers[0])) for stored, example in lines]

    def compare_each(path: Path) -> Compared:
        pairs = score_all(path)
        wrong = [number for number, (stored, ours) in enumerate(pairs, start=1) if stored != ours]
        found = f"{len(pairs) - len(wrong)} of {PAPER['intent'].items} equal"
        if wrong:
            stored, ours = pairs[wrong[0] - 1]
            found += f"; line {wrong[0]} has {stored:g} there, {ours} here"
        return f"{len(pairs)} stored scores", found, _ok(not wrong and len(pairs) == PAPER["intent"].items)

    def compare_mean(score: Score, path: Path) -> Compared:
        return _mean("intent", score, [ours for _, ours in score_all(path)])

    part, rows = "Intent completions, scored by our metric; their mean beside the paper's Table 1", []
    for score in SCORES:
        path = completions_file(official, score, "intent")
        rows.append(_row(part, f"{score}, each item", official, [path], compare_each))
        rows.append(_row(part, f"{score}, mean", official, [path], partial(compare_mean, score)))
    return rows


def check_judged(official: Path) -> list[Row]:
    """Average the judge's stored scores, beside Table 1's. They are information: no code of ours made them."""

    def compare(task: str, score: Score, path: Path) -> Compared:
        return _mean(task, score, [line.score for line in read_lines(path, Completion)])

    part = "Mean of the stored judge scores, beside the paper's Table 1"
    return [
        _row(
            part, f"{task} {score}", official, [completions_file(official, score, task)], partial(compare, task, score)
        )
        for task, score in product(PAPER, SCORES)
        if task != "intent"
    ]


def check_items(official: Path) -> list[Row]:
    """Look whether the completions answer the released evaluation items: prompt and reference, in order."""

    def compare(path: Path, items: Path) -> Compared:
        asked = [(item.prompt, item.raw_answers) for item in read_lines(items, _Item)]
        answered = [(line.example.prompt, line.example.raw_answers) for line in read_lines(path, Completion)]
        equal = sum(one == other for one, other in zip(asked, answered, strict=False))
        return f"{len(asked)} items", f"{equal} of {len(answered)} equal", _ok(asked == answered)

    part, folder = "Completions, whether they answer the items of datasets/eval", official / "datasets" / "eval"
    return [
        _row(
            part,
            f"{task} {score}",
            official,
            [completions_file(official, score, task), folder / f"{task}.jsonl"],
            compare,
        )
        for task, score in product(PAPER, SCORES)
    ]


def as_tables(rows: Sequence[Row]) -> Group:
    """The rows as a table for each part, and the count of verdicts below."""
    words = {
        "ok": Text("ok", "green"),
        "differs": Text("differs", "red"),
        "info": Text("info"),
        "missing": Text("not in DIR", "dim"),
    }
    shown: list[RenderableType] = []
    for part, members in groupby(rows, key=lambda row: row.part):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for column, width in (("", 17), ("published", 22), ("ours", 28), ("", 10)):
            table.add_column(column, min_width=width, overflow="fold")
        for row in members:
            table.add_row(row.what, row.published, row.ours, words[row.verdict])
        shown += [Text(part, "bold"), table, ""]
    counts = Counter(row.verdict for row in rows)
    return Group(
        *shown,
        f"{counts['ok']} as published, {counts['differs']} differ, {counts['info']} for information, "
        f"{counts['missing']} not in DIR",
    )


def _row(part: str, what: str, official: Path, files: Sequence[Path], compare: Callable[..., Compared]) -> Row:
    """The row of one comparison: `missing` where a file is, `differs` with the reason where one cannot be read."""
    if absent := [path for path in files if not path.is_file()]:
        return Row(part, what, "–", f"no {absent[0].parent.name}/{absent[0].name}", "missing")
    try:
        return Row(part, what, *compare(*files))
    except UserError as error:
        reason = str(error)
    except (ValueError, OSError, AttributeError) as error:  # not UTF-8, not readable, JSON of another kind
        reason = f"{' or '.join(map(str, files))} cannot be read: {error}"
    return Row(part, what, "–", reason.replace(f"{official}/", ""), "differs")


def _ok(same: bool) -> Verdict:
    return "ok" if same else "differs"


def _mean(task: str, score: Score, values: Sequence[float]) -> Compared:
    """Mean in points, its 95% interval over the items, and its distance from Table 1's value."""
    published: float = getattr(PAPER[task], score)
    if len(values) != PAPER[task].items:
        return f"{published}", f"{len(values)} of {PAPER[task].items} items", "differs"
    mean = mean_interval([100 * value for value in values])
    gap = mean.estimate - published
    return f"{published}", f"{mean.estimate:.2f} [{mean.low:.1f}, {mean.high:.1f}], {gap:+.2f}", "info"


def _largest_gap(ours: Scores, released: Scores) -> float:
    """Largest absolute difference in the layers of `ours`. Raises UserError where the release has no scores of one."""
    if unknown := set(ours.layers) - set(released.layers):
        raise UserError(f"There is a log of layer {min(unknown)}, and no score of it.")
    expected = released.values[[released.layers.index(layer) for layer in ours.layers]]
    return float((ours.values - expected).abs().max())


def read_lines(path: Path, model: type[Line]) -> list[Line]:
    """The lines of a JSONL file. Raises UserError with file, line and field where one is not of that kind."""
    with path.open(encoding="utf-8") as file:
        return [_parse(line, model, f"{path}, line {number}") for number, line in enumerate(file, start=1)]


def _parse(text: str | bytes, model: type[Line], place: str) -> Line:
    """A JSON text as a model. Raises UserError with the place and the field."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{place}{field and ', '}{field}: {first['msg']}.") from error


def _released(official: Path, name: str) -> Path:
    """A file of the release: under `results` in a checkout, else directly in the folder."""
    results = official / "results"
    return (results if results.is_dir() else official) / name


def _scores(official: Path, task: str) -> Path:
    return _released(official, f"expert_scores/{task}/summary.json")


def completions_file(official: Path, score: Score, task: str) -> Path:
    """The released completions of ESFT-Token or ESFT-Gate on a task."""
    return _released(official, f"completions/{score}/{task}.jsonl")


def _experts(selection: dict[int, list[int]]) -> str:
    return f"{sum(map(len, selection.values()))} experts"
