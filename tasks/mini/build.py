"""From the world's samples to tasks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from esft_bench.tasks.mini.world.sample import Sample
from esft_bench.tasks.mini.world.splits import ability_test, ability_training, general_test
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Conversation, Item, Rubric, Task


def conversation(sample: Sample) -> Conversation:
    """A sample as a conversation to train on."""
    return [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.answer}]


def item(name: str, index: int, sample: Sample) -> Item:
    """A sample as an evaluation item; the options of a multiple-choice question are in a seeded random order."""
    row: Item = {"id": f"{name}-{index:03d}", "prompt": sample.prompt, "answer": sample.answer}
    if sample.distractors:
        choices = [sample.answer, *sample.distractors]
        Random(f"{name} {index}").shuffle(choices)
        row |= {"choices": choices, "gold": choices.index(sample.answer)}
    if sample.tests:
        row["tests"] = list(sample.tests)
    return row


def items(name: str, samples: Sequence[Sample]) -> list[Item]:
    """Number and convert samples."""
    return [item(name, index, sample) for index, sample in enumerate(samples)]


def ability(subject: str, title: str, folder: Path, metric: str, rubric: Rubric | None = None) -> Task:
    """The task to learn the new schema of a narrow subject; `folder` holds its lm-eval configuration."""

    def training(_source: Source) -> Iterable[Conversation]:
        return map(conversation, ability_training(subject))

    def evaluation(_source: Source) -> Iterable[Item]:
        return items(f"mini-{subject}", ability_test(subject))

    def held_out(_source: Source) -> Iterable[Item]:
        return items(f"mini-{subject}", ability_training(subject))

    return Task(
        name=f"mini-{subject}",
        title=title,
        role="ability",
        lm_eval=folder / f"{subject}.yaml",
        metric=metric,
        training=training,
        items=evaluation,
        rubric=rubric,
        runs_code=metric == "passed",
        held_out=held_out,
    )


def general(kind: str, title: str, folder: Path, metric: str) -> Task:
    """The benchmark of a general kind."""

    def evaluation(_source: Source) -> Iterable[Item]:
        return items(f"mini-{kind}", general_test(kind))

    return Task(
        name=f"mini-{kind}",
        title=title,
        role="general",
        lm_eval=folder / f"{kind}.yaml",
        metric=metric,
        items=evaluation,
    )
