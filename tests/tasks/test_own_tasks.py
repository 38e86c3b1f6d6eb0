"""Tasks without code: forms known by their columns, rows held out for good, answers scored by name."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_chrf

from esft_bench.spec.own import OwnTask
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.own.data import examples, read
from esft_bench.tasks.own.forms import find
from esft_bench.tasks.own.metrics import CLEAN, METRICS, process, program, run_tests
from esft_bench.tasks.own.task import make
from esft_bench.tasks.source import Source

TURNS = [{"role": "user", "content": "Q{n}"}, {"role": "assistant", "content": "A{n}"}]
SHARED = [{"from": "system", "value": "S"}, {"from": "human", "value": "Q{n}"}, {"from": "gpt", "value": "A{n}"}]
FORMS: dict[str, tuple[Any, str, list[Any]]] = {
    "OpenAI's messages": ({"messages": TURNS}, "chat", ["Q1"]),
    "ShareGPT": ({"conversations": SHARED}, "chat", ["S", "Q1"]),
    "ShareGPT with a system column": ({"system": "S", "conversations": SHARED[1:]}, "chat", ["S", "Q1"]),
    "messages in a cell of a table": ({"messages": json.dumps(TURNS)}, "chat", ["Q1"]),
    "Alpaca": ({"instruction": "Q{n}", "input": "I", "output": "A{n}"}, "Alpaca", ["Q1\n\nI"]),
    "Alpaca without input": ({"instruction": "Q{n}", "input": "", "output": "A{n}"}, "Alpaca", ["Q1"]),
    "prompt and completion": ({"prompt": "Q{n}", "completion": "A{n}"}, "prompt and completion", ["Q1"]),
    "both as messages": ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "prompt and completion", ["Q1"]),
    "question and answer": ({"Question": "Q{n}", "Answer": "A{n}"}, "question and answer", ["Q1"]),
    "SQuAD": (
        {"context": "C", "question": "Q{n}", "answers": {"text": ["A{n}", "B"], "start": [1, 2]}},
        "question and answer",
        ["Q1\n\nC"],
    ),
    "text and label": (
        {"text": "Q{n}", "label": "A{n}"},
        "text and label",
        ["Q1"],
    ),
    "input and output": ({"input": "Q{n}", "output": "A{n}"}, "input and output", ["Q1"]),
}


def numbered(row: Any, number: int) -> Any:
    return json.loads(json.dumps(row).replace("{n}", str(number)))


def task_of(folder: Path, rows: list[Any], **told: Any) -> OwnTask:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return OwnTask(name="own", files=[str(path)], **told)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_known_by_its_columns(tmp_path: Path, name: str) -> None:
    row, form, asked = FORMS[name]
    data = read(task_of(tmp_path, [numbered(row, n) for n in range(120)], test_share=0.5))
    assert data.form.name == form
    found = {row.text: row for side in data.sound for row in side}
    texts = [message["content"] for message in found["A1"].asked]
    assert texts == asked
    assert len(found) == 120


def test_columns_that_are_given_overrule_what_is_found(tmp_path: Path) -> None:
    rows = [{"text": f"T{n}", "label": "x", "question": f"Q{n}", "answer": f"A{n}"} for n in range(30)]
    data = read(task_of(tmp_path, rows, columns={"question": "text", "answer": "question"}))
    assert data.form.columns == {"prompt": "text", "answer": "question"}
    with pytest.raises(TaskError, match=r"there is no column 'bad' for prompt; there are 'text', 'label'"):
        read(task_of(tmp_path, rows, columns={"prompt": "bad"}))


def test_a_template_puts_columns_in_its_question(tmp_path: Path) -> None:
    rows = [{"a": f"x{n}", "b": n, "gold": f"g{n}"} for n in range(30)]
    task = task_of(tmp_path, rows, prompt="Of {a} and {b}:", columns={"answer": "gold"})
    assert {row.asked[0]["content"] for side in read(task).sound for row in side} == {
        f"Of x{n} and {n}:" for n in range(30)
    }
    with pytest.raises(TaskError, match="the prompt names 'c', which is no column; there are a, b, gold"):
        read(task.model_copy(update={"prompt": "{c}"}))


def test_an_unknown_form_names_the_columns_there_are() -> None:
    with pytest.raises(TaskError, match=r"x: no known form has the columns 'a', 'b'; say which is which"):
        find(OwnTask(name="own", files=["x"]), ["a", "b"], "x")


@given(st.integers(0, 1000), st.integers(40, 80), st.floats(0.3, 0.6))
def test_a_row_stays_on_its_side_whatever_rows_come_go_or_change_places(tmp_path_factory, seed, count, share):
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("split")
    rows = [{"question": f"Q{draw.random()}", "answer": f"A{n}"} for n in range(2 * count)]
    before = read(task_of(folder, rows[:count], test_share=share)).sound
    changed = draw.sample(rows[count // 2 :], len(rows) - count // 2)
    after = read(task_of(folder, changed, test_share=share)).sound
    tested = [{row.text for row in side[1]} for side in (before, after)]
    trained = [{row.text for row in side[0]} for side in (before, after)]
    assert not tested[0] & trained[1]
    assert not trained[0] & tested[1]


def test_the_held_out_share_is_about_what_is_asked_for_and_no_question_is_on_both_sides(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n % 900}", "answer": f"A{n}"} for n in range(1800)]
    training, test = read(task_of(tmp_path, rows, test_share=0.2)).sound
    assert 0.17 < len(test) / 1800 < 0.23
    assert not {row.question for row in training} & {row.question for row in test}


def items(task: OwnTask) -> list[Any]:
    made = make(task)
    assert made.items is not None
    return list(made.items(Source()))


def test_labels_are_chosen_by_likelihood_and_named_in_the_question(tmp_path: Path) -> None:
    rows = [{"text": f"T{n}", "label": ("no", "yes", "perhaps")[n % 3]} for n in range(60)]
    task = task_of(tmp_path, rows)
    assert (make(task).metric, make(task).lm_eval.name) == ("acc", "choice.yaml")
    for item in items(task):
        assert item["choices"] == ["no", "perhaps", "yes"]
        assert item["choices"][item["gold"]] == item["answer"]
        assert item["prompt"].endswith("\n\nAnswer with one of: no, perhaps, yes.")
    assert make(task.model_copy(update={"metric": "exact_match"})).metric == "exact_match"


@pytest.mark.parametrize("answer", ["beta", 1, "1", "B", "b"])
def test_a_choice_is_named_by_its_text_its_number_or_its_letter(tmp_path: Path, answer: Any) -> None:
    rows = [{"question": f"Q{n}", "choices": ["alpha", "beta"], "answer": answer if n else "alpha"} for n in range(40)]
    assert {item["answer"] for item in items(task_of(tmp_path, rows))} <= {"alpha", "beta"}
    assert items(task_of(tmp_path, rows))[0]["gold"] == 1 or items(task_of(tmp_path, rows))[0]["answer"] == "alpha"


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["yes", "no"], "exact_match"),
        (['{"a": 1}', '{"b": 2}'], "json"),
        (["a long answer of many words, " * 3, "no"], "chrf"),
        (["two\nlines", "no"], "chrf"),
    ],
)
def test_the_metric_fits_the_answers_unless_it_is_said(tmp_path: Path, answers: list[str], metric: str) -> None:
    rows = [{"question": f"Q{n}", "answer": answers[n % 2]} for n in range(40)]
    assert make(task_of(tmp_path, rows)).metric == metric
    assert make(task_of(tmp_path, rows, metric="contains")).metric == "contains"


def scored(metric: str, completion: str, answer: str, *others: str, clean: str = "strip") -> float:
    doc = {"metric": metric, "clean": clean, "answer": answer, "others": list(others)}
    return process(doc, [completion])[metric]


@pytest.mark.parametrize(
    ("metric", "completion", "answer", "score"),
    [
        ("exact_match", " yes\n", "yes", 1),
        ("exact_match", "Yes", "yes", 0),
        ("contains", "It is yes.", "yes", 1),
        ("token_f1", "the cat sat", "a cat sat down", 0.8),
        ("token_f1", "你好", "你们", 0.5),
        ("json", '```json\n{"a": 1, "b": 2}\n```', '{"a": 1, "b": 3}', 0.5),
        ("json", '{"a": 1, "c": 1}', '{"a": 1, "b": 3}', 1 / 3),
        ("json", "no json", '{"a": 1}', 0),
        ("rouge", "你好", "你好", 1),
    ],
)
def test_metrics_score_what_they_say(metric: str, completion: str, answer: str, score: float) -> None:
    assert scored(metric, completion, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("clean", "completion", "answer"),
    [
        ("text", "The  Cat!", "cat"),
        ("number", "So 3 + 4 makes $1,007.00.", "1007"),
        ("first-line", "\n yes \nbecause", "yes"),
        ("letter", "The answer is (B).", "B"),
    ],
)
def test_a_clean_up_is_done_to_both_sides(clean: str, completion: str, answer: str) -> None:
    assert scored("exact_match", completion, answer, clean=clean) == 1
    assert scored("exact_match", completion, answer) == 0


@given(st.text("abc ", min_size=1), st.text("abc ", min_size=1))
def test_rouge_and_chrf_are_those_of_their_libraries(completion: str, answer: str) -> None:
    if completion.strip() and answer.strip():
        theirs = RougeScorer(["rougeL"]).score(answer, completion)["rougeL"].fmeasure
        assert scored("rouge", completion, answer) == pytest.approx(theirs)
        chrf = corpus_chrf([completion.strip()], [[answer.strip()]]).score / 100
        assert scored("chrf", completion, answer) == pytest.approx(chrf)


@given(st.text(), st.text(), st.sampled_from(sorted(METRICS)), st.sampled_from(sorted(CLEAN)))
def test_every_score_is_in_range_and_a_reference_scores_best_against_itself(completion, answer, metric, clean):
    score = scored(metric, completion, answer, clean=clean)
    assert 0 <= score <= 1 + 1e-9
    assert scored(metric, completion, answer, completion, clean=clean) >= score


def test_code_is_taken_out_of_its_fence_and_run_with_its_tests() -> None:
    answers = ["Here:\n```python\ndef f(x):\n    return x + 1\n```\nDone.", "def f(x):\n    return x"]
    assert program(answers[0], "assert f(1) == 2") == "def f(x):\n    return x + 1\n\nassert f(1) == 2\n"
    docs = [{"tests": "assert f(1) == 2"}] * 2
    assert run_tests([[answer] for answer in answers], docs) == [[True], [False]]


def test_a_rubric_of_ones_own_is_for_the_judge(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "answer": f"A{n}"} for n in range(40)]
    made = make(task_of(tmp_path, rows, metric="judge", rubric="Is it kind?", best=5))
    assert (made.metric, made.rubric.instructions, made.rubric.best) == ("bypass", "Is it kind?", 5)


def test_doubtful_things_are_in_the_note(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "answer": f"A{n}"} for n in range(40)]
    note = make(task_of(tmp_path, [*rows, rows[0], {"question": "Q0", "answer": "else"}])).note
    sides = read(task_of(tmp_path, [*rows, rows[0]])).sound
    doubled = "Q0" in {row.asked[0]["content"] for row in sides[0]}
    assert ("1 training rows are there twice or more." in note) is doubled
    assert ("1 questions are answered in more than one way." in note) is doubled
    assert "test rows tell hardly anything apart." in note
    assert not [row for row in examples(read(task_of(tmp_path, rows)).training) if row.place == ""]
