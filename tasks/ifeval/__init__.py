"""IFEval: instructions whose keeping a program can check; 0-shot, every instruction of a prompt must be kept.

The check is lm-eval's (prompt_level_strict_acc). Some checks need NLTK's punkt_tab, which lm-eval fetches from the net;
without it their items are unscored, never wrong.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from esft_bench.tasks.benchmark import numbered
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Dataset, Source
from esft_bench.tasks.task import Item, Task

DATASET = Dataset("google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84", "ifeval")
FIELDS = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}


def items(source: Source) -> Iterator[Item]:
    """Yield the prompts; `kwargs` is JSON, for each instruction its arguments. The hub calls the split `train`."""
    for place, row in numbered(source, DATASET, "train", FIELDS):
        if len(row["kwargs"]) != len(row["instruction_id_list"]):
            raise TaskError(f"{place}: 'kwargs' must have one entry for each of 'instruction_id_list'.")
        given = [{name: value for name, value in (each or {}).items() if value is not None} for each in row["kwargs"]]
        yield {
            "id": f"ifeval-{row['key']}",
            "prompt": row["prompt"],
            "answer": ", ".join(row["instruction_id_list"]),
            "key": row["key"],
            "instruction_id_list": row["instruction_id_list"],
            "kwargs": json.dumps(given),
        }


TASKS = (
    Task(
        "ifeval", "IFEval", "general", Path(__file__).with_name("ifeval.yaml"), "prompt_level_strict_acc", items=items
    ),
)
