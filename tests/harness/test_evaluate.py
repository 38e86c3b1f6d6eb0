import json
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.evaluate import Answered, asked, evaluate
from esft_bench.harness.serving.engines import TransformersEngine, VllmEngine
from esft_bench.harness.serving.server import Settings
from esft_bench.spec.errors import UserError
from esft_bench.tasks.task import Item, Task
from tests.harness.conftest import Checkpoint

ITEMS: list[Item] = [
    {
        "id": f"q-{number}",
        "prompt": f"Say {number}.",
        "answer": str(number),
        "choices": ["1", "2", "3"],
        "gold": number - 1,
    }
    for number in (3, 1, 2)
]
CONFIG: dict[str, Any] = {
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "User: {{prompt}}\n\nAssistant:",
    "target_delimiter": " ",
    "num_fewshot": 0,
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["User:"], "max_gen_toks": 8, "do_sample": False},
}
CHOOSE = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"}


def make(folder: Path, name: str, metric: str, kind: dict[str, Any], **more: Any) -> Task:
    config = CONFIG | kind | {"task": name, "metric_list": [{"metric": metric}]} | more
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return Task(name=name, title=name, role="general", lm_eval=path, metric=metric)


@pytest.fixture(scope="session")
def lm(checkpoints: list[Checkpoint]) -> Any:
    engine = TransformersEngine()
    engine.load(checkpoints[0].model, checkpoints[0].canary)
    return engine.lm()


def ask(lm: Any, *benchmarks: Task) -> dict[str, Answered]:
    return evaluate(lm, [asked(task, ITEMS) for task in benchmarks])


def test_several_tasks_come_back_item_by_item_in_order(lm: Any, tmp_path: Path) -> None:
    tasks = [make(tmp_path, "spoken", "exact_match", GENERATE), make(tmp_path, "chosen", "acc", CHOOSE)]
    scores = {name: found.scores for name, found in ask(lm, *tasks).items()}
    assert list(scores) == ["spoken", "chosen"]
    for rows in scores.values():
        assert [row.id for row in rows] == ["q-3", "q-1", "q-2"]
        assert [row.answer for row in rows] == ["3", "1", "2"]
        assert {row.state for row in rows} == {"scored"}
    for row, item in zip(scores["chosen"], ITEMS, strict=True):
        assert row.score == float(row.completion == item["choices"][item["gold"]])


def test_judged_tasks_come_back_unscored_with_what_was_said(lm: Any, tmp_path: Path) -> None:
    rows = ask(lm, make(tmp_path, "judged", "bypass", GENERATE))["judged"].scores
    assert [(row.state, row.score) for row in rows] == [("unscored", None)] * 3
    assert any(row.completion for row in rows)


def test_lm_evals_own_results_come_along_and_each_task_gets_those_of_its_own(lm: Any, tmp_path: Path) -> None:
    tasks = [make(tmp_path, name, "acc", CHOOSE) for name in ("chosen", "other")]
    together, alone = ask(lm, *tasks), ask(lm, tasks[0])
    assert 0 <= together["other"].results["results"]["other"]["acc,none"] <= 1
    assert together["chosen"].results == alone["chosen"].results
    assert json.loads(json.dumps(alone["chosen"].results)) == alone["chosen"].results


def test_nothing_is_printed(lm: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ask(lm, make(tmp_path, "chosen", "acc", CHOOSE))
    assert capfd.readouterr() == ("", "")


def test_the_same_question_gets_the_same_answer_twice(lm: Any, tmp_path: Path) -> None:
    task = make(tmp_path, "spoken", "exact_match", GENERATE)
    assert ask(lm, task) == ask(lm, task)


def test_a_metric_the_configuration_does_not_give_is_named(lm: Any, tmp_path: Path) -> None:
    task = make(tmp_path, "chosen", "acc", CHOOSE)
    wrong = Task(name="chosen", title="", role="general", lm_eval=task.lm_eval, metric="f1")
    with pytest.raises(UserError, match=r"'f1'.*gives acc"):
        ask(lm, wrong)


def test_a_task_that_only_trains_cannot_be_evaluated(lm: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no lm-eval configuration"):
        ask(lm, Task(name="mix", title="", role="alignment"))


def test_tasks_that_run_code_inside_lm_eval_are_refused(lm: Any, tmp_path: Path) -> None:
    task = make(tmp_path, "code", "exact_match", GENERATE, unsafe_code=True)
    with pytest.raises(ValueError, match="unsafe"):
        ask(lm, task)


@pytest.mark.slow
def test_vllm_and_transformers_give_the_same_answers_and_scores(
    engine: VllmEngine, checkpoints: list[Checkpoint], tmp_path: Path
) -> None:
    checkpoint = checkpoints[2]
    tasks = [make(tmp_path, "spoken", "exact_match", GENERATE), make(tmp_path, "chosen", "acc", CHOOSE)]
    other = TransformersEngine(Settings(max_length=512))
    for each in (engine, other):
        each.load(checkpoint.model, checkpoint.canary)
    seen: list[tuple[int, int]] = []
    served = evaluate(
        engine.lm(), [asked(task, ITEMS) for task in tasks], lambda done, total: seen.append((done, total))
    )
    assert {name: each.scores for name, each in served.items()} == {
        name: each.scores for name, each in ask(other.lm(), *tasks).items()
    }
    assert seen[-1] == (12, 12)


def test_a_template_that_only_names_a_field_means_the_field(lm: Any, tmp_path: Path) -> None:
    plain = make(tmp_path, "chosen", "acc", CHOOSE | {"doc_to_choice": "choices", "doc_to_target": "gold"})
    (tmp_path / "templates").mkdir()
    expected = ask(lm, plain)["chosen"].scores
    assert ask(lm, make(tmp_path / "templates", "chosen", "acc", CHOOSE))["chosen"].scores == expected
