"""Whether questions that are tested on stand in the user's own data that are mixed in."""

from collections.abc import Mapping
from dataclasses import replace

from esft_bench.harness.plan.data import TaskData
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.suite import Suite
from esft_bench.tasks.own.data import ALL_THE_SAME


def with_overlap(suite: Suite, data: Mapping[str, TaskData]) -> dict[str, TaskData]:
    """The tasks' rows, with a note on the data mixed in where they hold questions of the tests, word for word.

    Raises UserError where they hold so many of a benchmark's that it would test nothing.
    """
    mixed_in = suite.own_alignment
    training = data[mixed_in].training if mixed_in else None
    if mixed_in is None or training is None:
        return dict(data)
    asked = {turn["content"] for row in read_jsonl(training.path) for turn in row if turn["role"] == "user"}
    said = [data[mixed_in].note]
    for name, task in data.items():
        questions = [item.get("prompt") for item in read_jsonl(task.items.path)] if task.items else []
        again = sum(question in asked for question in questions)
        told = f"{again} of the {len(questions)} questions of {name} stand in the data that are mixed in ({mixed_in})"
        if again and again >= ALL_THE_SAME * len(questions):
            raise UserError(f"alignment: {told}: take them out, or mix in other data.")
        said += [f"{told}."] if again else []
    return {**data, mixed_in: replace(data[mixed_in], note=" ".join(filter(None, said)))}
