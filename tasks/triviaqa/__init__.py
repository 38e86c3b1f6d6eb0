"""TriviaQA: short answers to trivia questions from memory; 0-shot as in lm-eval, exact match with any alias.

Rows are read in the hub's form (`answer` with its `aliases`) and in FlashRAG's (`golden_answers`).
"""

from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Row, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset(
    "mandarjoshi/trivia_qa",
    "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
    "triviaqa",
    config="rc.nocontext",
    files={"validation": ("validation", "flashrag_test")},
)


def aliases(row: Row, place: str) -> list[str]:
    """Every answer that counts, the first of them the reference."""
    found = row.get("golden_answers")
    if found is None and isinstance(row.get("answer"), dict):
        answer = row["answer"]
        found = list(dict.fromkeys([answer.get("value"), *(answer.get("aliases") or [])]))
    if not (isinstance(found, list) and found and all(isinstance(name, str) for name in found)):
        raise TaskError(f"{place}: 'answer' must hold 'value' and 'aliases', or 'golden_answers' the answers.")
    return found


def items(source: Source) -> Iterator[Item]:
    """Yield the questions of the validation split; the test split has no answers."""
    for number, (place, row) in enumerate(numbered(source, DATASET, "validation", {"question": str})):
        names = aliases(row, place)
        yield {
            "id": f"triviaqa-{number:05d}",
            "prompt": f"Question: {row['question']}?\nAnswer:",  # with lm-eval's question mark
            "answer": names[0],
            "aliases": names,
        }


TASKS = (Task("triviaqa", "TriviaQA", "general", Path(__file__).with_name("triviaqa.yaml"), items=items),)
