"""C-Eval: Chinese exam questions in 52 subjects; 5-shot, the examples from the subject's dev split.

Questions come from the val split: the answers of the test split are not public.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import choice, few_shot, in_turn, lettered, numbered, position
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Item, Task

SUBJECTS: dict[str, str] = json.loads(Path(__file__).with_name("subjects.json").read_text(encoding="utf-8"))
"""Each subject's name in Chinese, by its configuration on the hub (from lm-eval's task descriptions)."""

DATASET = Dataset(
    "ceval/ceval-exam",
    "617524a00b307ff6f9933702f724131fe12ca7ce",
    "ceval",
    configs=tuple(SUBJECTS),
    config_field="subject",
)
FIELDS = {"subject": str, "question": str, "A": str, "B": str, "C": str, "D": str, "answer": str}
LETTERS = "ABCD"
SHOTS = 5


def asked(row: Row) -> str:
    """The question and its options as lm-eval puts them."""
    return lettered(row["question"].strip(), [row[letter] for letter in LETTERS]) + "\n答案："


def items(source: Source) -> Iterator[Item]:
    """Yield the questions of the val split, one subject after the other in turn."""
    shots: dict[str, list[tuple[str, str]]] = {}
    for place, row in numbered(source, DATASET, "dev", FIELDS):
        shots.setdefault(row["subject"], []).append((asked(row), LETTERS[position(row["answer"], LETTERS, place)]))
    questions: dict[str, list[Item]] = {}
    for place, row in numbered(source, DATASET, "val", FIELDS):
        subject = row["subject"]
        if subject not in SUBJECTS or len(shots.get(subject, [])) < SHOTS:
            raise TaskError(f"{place}: {subject!r} is no subject of C-Eval with {SHOTS} questions in the split 'dev'.")
        same = questions.setdefault(subject, [])
        description = f"以下是中国关于{SUBJECTS[subject]}的单项选择题，请选出其中的正确答案。\n\n"
        prompt = few_shot(shots[subject][:SHOTS], asked(row), description)
        gold = position(row["answer"], LETTERS, place)
        same.append(choice(f"ceval-{subject}-{len(same):03d}", prompt, list(LETTERS), gold))
    yield from in_turn(questions.values())


TASKS = (Task("ceval", "C-Eval", "general", Path(__file__).with_name("ceval.yaml"), "acc", items=items),)
