"""What a task is. A new task is one new folder whose `__init__.py` holds one or more `Task` objects.

A task has a name, the training conversations (if one trains on it), the evaluation items and an lm-eval
configuration that turns items into requests. Its metric is lm-eval's own, or a scorer of ours called from that
configuration, or, for free text, a judge that follows the task's rubric.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from esft_bench.tasks.sieve import Keep
from esft_bench.tasks.source import Source

Item = dict[str, Any]
"""An evaluation item, JSON-able. Keys every item has: `id` (str, unique in the task), `prompt` (the user's text
as the model sees it, without the chat format) and `answer` (the reference: str). A multiple-choice item
also has `choices` (list[str]) and `gold` (index into it). More keys are the task's own business."""


DIVERGENCE = "kl"
"""The metric of a task whose items are prompts: the base model answers them, and it is measured how likely a trained
model finds these answers. No configuration of lm-eval's asks that."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


Conversation = list[Message]


def turn(question: str, answer: str) -> Conversation:
    """A conversation of one question and its answer."""
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


@dataclass(frozen=True)
class Rubric:
    """How a judge scores a free-text answer.

    `instructions` says what to look at. `language` is the language they are written in: the judge's own frame around
    them (what is material, how to reply) is in the same one. Scores run from 0 to `best`.

    `question_starts` is what questions begin with, where a prompt holds solved ones before the last: the judge sees the
    last alone.

    With `verbatim` the instructions are all that the judge is sent, with the texts in place of `{prediction}` and
    `{ground_truth}`: a published prompt, word for word, whose reply names the total score in words.
    With `answer_first` the judge reads the answer before the reference (a probe; a published prompt has one order).
    """

    instructions: str
    best: float = 10.0
    language: Literal["en", "zh"] = "en"
    verbatim: bool = False
    answer_first: bool = False
    question_starts: str = ""

    def question(self, prompt: str) -> str:
        """What the judge sees of a prompt."""
        starts = self.question_starts
        return starts + prompt.rpartition(starts)[2] if starts and starts in prompt else prompt


@dataclass(frozen=True)
class Task:
    """A thing to train on, to be tested on, or both.

    Attributes:
        name: what a suite calls it, e.g. `mini-law`. Lower case, digits and hyphens.
        title: the column header in tables, e.g. `Law`.
        role: `ability` (a column of Table 1), `general` (a column of Table 2), `drift` (how far a model has moved, in
            bits) or `alignment` (training data only, mixed into every fine-tuning run).
        lm_eval: the YAML file that lm-eval reads (`dataset_path: json`; the harness fills in `dataset_kwargs` with
            the items file it wrote, and the split is called `test`). None for alignment data.
        metric: the metric of lm-eval's per-sample output that is the task's score, in [0, 1]. For a judged task it is
            `bypass`: lm-eval then only generates, and the judge scores the stored completions. For drift it is
            `bits_per_byte`, of lm-eval's (log-likelihood, bytes) for each item, or DIVERGENCE.
        training: yields the training conversations. None: nobody trains on it.
        items: yields the evaluation items. None: nobody is tested on it.
        rubric: for a judged task, how to judge; `paper_rubric`: the paper's own prompt for that, where it is known.
        benchmarks: for training data without items of their own: the tasks that a cell trained on them is tested on.
        runs_code: whether testing runs generated code (in the sandbox, or not at all).
        held_out: yields, by their question (`prompt`), what rows of the training data are as items, where these need
            more than question and answer as they stand; for looking at a training while it goes on, by `metric`. A task
            that names `benchmarks` gives `lm_eval` and `metric` for that alone.
        note: what a report must say about the task's data, if anything.
        version: raise it when prompts, data or metric change, so that stored results are not reused.
        filters: tests of the training rows that a suite may ask for, by name, made ready with the source; `training`
            reads its rows by `Source.training_rows` then.
    """

    name: str
    title: str
    role: Literal["ability", "general", "drift", "alignment"]
    lm_eval: Path | None = None
    metric: str = "exact_match"
    training: Callable[[Source], Iterable[Conversation]] | None = None
    items: Callable[[Source], Iterable[Item]] | None = None
    rubric: Rubric | None = None
    paper_rubric: Rubric | None = None
    benchmarks: tuple[str, ...] = ()
    runs_code: bool = False
    held_out: Callable[[Source], Iterable[Item]] | None = None
    note: str = ""
    version: int = 1
    filters: Mapping[str, Callable[[Source], Keep]] = field(default_factory=dict, hash=False)
