"""The ESFT paper's prompts for the judge, word for word, and how replies to them are read."""

import re
from pathlib import Path

import pytest

from esft_bench.harness.judge.question import again, messages, parse, rubric_key
from esft_bench.harness.plan.checks import tasks_of
from esft_bench.spec.suite import Suite
from esft_bench.tasks.registry import load_tasks
from tests.harness.judge_server import Item

PAPER = Path(__file__).parents[3] / "shared" / "papers" / "esft.txt"
JUDGED = {"summary-bdci": "Summary", "law-bdci": "Law Prediction", "translation-chren": "Translation"}


@pytest.mark.parametrize("name", JUDGED)
def test_the_prompt_is_that_of_the_papers_table_5_word_for_word(name: str) -> None:
    if not PAPER.is_file():
        pytest.skip("skipped, no paper")
    rubric = load_tasks()[name].paper_rubric
    assert rubric is not None
    table = PAPER.read_text("utf-8").partition("Task Type\tInstruction")[2]
    printed = next(line for line in table.splitlines() if line.startswith(f"{JUDGED[name]}\t")).partition("\t")[2]

    def words(text: str) -> str:
        return re.sub(r"\s|</?b>", "", text)

    assert words(rubric.instructions) == words(printed)


def test_a_judge_gets_the_papers_prompt_alone_with_both_texts_in_it() -> None:
    rubric = load_tasks()["law-bdci"].paper_rubric
    assert rubric is not None
    (asked,) = messages(rubric, Item("判决如下 {ground_truth}", answer="准许离婚"))
    assert asked["role"] == "user"
    assert asked["content"].endswith("预测答案：判决如下 {ground_truth}\n参考答案：准许离婚\n")
    assert "总分" in again([asked], "?", rubric)[-1]["content"]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("内容准确性扣2分，详细程度/完整性扣1分，总分是：7分。理由：……", 7.0),
        ("相关性扣1.5分，总分是8.5分", 8.5),
        ("Content accuracy 8 points, total score: 7.67 points", 7.67),
        ("Content accuracy 8 points, **Total score: 7.**", 7.0),
        ("Content accuracy 8 points, total score: 8/10", 8.0),
        ("Content accuracy 8 points", None),
        ("总分是：11分", None),
        ("总分是：7分。…… 总分是：6分", None),
    ],
)
def test_the_total_score_is_read_and_no_other_number(reply: str, score: float | None) -> None:
    rubric = load_tasks()["summary-bdci"].paper_rubric
    assert rubric is not None
    found = parse(reply, rubric)
    assert (found.score if found else None) == score


def test_a_suite_asks_for_them_by_name() -> None:
    about = {"name": "x", "tasks": ["law-bdci", "intent-bdci"], "methods": {"base": {}}}
    known = load_tasks()["law-bdci"]
    for chosen, rubric in (("ours", known.rubric), ("paper", known.paper_rubric)):
        suite = Suite.model_validate({**about, "judge": {"rubric": chosen}})
        assert tasks_of(suite)["law-bdci"].rubric == rubric
        assert tasks_of(suite)["intent-bdci"].rubric is None
    assert known.rubric is not None
    assert known.paper_rubric is not None
    assert rubric_key(known.rubric) != rubric_key(known.paper_rubric)
