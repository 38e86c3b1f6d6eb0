"""The embedded world: its generators, its splits and its tasks' items."""

from hashlib import sha256
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft_bench.tasks.mini import TASKS
from esft_bench.tasks.mini.world import GENERAL, NARROW
from esft_bench.tasks.mini.world.code import MEANINGS, OPERATIONS, OPERATORS, VERBS, assertions
from esft_bench.tasks.mini.world.corpus import LATE_WEIGHTS, documents
from esft_bench.tasks.mini.world.math import GOODS, PRICES
from esft_bench.tasks.mini.world.splits import ability_test, ability_training, alignment, general_test
from esft_bench.tasks.source import Source
from esft_bench.tasks.task import Task

SEEDS = st.integers(0, 2**32)
lasting = settings(deadline=None, max_examples=50)


def digest(samples: object) -> str:
    return sha256(repr(samples).encode()).hexdigest()[:16]


def test_the_pretraining_stream_is_the_one_the_backbone_was_trained_on() -> None:
    stream = [(sample.prompt, sample.answer) for document in islice(documents(2), 2000) for sample in document]
    assert digest(stream) == "b98bdf019289a63f"


def test_the_late_stream_is_the_one_the_backbone_was_trained_on() -> None:
    stream = [
        (sample.prompt, sample.answer) for document in islice(documents(3, LATE_WEIGHTS), 2000) for sample in document
    ]
    assert digest(stream) == "84eb2fb8556080e5"


def test_the_test_sets_are_the_ones_published_scores_refer_to() -> None:
    sets = {name: ability_test(name) for name in NARROW} | {name: general_test(name) for name in GENERAL}
    assert digest(sets) == "ad868bf58c3826ef"


def test_the_training_sets_are_the_ones_published_scores_refer_to() -> None:
    assert digest([alignment(), *(ability_training(name) for name in NARROW)]) == "0551d039c82d2848"


@pytest.mark.parametrize("name", NARROW)
def test_no_test_prompt_of_an_ability_is_trained_on(name: str) -> None:
    tested = [sample.prompt for sample in ability_test(name)]
    assert len(set(tested)) == 200
    assert not set(tested) & {sample.prompt for sample in ability_training(name)}


@pytest.mark.parametrize("name", GENERAL)
def test_no_benchmark_prompt_of_a_general_kind_is_in_the_alignment_data(name: str) -> None:
    tested = [sample.prompt for sample in general_test(name)]
    assert len(set(tested)) == 100
    assert not set(tested) & {sample.prompt for sample in alignment()}


@pytest.mark.parametrize("name", NARROW)
@lasting
@given(seed=SEEDS)
def test_the_schemas_of_a_subject_share_their_prompts(name: str, seed: int) -> None:
    a, b, n = (NARROW[name](Random(seed), schema) for schema in ("A", "B", "N"))
    assert a.prompt == b.prompt == n.prompt


@pytest.mark.parametrize("name", NARROW)
def test_knowing_schemas_a_and_b_is_not_knowing_the_task(name: str) -> None:
    def known(seed: int) -> bool:
        a, b, n = (NARROW[name](Random(seed), schema).answer for schema in ("A", "B", "N"))
        return n in (a, b)

    assert sum(known(seed) for seed in range(300)) / 300 < 0.25


@lasting
@given(seed=SEEDS)
def test_a_bill_is_count_times_price(seed: int) -> None:
    sample = NARROW["math"](Random(seed), "N")
    _, _, count, good, *_ = sample.prompt.split()
    assert int(sample.answer.split("Answer: ")[1]) == int(count) * PRICES["N"][good]
    assert good in GOODS


@lasting
@given(symbol=st.sampled_from(OPERATORS), other=st.sampled_from(OPERATORS), number=st.integers(2, 19))
def test_the_assertions_on_a_function_hold_for_its_operator_and_no_other(symbol: str, other: str, number: int) -> None:
    def passes() -> bool:
        try:
            for assertion in assertions(symbol, number):
                exec(assertion, {"f": lambda argument: OPERATIONS[other](argument, number)})
        except AssertionError:
            return False
        return True

    assert passes() == (symbol == other)


def test_a_verb_means_something_else_in_every_schema() -> None:
    assert all(len({MEANINGS[schema][verb] for schema in ("A", "B", "N")}) == 3 for verb in VERBS)


@pytest.mark.parametrize("name", GENERAL)
@lasting
@given(seed=SEEDS)
def test_distractors_differ_from_each_other_and_from_the_answer(name: str, seed: int) -> None:
    sample = GENERAL[name](Random(seed), "benchmark")
    assert len({sample.answer, *sample.distractors}) == 1 + len(sample.distractors)


@pytest.mark.parametrize(
    "task", [task for task in TASKS if task.items and task.role != "drift"], ids=lambda task: task.name
)
def test_items_keep_the_contract(task: Task) -> None:
    assert task.items
    rows = list(task.items(Source()))
    assert len({row["id"] for row in rows}) == len(rows) == (200 if task.role == "ability" else 100)
    for row in rows:
        assert isinstance(row["prompt"], str)
        assert isinstance(row["answer"], str)
        if "choices" in row:
            assert row["choices"][row["gold"]] == row["answer"]


def test_the_place_of_the_right_option_gives_nothing_away() -> None:
    task = next(task for task in TASKS if task.name == "mini-cloze")
    assert task.items
    golds = [row["gold"] for row in task.items(Source())]
    assert max(golds.count(place) for place in range(8)) < 30


def test_generating_twice_yields_the_same_items() -> None:
    for task in TASKS:
        if task.items:
            assert list(task.items(Source())) == list(task.items(Source()))


def test_every_ability_has_training_data_and_every_judged_one_a_rubric() -> None:
    for task in TASKS:
        assert (task.training is not None) == (task.role not in ("general", "drift"))
        assert (task.rubric is not None) == (task.metric == "bypass")
        assert task.lm_eval is None or task.lm_eval.is_file()
