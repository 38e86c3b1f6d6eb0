"""A user's rows as a task has them: which are trained on and which tested on, and what is to be said of them.

A row is held out by a hash of its question: it never moves, whatever rows are added, taken out or put in another order,
and rows of one question are on one side. What would make a comparison worthless is a TaskError, what is doubtful a
remark.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from esft_bench.spec.own import OwnTask
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.own.examples import Example, example
from esft_bench.tasks.own.files import Found, all_of, read_hub, shown
from esft_bench.tasks.own.forms import Form, find

MOST_CLASSES = 100
"""So many labels can be told apart by their likelihoods in reasonable time."""
SHOWN_CLASSES = 20
"""So many are named in the question."""
FEW = 30
"""Fewer test rows tell hardly anything apart."""
LOOKED_AT = 50
"""So many rows say which columns there are."""
MISSING = {"nan", "null", "none", "n/a", "na", "<na>", "?"}
"""Labels that programs write where there is none."""
MANY = 0.5
"""With more labels than this share of the rows they are no classes."""
ALL_THE_SAME = 0.5
"""From this share of test questions on that are trained on too, training and test are one."""

Row = Example | TaskError
"""A row, or why it cannot be used."""


@dataclass(frozen=True)
class OwnData:
    """What was read: the rows' form, those to train and to test on, the classes, and remarks."""

    form: Form
    training: Sequence[Row]
    test: Sequence[Row]
    classes: tuple[str, ...]
    remarks: Sequence[str]

    @property
    def sound(self) -> tuple[list[Example], list[Example]]:
        """The rows that can be used, to train and to test on."""
        return examples(self.training), examples(self.test)


def examples(rows: Iterable[Row]) -> list[Example]:
    """The rows that can be used."""
    return [row for row in rows if isinstance(row, Example)]


def read(task: OwnTask) -> OwnData:
    """Read a task's rows, those to train on and those to test on. Raises TaskError, one sentence."""
    form, rows = _rows(task)
    if task.test or task.test_split:
        tested = list(read_hub(task, task.test_split)) if task.test_split else list(all_of(task.test))
        own = find(task, list(dict.fromkeys(chain.from_iterable(r for _, r in tested if isinstance(r, dict)))), "test")
        test = [_row(task, own, each) for each in tested]
        training = rows
    else:
        test = [row for row in rows if isinstance(row, Example) and is_held_out(row, task.test_share)]
        training = [row for row in rows if not (isinstance(row, Example) and is_held_out(row, task.test_share))]
    classes = _classes(task, form, training, test)
    _check(task, form, training, test)
    remarks = _remarks(classes, examples(training), examples(test))
    test = sorted(test, key=lambda row: row.question if isinstance(row, Example) else "")
    return OwnData(form, _named(training, classes, task), _named(test, classes, task), classes, remarks)


def read_mixed_in(task: OwnTask) -> OwnData:
    """Read rows of which none is tested on. Raises TaskError, one sentence."""
    form, rows = _rows(task)
    classes = _classes(task, form, rows, ())
    _check_trained_on(task, rows, rows)
    remarks = [*_doubled(examples(rows)), *_doubtful_labels(classes, len(rows))]
    return OwnData(form, _named(rows, classes, task), (), classes, remarks)


def _rows(task: OwnTask) -> tuple[Form, list[Row]]:
    """A task's rows, as they come, and their form. Raises TaskError where there is none."""
    found = _located(task)
    first = list(islice(found, LOOKED_AT))
    where = first[0][0].rpartition(",")[0] if first else task.shown
    columns = dict.fromkeys(chain.from_iterable(row for _, row in first if isinstance(row, dict)))
    bad = next((row for _, row in first if isinstance(row, TaskError)), None)
    if not columns and bad is not None:
        raise bad
    if not columns:
        raise TaskError(f"{where}: there is no row in it.")
    form = find(task, list(columns), where)
    return form, [_row(task, form, each) for each in chain(first, found)]


def is_held_out(row: Example, share: float) -> bool:
    """Whether a row is tested on: that follows from its question alone."""
    return int(row.question[:8], 16) < share * 2**32


def _located(task: OwnTask) -> Iterator[Found]:
    return read_hub(task, task.split) if task.hub else all_of(task.files)


def _row(task: OwnTask, form: Form, found: Found) -> Row:
    place, row = found
    if isinstance(row, TaskError):
        return row
    try:
        return example(task, form, place, row)
    except TaskError as error:
        return error


def _classes(task: OwnTask, form: Form, training: Sequence[Row], test: Sequence[Row]) -> tuple[str, ...]:
    """The labels there are, where rows are texts with labels. Raises TaskError for one that was not given."""
    if "label" not in form.columns:
        return ()
    found = sorted({row.text for row in examples(chain(training, test))})
    if task.choices and (other := [label for label in found if label not in task.choices]):
        raise TaskError(f"Task '{task.name}': the label {shown(other[0])} is none of its `choices`.")
    return tuple(task.choices or found)


def _named(rows: Sequence[Row], classes: Sequence[str], task: OwnTask) -> list[Row]:
    """Rows of labels with their choices, and with what these are in the question, unless that is the user's own."""
    if not classes or len(classes) > MOST_CLASSES:
        return list(rows)
    told = f"\n\nAnswer with one of: {', '.join(classes)}." if len(classes) <= SHOWN_CLASSES and not task.prompt else ""
    return [_with_choices(row, tuple(classes), told) if isinstance(row, Example) else row for row in rows]


def _with_choices(row: Example, classes: tuple[str, ...], told: str) -> Example:
    *before, last = row.asked
    return replace(row, asked=[*before, {**last, "content": last["content"] + told}], choices=classes)


def _check(task: OwnTask, form: Form, training: Sequence[Row], test: Sequence[Row]) -> None:
    """Raise TaskError for what would make a comparison worthless."""
    _check_trained_on(task, training, [*training, *test])
    own, held = examples(training), examples(test)
    name = f"Task '{task.name}'"
    if not held:
        bad = next((row for row in (*training, *test) if isinstance(row, TaskError)), "")
        raise TaskError(f"{name}: of {len(own)} rows none is held out to test on: give more, or a test file. {bad}")
    if "label" in form.columns and len({row.text for row in own}) == 1:
        raise TaskError(f"{name}: all training rows have the label {shown(own[0].text)}: give rows of the others too.")
    known = {row.question for row in own}
    again = sum(row.question in known for row in held)
    if again >= ALL_THE_SAME * len(held):
        raise TaskError(
            f"{name}: {again} of the {len(held)} questions to test on are trained on too: give other rows to test on."
        )
    if task.metric == "tests" and not all(row.tests for row in held):
        raise TaskError(f"{name}: `metric: tests` needs a column of unit tests, filled in every row that is tested on.")


def _check_trained_on(task: OwnTask, training: Sequence[Row], whole: Sequence[Row]) -> None:
    """Raise TaskError where there is nothing to learn: no row to train on, or one answer in the `whole`."""
    name = f"Task '{task.name}'"
    if not examples(training):
        bad = next((row for row in whole if isinstance(row, TaskError)), "Lower test_share, or give more rows.")
        raise TaskError(f"{name}: no row can be trained on. {bad}")
    if len(examples(whole)) > 1 and len(answers := {row.text for row in examples(whole)}) == 1:
        raise TaskError(f"{name}: every answer is {shown(next(iter(answers)))}, so there is nothing to tell apart.")


def _remarks(classes: Sequence[str], training: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """What is doubtful."""
    said = []
    questions = {row.question for row in training}
    if again := sum(row.question in questions for row in test):
        said.append(f"{again} of the {len(test)} questions that are tested on are trained on too.")
    said += _doubled(training)
    if len(test) < FEW:
        said.append(f"{len(test)} test rows tell hardly anything apart.")
    if unseen := ({row.text for row in test} - {row.text for row in training}) if classes else set():
        said.append(f"Answers that no training row has are tested on: {', '.join(sorted(unseen)[:5])}.")
    return [*said, *_doubtful_labels(classes, len(training) + len(test))]


def _doubled(training: Sequence[Example]) -> Iterator[str]:
    """Rows that are there again, and questions with several answers."""
    pairs = Counter((row.question, row.text) for row in training)
    if twice := sum(pairs.values()) - len(pairs):
        yield f"{twice} training rows are there twice or more."
    if differ := len(pairs) - len({row.question for row in training}):
        yield f"{differ} questions are answered in more than one way."


def _doubtful_labels(classes: Sequence[str], rows: int) -> Iterator[str]:
    """Labels that may be one, that may stand for none, or that are no classes."""
    alike: dict[object, list[str]] = {}
    for label in classes:
        alike.setdefault(_likeness(label), []).append(label)
    if same := [" and ".join(map(shown, labels)) for labels in alike.values() if len(labels) > 1]:
        yield f"Labels that may be the same are classes of their own: {'; '.join(same[:5])}."
    if missing := [shown(label) for label in classes if label.casefold() in MISSING]:
        yield f"A label that may stand for a missing one is a class: {', '.join(missing)}."
    if len(classes) > MANY * rows:
        yield f"{rows} rows have {len(classes)} labels: these are hardly classes; say --columns answer=COLUMN if so."


def _likeness(label: str) -> object:
    """The number that a label is, true and false among them, or its letters in one case."""
    text = {"true": "1", "false": "0"}.get(label.casefold(), label.casefold())
    try:
        return float(text)
    except ValueError:
        return " ".join(text.split())
