"""A task without code, made of what a suite or the command line says of it."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from esft_bench.spec.own import OwnTask
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.own.data import MOST_CLASSES, OwnData, examples, read, read_mixed_in
from esft_bench.tasks.own.examples import Example
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Item, Located, Rubric, Task

HERE = Path(__file__).parent
SHORT = 40
"""Characters of an answer that can be hit exactly."""
LONGEST_ANSWER = 512
"""Tokens, unless a suite says otherwise."""
METRIC = {"choice": "acc", "judge": "bypass", "tests": "passed"}
"""What lm-eval calls a metric, where it is not our name for it."""


def make(task: OwnTask) -> Task:
    """The task, its rows read. Raises TaskError, one sentence."""
    data = read(task)
    metric = metric_of(task, data)
    kind = metric if metric in ("choice", "tests") else "judged" if metric == "judge" else "generate"
    return Task(
        name=task.name,
        title=task.shown,
        role="ability",
        lm_eval=HERE / f"{kind}.yaml",
        metric=METRIC.get(metric, metric),
        training=partial(_training, data),
        items=partial(_items, data, metric, task.clean),
        rubric=Rubric(task.rubric, task.best) if metric == "judge" else None,
        runs_code=metric == "tests",
        held_out=None if metric == "judge" else partial(_held_out, data, metric, task.clean),
        note=described(task, data, metric),
        otherwise=_settings(task, data, metric),
        identity=identity(task),
        lenient=True,
    )


def make_mixed_in(task: OwnTask) -> Task:
    """The task as data that are mixed in, all its rows: nothing is tested on it. Raises TaskError, one sentence."""
    data = read_mixed_in(task)
    found = f"{task.shown}, mixed in: {data.form.shown}; {len(data.sound[0])} rows."
    return Task(
        name=task.name,
        title=task.shown,
        role="alignment",
        training=partial(_training, data),
        note=" ".join([found, *data.remarks]),
        identity=identity(task),
        lenient=True,
    )


def identity(task: OwnTask) -> str:
    """What tells the task and its files from others, without reading them."""
    files = [each for path in (*task.files, *task.test) for each in _files(Path(path).expanduser())]
    stats = sorted((str(each.resolve()), each.stat().st_size, each.stat().st_mtime_ns) for each in files)
    return json.dumps([task.model_dump(mode="json"), stats], sort_keys=True)


def _files(path: Path) -> list[Path]:
    return [each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file()]


def described(task: OwnTask, data: OwnData, metric: str) -> str:
    """What was found, and what is doubtful about it."""
    training, test = data.sound
    how = "a file of its own" if task.test or task.test_split else f"{task.test_share:.0%} held out by question"
    classes = f"; {len(data.classes)} classes" if data.classes else ""
    found = (
        f"{task.shown}: {data.form.shown}{classes}; {len(training)} rows to train on, {len(test)} to test on ({how}), "
        f"scored by {metric.replace('_', ' ')}{'' if task.clean == 'strip' else f' after clean-up {task.clean!r}'}."
    )
    return " ".join([found, *data.remarks])


def metric_of(task: OwnTask, data: OwnData) -> str:
    """The metric that is asked for, or the one that fits: likelihood for choices, exact match for short answers.

    Raises TaskError where the one that is asked for does not fit.
    """
    training, test = data.sound
    answers = [row.text for row in (*training, *test)]
    chosen = all(row.choices for row in (*training, *test))
    if task.metric == "choice" and not chosen:
        raise TaskError(
            f"Task '{task.name}': `metric: choice` needs labels or choices in every row, at most {MOST_CLASSES}."
        )
    if task.metric != "auto":
        return task.metric
    if chosen:
        return "choice"
    if all(isinstance(_json(text), dict) for text in answers):
        return "json"
    return "exact_match" if max(map(len, answers)) <= SHORT and not any("\n" in text for text in answers) else "chrf"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _settings(task: OwnTask, data: OwnData, metric: str) -> dict[str, Any]:
    """Of lm-eval's configuration: where answers end, how long they may be, what the metric is called."""
    if metric == "choice":
        return {}
    answers = [row.text for row in examples([*data.training, *data.test])]
    one_line = not any("\n" in text.strip() for text in answers)
    longest = task.longest_answer or min(LONGEST_ANSWER, max(16, *map(len, answers)))
    until = ["\n"] if one_line and metric != "tests" else ["\n\nUser:"]
    found: dict[str, Any] = {"generation_kwargs": {"until": until, "max_gen_toks": longest, "do_sample": False}}
    if metric not in METRIC:
        found["metric_list"] = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]
    return found


def _training(data: OwnData, _source: Source) -> Iterator[Any]:
    for row in data.training:
        yield Located(row.conversation, row.place) if isinstance(row, Example) else row


def _held_out(data: OwnData, metric: str, clean: str, _source: Source) -> Iterator[Item]:
    """Training rows of one question each as items; those of several turns have no question that stands for them."""
    for row in examples(data.training):
        if len(row.asked) == 1:
            yield {"id": row.place, **_item(row, metric, clean, history=False)}


def _items(data: OwnData, metric: str, clean: str, _source: Source) -> Iterator[Any]:
    history = any(len(row.asked) > 1 for row in examples(data.test))
    seen: Counter[str] = Counter()
    for row in data.test:
        if isinstance(row, Example):
            seen[row.question] += 1
            name = f"{row.question[:16]}{f'-{seen[row.question]}' if seen[row.question] > 1 else ''}"
            yield {"id": name, **_item(row, metric, clean, history)}
        else:
            yield row


def _item(row: Example, metric: str, clean: str, history: bool) -> Item:
    """A row to test on, without its id, which follows from its question."""
    item: Item = {"prompt": row.asked[-1]["content"], "answer": row.text}
    if history:
        item["messages"] = list(row.asked)
    if metric == "choice":
        return item | {"choices": list(row.choices), "gold": row.choices.index(row.text)}
    if metric == "tests":
        return item | {"tests": row.tests}
    return item if metric == "judge" else item | {"metric": metric, "clean": clean, "others": list(row.others)}
