"""Filters of training rows: named by the suite, counted in what it says, and part of what is trained on."""

import pytest

from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl, write_jsonl
from tests.harness.plans import prepared

SUITE = """\
name: filtered
tasks: [metamathqa]
methods: {base: {}, fft: {}}
training: {steps: 2, batch_size: 2, sequence_length: 128}
evaluation: {engine: transformers}
"""
VERIFIED = SUITE + "filters: {metamathqa: [verified]}\n"


def jsonl(path, *rows):
    path.parent.mkdir(exist_ok=True)
    write_jsonl(path, rows)


def worked(answer):
    return {"query": "1+1, in words?", "response": f"The answer is: {answer}", "original_question": "train?"}


@pytest.fixture
def made(tmp_path):
    """`made(text)`: a suite of that text, prepared, on a right and two wrong sums."""
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(folder / "metamathqa/train.jsonl", worked(2), worked(3), worked(4))
    for split in ("train", "test"):
        jsonl(folder / f"gsm8k/{split}.jsonl", {"question": f"{split}?", "answer": "#### 2"})
    jsonl(folder / "math/test.jsonl", {"problem": "1+1", "solution": "\\boxed{2}"})
    return lambda text: prepared(tmp_path, text, data_dir=folder)


def trained_on(one):
    return [question_answer[1]["content"] for question_answer in read_jsonl(one.plan.data["metamathqa"].training.path)]


def test_without_a_filter_all_rows_are_trained_on_and_nothing_is_said_of_it(made):
    one = made(SUITE)
    assert len(trained_on(one)) == 3
    assert not [note for note in one.notes if "filter" in note]


def test_a_filter_leaves_what_passes_and_the_counts_are_said_each_time(made):
    for _ in range(2):  # read, and then noted
        one = made(VERIFIED)
        assert trained_on(one) == ["The answer is: 2"]
        assert "Training rows of metamathqa: 3 before filters, 1 after verified." in one.notes


def test_a_cell_is_another_one_where_a_filter_changed_its_rows(made):
    def trained(one):
        return one.plan.paths[one.plan.cells[1]].training

    assert trained(made(SUITE)) != trained(made(VERIFIED))


@pytest.mark.parametrize(
    ("filters", "complaint"),
    [
        ("{metamathqa: [right]}", "filters.metamathqa: task 'metamathqa' has no filter 'right'; there are verified"),
        ("{gsm8k: [verified]}", "filters names 'gsm8k', which is no task of this suite"),
        ("{metamathqa: [verified, verified]}", "filters"),
    ],
)
def test_a_filter_that_there_is_not_is_refused(made, filters, complaint):
    with pytest.raises(UserError, match=complaint):
        made(f"{SUITE}filters: {filters}\n")


def test_filters_that_leave_nothing_are_named(made, tmp_path):
    jsonl(tmp_path / "data/metamathqa/train.jsonl", worked(3))
    with pytest.raises(UserError, match="Task 'metamathqa': none of 1 training rows passes verified"):
        made(VERIFIED)
