"""What becomes of a suite whose data are only partly in the folder that was given."""

import json
from pathlib import Path

import pytest

from esft_bench.harness.plan.availability import with_available
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite
from esft_bench.spec.suite_file import available, load
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def suite(**fields: object) -> Suite:
    return Suite.model_validate({"name": "some", "methods": {"base": {}, "fft": {}}, **fields})


@pytest.mark.parametrize("name", sorted(available()))
def test_every_suite_that_ships_names_tasks_that_exist(name: str) -> None:
    shipped, known = load(name), load_tasks()
    named = {*shipped.tasks, *shipped.general, *([shipped.alignment] if shipped.alignment else [])}
    assert named <= set(known)
    assert all(known[task].training for task in shipped.tasks)
    assert all(known[each].items for task in shipped.tasks for each in known[task].benchmarks or (task,))


def test_a_task_without_training_data_is_tested_where_nothing_is_trained(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k/train.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}] * 5)
    write(tmp_path, "gsm8k/test.jsonl", [{"question": "1 + 2?", "answer": "#### 3"}])
    changed, notes = with_available(suite(tasks=["mini-law", "metamathqa"]), Source(tmp_path))
    assert changed.tasks == ["mini-law"]
    assert changed.tested_only == ["gsm8k"]
    assert any("metamathqa" in note and "tested without training: gsm8k" in note for note in notes)
    assert any(note.startswith("No data for math (items)") for note in notes)


def test_a_general_benchmark_without_data_is_left_out_by_name(tmp_path: Path) -> None:
    changed, notes = with_available(suite(tasks=["mini-law"], general=["mini-facts", "mmlu"]), Source(tmp_path))
    assert changed.general == ["mini-facts"]
    assert len(notes) == 1
    assert notes[0].startswith("No data for mmlu")


def test_the_alignment_set_that_ships_stands_in_for_one_that_is_not_there(tmp_path: Path) -> None:
    changed, notes = with_available(suite(tasks=["mini-law"], alignment="alignment-public"), Source(tmp_path))
    assert changed.alignment == "mini-alignment"
    assert notes[0].endswith("mini-alignment stands in for it.")


def test_a_suite_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"None of the suite's tasks has data to train on.*metamathqa"):
        with_available(suite(tasks=["metamathqa"]), Source(tmp_path))
