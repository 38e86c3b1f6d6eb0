"""MMLU: exam questions in 57 subjects; 5-shot, the examples from the subject's dev split, the likeliest letter wins."""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import choice, few_shot, in_turn, lettered, numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", "mmlu", config="all")
FIELDS = {"question": str, "subject": str, "choices": list, "answer": int}
LETTERS = "ABCD"
SHOTS = 5


def asked(row: Row) -> str:
    """The question and its options as lm-eval puts them."""
    return lettered(row["question"].strip(), row["choices"]) + "\nAnswer:"


def items(source: Source) -> Iterator[Item]:
    """Yield the test questions, one subject after the other in turn."""
    shots: dict[str, list[tuple[str, str]]] = {}
    for place, row in numbered(source, DATASET, "dev", FIELDS):
        shots.setdefault(row["subject"], []).append((asked(row), LETTERS[_gold(row, place)]))
    questions: dict[str, list[Item]] = {}
    for place, row in numbered(source, DATASET, "test", FIELDS):
        subject = row["subject"]
        if len(shots.get(subject, [])) < SHOTS:
            raise TaskError(f"{place}: the split 'dev' has fewer than {SHOTS} questions on {subject!r}.")
        same = questions.setdefault(subject, [])
        description = (
            f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        )
        prompt = few_shot(shots[subject][:SHOTS], asked(row), description)
        same.append(choice(f"mmlu-{subject}-{len(same):04d}", prompt, list(LETTERS), _gold(row, place)))
    yield from in_turn(questions.values())


def _gold(row: Row, place: str) -> int:
    answer: int = row["answer"]
    if not (len(row["choices"]) == len(LETTERS) and 0 <= answer < len(LETTERS)):
        raise TaskError(f"{place}: there must be four 'choices' and an 'answer' from 0 to 3.")
    return answer


TASKS = (Task("mmlu", "MMLU", "general", Path(__file__).with_name("mmlu.yaml"), "acc", items=items),)
