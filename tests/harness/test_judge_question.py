"""What a judge sees of a prompt: the question that was answered, not the solved examples before it."""

import pytest

from esft_bench.harness.judge.question import key, messages
from esft_bench.tasks.registry import load_tasks
from esft_bench.tasks.source import Source
from tests.harness.judge_server import RUBRIC, Item

SHOTS = {"law-bdci": 4, "translation-chren": 16, "summary-bdci": 1}


def asked(rubric, prompt):
    return messages(rubric, Item("an answer", prompt=prompt))[-1]["content"]


@pytest.mark.parametrize(("name", "shots"), [(name, shots) for name, shots in SHOTS.items() if name != "summary-bdci"])
def test_of_the_official_prompts_the_judge_sees_the_last_question(shared_data, name, shots):
    tasks = load_tasks()
    alone, whole = (next(iter(tasks[each].items(Source(shared_data)))) for each in (name, f"{name}-fewshot"))
    starts = tasks[name].rubric.question_starts
    assert shots - 1 <= whole["prompt"].count(starts) <= shots + 1  # of the released translations six have fewer
    sent = asked(tasks[f"{name}-fewshot"].rubric, whole["prompt"])
    assert sent.count(starts) == 1
    assert alone["prompt"] in sent


@pytest.mark.parametrize("name", SHOTS)
def test_the_judged_tasks_say_what_their_questions_begin_with(name):
    rubric = load_tasks()[f"{name}-fewshot"].rubric
    starts = rubric.question_starts
    prompt = "\n\n".join(f"{starts}example {number}\nsolved {number}" for number in range(3)) + f"\n\n{starts}this one"
    assert f"{starts}this one" in asked(rubric, prompt)
    assert "example" not in asked(rubric, prompt)


def test_an_answer_to_one_question_is_judged_once_whatever_examples_stood_before_it():
    rubric = load_tasks()["law-bdci"].rubric
    starts = rubric.question_starts
    bare, shown = (key([], rubric, Item("x", prompt=f"{before}{starts}y")) for before in ("", f"{starts}z solved "))
    assert bare == shown
    assert bare != key([], rubric, Item("x", prompt=f"{starts}z"))


def test_a_prompt_without_such_a_beginning_is_seen_whole():
    assert "twice: twice: the question" in asked(RUBRIC, "twice: twice: the question")
    assert "no beginning" in asked(load_tasks()["law-bdci"].rubric, "no beginning")
