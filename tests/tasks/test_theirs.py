"""Tasks of lm-eval's own, by name: asked and scored as lm-eval does, from a data folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from esft_bench.harness.evaluate import asked, evaluate, lm_eval_task
from esft_bench.harness.plan.benchmarks import benchmark_of
from esft_bench.harness.plan.known import known_tasks
from esft_bench.spec.suite import Suite
from esft_bench.tasks.errors import TaskError
from esft_bench.tasks.source import Source
from esft_bench.tasks.theirs import make
from tests.harness.speakers import tokenizer

ARC = [
    {
        "id": f"q{n}",
        "question": f"Which is {n}?",
        "choices": {"text": ["left", "right"], "label": ["A", "B"]},
        "answerKey": "AB"[n % 2],
    }
    for n in range(8)
]
SUMS = [{"question": f"What is {n} and 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(8)]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    for folder, rows in (("ai2_arc/ARC-Easy", ARC), ("gsm8k/main", SUMS), ("mine", SUMS)):
        (tmp_path / folder).mkdir(parents=True)
        for split in ("train", "test"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / folder / f"{split}.jsonl").write_text(text)
    return Source(tmp_path)


class Knows(LM):
    """Says the answer to every sum, and likes the choice `right`."""

    def __init__(self, form: Any = None) -> None:
        super().__init__()
        self.asked: list[str] = []

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        self.asked += [request.args[0] for request in requests]
        return [f"So it is {int(request.args[0].rpartition('What is ')[2].split()[0]) + 1}." for request in requests]

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        self.asked += [request.args[0] for request in requests]
        return [(-1.0 if request.args[1] == " right" else -9.0, False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        raise AssertionError


def items_of(task: Any, source: Source) -> list[Any]:
    return list(task.items(source))


def test_a_multiple_choice_task_is_asked_and_scored_as_lm_eval_does(tmp_path: Path, source: Source) -> None:
    task, lm = make("arc_easy", "", trained=False), Knows()
    items = items_of(task, source)
    assert [item["prompt"] for item in items] == [f"Question: {row['question']}\nAnswer:" for row in ARC]
    assert [item["choices"][item["gold"]] for item in items] == [item["answer"] for item in items]
    scores = evaluate(lm, [asked(benchmark_of(task), items)])[task.name].scores
    assert [score.score for score in scores] == [float(row["answerKey"] == "B") for row in ARC]
    assert task.metric == "acc_norm"


def test_a_task_that_generates_shows_its_examples_and_has_lm_evals_filter(tmp_path: Path, source: Source) -> None:
    task, lm = make("gsm8k", "", trained=False), Knows()
    items = items_of(task, source)
    assert {item["prompt"].count("Question: ") for item in items} == {6}
    scores = evaluate(lm, [asked(benchmark_of(task), items)])[task.name].scores
    assert task.metric == "exact_match,flexible-extract"
    assert [score.score for score in scores] == [1.0] * len(SUMS)
    assert lm.asked == [item["prompt"] for item in items]


def test_a_task_that_is_trained_on_is_asked_without_examples_in_the_prompt_format(source: Source) -> None:
    task = make("gsm8k", "", trained=True)
    conversation = next(iter(task.training(source)))
    assert [message["content"] for message in conversation] == [
        "Question: What is 0 and 1?\nAnswer:",
        SUMS[0]["answer"],
    ]
    from esft_bench.harness.backbone.prompts import form_of

    form = form_of("auto", tokenizer("qwen3"))
    items = items_of(task, source)
    made = lm_eval_task(benchmark_of(task), items, form)
    asked = [made.doc_to_text(doc) for doc in made.eval_docs]
    assert asked == [form.question([{"role": "user", "content": item["prompt"]}]) for item in items]
    assert form.turns(conversation)[0][0] == asked[0]


def test_a_users_own_yaml_is_found_by_its_name(tmp_path: Path, source: Source) -> None:
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "any.yaml").write_text(
        "task: my_sums\ndataset_path: me/mine\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{question}} ="\ndoc_to_target: answer\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    suite = Suite.model_validate(
        {
            "name": "s",
            "tasks": ["mini-law"],
            "general": ["lm-eval:my_sums"],
            "methods": {"base": {}},
            "include_path": str(tmp_path / "yaml"),
        }
    )
    task = known_tasks(suite)["lm-eval:my_sums"]
    assert [item["prompt"] for item in items_of(task, source)] == [f"{row['question']} =" for row in SUMS]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mmlu", "lm-eval:mmlu is no single task but a group: name the tasks in it, such as lm-eval:mmlu_"),
        ("arc_esy", "lm-eval has no task 'arc_esy'; did you mean arc_easy"),
        ("lambada_openai", "lm-eval:lambada_openai asks for loglikelihood; tasks that choose or generate"),
    ],
)
def test_what_cannot_be_run_is_refused(name: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        make(name, "", trained=False)


def test_rows_that_are_not_there_are_named_with_their_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"Looked for .*ai2_arc/ARC-Easy/test\.jsonl"):
        items_of(make("arc_easy", "", trained=False), Source(tmp_path))
