"""A benchmark's requests, built and tokenised once, are those that lm-eval would build for every model anew."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from esft_bench.harness.backbone.model import load_tokenizer
from esft_bench.harness.backbone.prompts import Release
from esft_bench.harness.evaluate import Asked, asked, evaluate
from esft_bench.harness.serving.engines import TransformersEngine
from esft_bench.harness.serving.questions import read_questions, write_questions
from esft_bench.harness.steps.answer import _waves
from esft_bench.tasks.task import Item, Task
from tests.harness.conftest import BACKBONE, Checkpoint
from tests.harness.test_evaluate import CHOOSE, GENERATE, ITEMS, make

TOKENIZER = load_tokenizer(BACKBONE)
LIKELY = {"output_type": "loglikelihood_rolling", "doc_to_target": "{{prompt}}"}
SPOKEN = GENERATE | {"doc_to_text": "User: {{prompt | upper}}\n\nAssistant: "}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "spoken": ("exact_match", SPOKEN),
    "chosen": ("acc", CHOOSE),
    "likely": ("bits_per_byte", LIKELY),
}


def items_of(kind: str) -> list[Item]:
    """The items of a kind of task: texts have nothing to choose from."""
    left_out = ("choices", "gold") if kind == "likely" else ()
    return [{field: value for field, value in item.items() if field not in left_out} for item in ITEMS]


def stored(task: Task, items: list[Item], folder: Path) -> Asked:
    folder.mkdir(exist_ok=True)
    write_questions(task, items, Release(TOKENIZER), folder)
    return read_questions(task, items, folder)


def requests(benchmark: Asked) -> list[Instance]:
    benchmark.prepared.build_all_requests()
    return list(benchmark.prepared.instances)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_stored_requests_are_those_that_lm_eval_builds(kind: str, prompts: list[str], tmp_path: Path) -> None:
    task = make(tmp_path, kind, *KINDS[kind])
    items: list[Item] = [{**ITEMS[0], "id": str(n), "prompt": prompt} for n, prompt in enumerate(prompts)]
    assert requests(stored(task, items, tmp_path / kind)) == requests(asked(task, items))


def test_each_model_is_asked_requests_of_its_own(tmp_path: Path) -> None:
    benchmark = stored(make(tmp_path, "chosen", *KINDS["chosen"]), ITEMS, tmp_path / "chosen")
    first = requests(benchmark)
    first[0].resps.append("what the first model said")
    assert all(not each.resps for each in requests(benchmark))


def test_what_has_been_tokenised_is_not_tokenised_again_and_scores_are_the_same(
    checkpoints: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine()
    engine.load(checkpoints[0].model, checkpoints[0].canary)
    lm: Any = engine.lm()
    tasks = [make(tmp_path, kind, *KINDS[kind]) for kind in KINDS]
    expected = evaluate(lm, [asked(task, items_of(task.name)) for task in tasks])
    once = [stored(task, items_of(task.name), tmp_path / task.name) for task in tasks]
    again: list[str] = []
    encode = lm.tokenizer.encode

    def noting(text: str, **more: Any) -> list[int]:
        again.append(text)
        return list(encode(text, **more))

    monkeypatch.setattr(lm.tokenizer, "encode", noting)
    for _ in range(2):
        found = evaluate(lm, once)
        assert {name: each.scores for name, each in found.items()} == {
            name: each.scores for name, each in expected.items()
        }
    assert not set(again) & set().union(*(each.ids for each in once))


def test_a_benchmark_that_is_asked_again_waits_for_the_next_go() -> None:
    def step(name: str) -> Any:
        return SimpleNamespace(benchmark=SimpleNamespace(name=name))

    work: list[Any] = [(step(name), number) for number, name in enumerate(["law", "code", "law", "code", "facts"])]
    assert [[number for _, number in wave] for wave in _waves(work)] == [[0, 1], [2, 3, 4]]
