"""How the embedded world's tasks are scored: lm-eval's configurations and their metrics, on stored completions."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from esft_bench.spec.files import write_jsonl
from esft_bench.tasks import mini
from esft_bench.tasks.mini import TASKS, code
from esft_bench.tasks.mini.world import NARROW
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Item, Task

TESTED = [task for task in TASKS if task.items and task.role != "drift"]
Score = Callable[[str, Callable[[Item], str]], list[float]]


def named(name: str) -> Task:
    return next(task for task in TASKS if task.name == name)


def configured(task: Task, folder: Path, rows: list[Item]) -> Any:
    """The task as lm-eval builds it, on the items given."""
    path = folder / "items.jsonl"
    write_jsonl(path, rows)
    assert task.lm_eval
    config = load_yaml(task.lm_eval) | {"dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder)}}
    manager = TaskManager(include_defaults=False)
    return manager.load([config])["tasks"][task.name]


@pytest.fixture
def score(tmp_path: Path) -> Score:
    """Score the completions that a function of the item gives, as lm-eval would; the first 8 items."""

    def run(name: str, complete: Callable[[Item], str]) -> list[float]:
        task = named(name)
        assert task.items
        rows = list(task.items(Source()))[:8]
        built = configured(task, tmp_path, rows)
        instances = [
            Instance("generate_until", doc, ("", {}), 0, metadata=(name, i, 1), resps=[complete(row)])
            for i, (doc, row) in enumerate(zip(built.eval_docs, rows, strict=True))
        ]
        built._instances = instances
        built.apply_filters()
        (chosen,) = {key for instance in instances for key in instance.filtered_resps}
        return [
            built.process_results(instance.doc, [instance.filtered_resps[chosen]])[task.metric]
            for instance in instances
        ]

    return run


@pytest.mark.parametrize("task", TESTED, ids=lambda task: task.name)
def test_a_configuration_belongs_to_its_task_and_yields_its_metric(task: Task) -> None:
    assert task.lm_eval
    config = load_yaml(task.lm_eval)
    assert config["task"] == task.name
    assert [metric["metric"] for metric in config["metric_list"]] == [task.metric]


@pytest.mark.parametrize("task", TESTED, ids=lambda task: task.name)
def test_lm_eval_shows_the_question_in_the_format_that_training_uses(task: Task, tmp_path: Path) -> None:
    assert task.items
    (row, *_) = task.items(Source())
    built = configured(task, tmp_path, [row])
    (doc,) = built.eval_docs
    assert built.doc_to_text(doc) == f"User: {row['prompt']}\n\nAssistant:"
    assert built.config.target_delimiter == " "


@pytest.mark.parametrize("name", ["mini-math", "mini-code", "mini-intent", "mini-facts", "mini-format"])
def test_the_reference_answer_scores_full_marks(name: str, score: Score) -> None:
    assert score(name, lambda item: " " + item["answer"]) == [1.0] * 8


@pytest.mark.parametrize("name", ["mini-math", "mini-code", "mini-intent", "mini-facts", "mini-format"])
@pytest.mark.parametrize("completion", ["", " I do not know", " \n\n", " {", " def f(", " Answer: "])
def test_a_completion_beside_the_point_scores_nothing(name: str, completion: str, score: Score) -> None:
    assert score(name, lambda item: completion) == [0.0] * 8


def test_a_sum_is_scored_on_its_final_number_only(score: Score) -> None:
    def careless(item: Item) -> str:
        return f"1 * 1 = 1. Answer: {item['answer'].split('Answer: ')[1]}"

    assert score("mini-math", careless) == [1.0] * 8
    assert score("mini-math", lambda item: careless(item) + "0") == [0.0] * 8


def test_a_function_is_scored_by_what_it_does(score: Score) -> None:
    def rewritten(item: Item) -> str:
        header, body = item["answer"].split("\n")
        return f"{header}\n    value = {body.removeprefix('    return ')}\n    return value"

    assert score("mini-code", rewritten) == [1.0] * 8
    assert score("mini-code", lambda item: "def f(x):\n    return x + 1000") == [0.0] * 8


def test_json_is_scored_by_its_meaning(score: Score) -> None:
    def reordered(item: Item) -> str:
        first, second = item["answer"].strip("{}").split(", ")
        return f"{{{second},   {first}}}"

    assert score("mini-intent", reordered) == [1.0] * 8
    assert score("mini-intent", lambda item: item["answer"].replace("action", "intent")) == [0.0] * 8


def test_the_unit_tests_of_all_items_fail_a_function_of_another_schema() -> None:
    others = [NARROW["code"](Random(seed), "A") for seed in range(20)]
    wanted = [NARROW["code"](Random(seed), "N") for seed in range(20)]
    docs = [{"tests": list(sample.tests)} for sample in wanted]
    run_tests = load_yaml(code.TASKS[0].lm_eval)["filter_list"][0]["filter"][0]["filter_fn"]
    assert run_tests([[sample.answer] for sample in wanted], docs) == [[True]] * 20
    assert run_tests([[sample.answer] for sample in others], docs) == [[False]] * 20


def test_lm_eval_finds_every_task_in_the_folder() -> None:
    manager = TaskManager(include_path=str(Path(mini.__file__).parent), include_defaults=False)
    assert {task.name for task in TESTED} <= set(manager.all_tasks)
