"""The advice follows the numbers and their uncertainty, and says so where they decide nothing."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from esft_bench.reports.content import gather
from esft_bench.reports.prose.advice import Advice
from esft_bench.reports.prose.task_advice import UNDECIDED, TaskAdvice
from esft_bench.spec.record import Record
from tests.reports.conftest import MadeUpRun, in_words, report

ONE = {"intent": "Intent"}
ROWS = ("base", "fft", "lora", "esft-gate")
EQUAL = {"base": 0.1, "fft": 0.85, "lora": 0.85, "esft-gate": 0.85, "esft-token": 0.85, "random-gate": 0.85}
CHEAP_GATE = {"fft": 9.0, "lora": 3.0, "esft-gate": 1.0, "esft-token": 5.0, "random-gate": 1.0}


def with_costs(made: MadeUpRun, factors: Mapping[str, float], only: str = "") -> None:
    """Every cost of a row times its factor, or only the metric named."""
    before = made.change

    def change(record: Record) -> Record | None:
        if record.role == "cost" and record.value is not None and only in ("", record.metric):
            return before(record.model_copy(update={"value": record.value * factors.get(record.method, 1.0)}))
        return before(record)

    made.change = change


def advice_of(made: MadeUpRun, folder: Path) -> Advice:
    made.build(folder)
    return gather(folder).backbones[0].advice


def of(advice: Advice, task: str) -> TaskAdvice:
    return next(one for one in advice.tasks if one.task == task)


@pytest.fixture
def equal(made_up: MadeUpRun) -> MadeUpRun:
    """Three methods that are equally good on one task and forget alike; their drawn scores are some points apart."""
    made_up.methods, made_up.tasks, made_up.skill, made_up.same_within = ROWS, dict(ONE), dict(EQUAL), 12.0
    return made_up


def test_one_method_that_is_ahead_of_all_others_is_taken(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.skill = {**EQUAL, "lora": 0.95, "fft": 0.4, "esft-gate": 0.4}
    one = of(advice_of(equal, tmp_path), "intent")
    assert [row.name for row in one.candidates] == ["lora"]
    assert one.pick is not None
    assert one.pick.name == "lora"
    assert "Take LoRA" in report(tmp_path)


def test_of_equal_scores_and_mixed_costs_the_cheapest_by_all_of_them_is_taken(equal: MadeUpRun, tmp_path: Path) -> None:
    with_costs(equal, {"fft": 9.0, "lora": 2.0})
    with_costs(equal, {"lora": 0.1, "esft-gate": 4.0}, only="stored_bytes")
    one = of(advice_of(equal, tmp_path), "intent")
    assert {row.name for row in one.candidates} == {"fft", "lora", "esft-gate"}
    assert [row.name for row in one.cheapest["train_seconds"]] == ["esft-gate"]
    assert [row.name for row in one.cheapest["stored_bytes"]] == ["lora"]
    assert one.pick is not None
    assert one.pick.name == "lora"  # 2 * 2 * 0.2 = 0.8 of what each cost; ESFT-Gate 1 * 1 * 4
    assert "time, memory and storage counting alike" in one.sentences[0].text


def test_the_verdict_comes_first_with_what_it_costs_and_what_it_forgets(equal: MadeUpRun, tmp_path: Path) -> None:
    with_costs(equal, CHEAP_GATE)
    verdict = of(advice_of(equal, tmp_path), "intent").sentences[0]
    assert verdict.lead.startswith("Take ESFT-Gate")
    assert re.search(r"It costs [\d.]+ \w+ of training, [\d.]+ \wB of memory and [\d.]+ \wB of storage", verdict.text)
    assert re.search(r"General ability after training, against the base model: ESFT-Gate [+−][\d.]+ \[", verdict.text)
    text = report(tmp_path)
    assert text.index("Take ESFT-Gate") < text.index("## In short")


def test_where_costs_are_not_known_nothing_is_decided(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.change = lambda record: None if (record.metric, record.method) == ("stored_bytes", "lora") else record
    one = of(advice_of(equal, tmp_path), "intent")
    assert one.pick is None
    assert one.sentences[0].lead == UNDECIDED


def test_equal_scores_and_one_row_cheapest_in_everything_is_taken_for_its_costs(
    equal: MadeUpRun, tmp_path: Path
) -> None:
    with_costs(equal, CHEAP_GATE)
    one = of(advice_of(equal, tmp_path), "intent")
    assert one.pick is not None
    assert one.pick.name == "esft-gate"
    assert "the cheapest of them, in time, memory and storage" in one.sentences[0].text
    assert "not distinguishable from" in in_words(one)


def test_costs_that_are_alike_are_said_to_be(equal: MadeUpRun, tmp_path: Path) -> None:
    with_costs(equal, {"fft": 9.0, "lora": 1.03})
    one = of(advice_of(equal, tmp_path), "intent")
    assert {row.name for row in one.cheapest["train_seconds"]} == {"lora", "esft-gate"}
    assert one.pick is not None
    assert one.pick.name == "esft-gate"
    assert "alike within 5%" in in_words(one)


def forgetting(made: MadeUpRun, method: str, task: str = "intent") -> None:
    """Its general items come out wrong after that task."""
    made.general_items = 200
    before = made._record

    def record(folder: Path, common: dict[str, object], *rest: object) -> Record:
        column, role, skill, count = rest
        if role == "general" and (common["method"], common["task"]) == (method, task):
            skill = 0.2
        return before(folder, common, column, role, skill, count)  # type: ignore[arg-type]

    made._record = record  # type: ignore[method-assign, assignment]


def test_the_cheapest_is_not_taken_where_another_keeps_more_general_ability(equal: MadeUpRun, tmp_path: Path) -> None:
    with_costs(equal, CHEAP_GATE)
    forgetting(equal, "esft-gate")
    one = of(advice_of(equal, tmp_path), "intent")
    assert "esft-gate" in one.sure
    assert one.forgotten["esft-gate"].high < 0
    assert one.pick is not None
    assert one.pick.name == "lora"  # three times as dear, where FFT is nine times
    assert "ESFT-Gate is cheaper but keeps less of the general ability" in one.sentences[0].text


def test_the_cheapest_is_not_taken_where_it_measured_far_behind_though_it_cannot_be_told_apart(
    equal: MadeUpRun, tmp_path: Path
) -> None:
    with_costs(equal, CHEAP_GATE)
    equal.items, equal.skill, equal.same_within = 30, {**EQUAL, "esft-gate": 0.7}, 40.0
    far = of(advice_of(equal, tmp_path / "wide"), "intent")
    equal.same_within = 5.0
    near = of(advice_of(equal, tmp_path / "narrow"), "intent")
    assert far.candidates == near.candidates
    assert "esft-gate" in {row.name for row in near.candidates}
    assert far.pick is not None
    assert near.pick is not None
    assert (far.pick.name, near.pick.name) == ("esft-gate", "lora")
    assert (
        "within 5 points of the best" in near.sentences[0].text or "more than 5 points worse" in near.sentences[0].text
    )


def test_the_highest_is_not_taken_where_it_forgets_more_than_it_scores_more(equal: MadeUpRun, tmp_path: Path) -> None:
    with_costs(equal, CHEAP_GATE)
    equal.items, equal.same_within = 30, 0.01
    scores = advice_of(equal, tmp_path / "before")
    highest = of(scores, "intent").pick
    assert highest is not None
    forgetting(equal, highest.name)
    one = of(advice_of(equal, tmp_path / "after"), "intent")
    assert highest in one.candidates
    assert one.pick not in (None, highest)
    assert "keeps less of the general ability" in one.sentences[0].text


def test_the_average_recommends_nothing_that_a_single_task_speaks_against(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.tasks = {"intent": "Intent", "facts2": "Other", "third": "Third"}
    with_costs(equal, CHEAP_GATE)
    quiet = advice_of(equal, tmp_path / "quiet").overall
    assert quiet is not None
    assert quiet.pick is not None
    assert quiet.pick.name == "esft-gate"
    forgetting(equal, "esft-gate")
    loud = advice_of(equal, tmp_path / "loud").overall
    assert loud is not None
    assert loud.pick is None
    assert loud.sentences[0].lead == UNDECIDED


def test_a_base_model_that_is_as_good_leaves_nothing_to_take(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.skill = dict.fromkeys(EQUAL, 0.8)
    one = of(advice_of(equal, tmp_path), "intent")
    assert one.pick is None
    assert "no gain from training is significant" in one.sentences[0].text


def test_an_ablation_is_named_and_never_the_advice(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.methods = (*ROWS, "random-gate")
    with_costs(equal, CHEAP_GATE)
    one = of(advice_of(equal, tmp_path), "intent")
    assert "Random (Gate) (an ablation)" in one.sentences[1].text
    assert "random-gate" not in {row.name for row in one.candidates}


def test_failed_and_half_scored_rows_are_named_with_the_reason_and_not_compared(
    equal: MadeUpRun, tmp_path: Path
) -> None:
    equal.unscored = lambda record, index: record.method == "lora" and record.role == "ability" and index % 4 == 0
    equal.change = lambda record: (
        record.model_copy(update={"state": "failed", "value": None, "items": "", "note": "out of memory"})
        if (record.method, record.role) == ("fft", "ability")
        else record
    )
    one = of(advice_of(equal, tmp_path), "intent")
    words = in_words(one)
    assert [row.name for row in one.candidates] == ["esft-gate"]
    assert "FFT (failed: out of memory)" in words
    assert "LoRA (only 75% of its items scored)" in words


def test_without_general_benchmarks_what_is_forgotten_is_not_known(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.general = {}
    one = of(advice_of(equal, tmp_path), "intent")
    assert one.forgotten == {}
    assert "is not known" in in_words(one)


def test_before_two_rows_are_there_there_is_no_advice(equal: MadeUpRun, tmp_path: Path) -> None:
    equal.change = lambda record: record if record.method == "base" else None
    advice = advice_of(equal, tmp_path)
    assert all(one.pick is None for one in advice.tasks)
    assert "Take" not in report(tmp_path)


def test_an_empty_run_has_no_section_of_advice(tmp_path: Path) -> None:
    assert "Which method" not in report(tmp_path)
