"""Cells that are asked again: steps of their own, really asked, whose scores are records that no table averages."""

import json

import pytest

from esft_bench.harness.commands.detect import Rates, needed
from esft_bench.harness.plan.price.hardware import DEFAULT, accelerator
from esft_bench.harness.plan.state import state_of
from esft_bench.harness.records.scores import collect
from esft_bench.harness.store.names import ITEMS, LM_EVAL
from esft_bench.harness.terminal import Terminal
from tests.harness.plans import finish, graph_of, prepared
from tests.harness.test_plan import ROWS

AGAIN = ROWS.replace("{engine: transformers}", "{engine: transformers, repeats: {cells: 1, times: 3}}")


@pytest.fixture
def made(tmp_path):
    """`made(text)`: a suite of that text, prepared."""
    return lambda text=AGAIN, **options: prepared(tmp_path, text, **options)


def answered(score):
    """Fill an artifact of answers, all with one score."""

    def fill(folder):
        lines = [json.dumps({"id": str(k), "score": score}) for k in range(4)]
        (folder / ITEMS).write_text("\n".join(lines) + "\n")
        (folder / LM_EVAL).write_text("{}")

    return fill


def test_the_first_trained_cell_is_asked_twice_more_on_all_its_benchmarks_and_no_other_is(made):
    one = made()
    asked = {cell.label: sorted(path.repeats) for cell, path in one.plan.paths.items() if path.repeats}
    times = [(name, time) for name in ("mini-facts", "mini-law") for time in (1, 2)]
    assert asked == {"fft · mini-law · seed 0": times}
    assert not any(path.repeats for path in made(ROWS).plan.paths.values())


def test_each_time_has_a_key_of_its_own_and_the_first_the_one_it_had_without(made):
    plain, one = made(ROWS), made()
    cell = one.plan.cells[1]
    path = one.plan.paths[cell]
    finish(one, path.training)
    finish(one, path.answers["mini-facts"].questions)
    graph = graph_of(one)
    keys = [graph.key(path.answers["mini-facts"]), *(graph.key(path.repeats["mini-facts", time]) for time in (1, 2))]
    assert len(set(keys)) == 3
    assert keys[0] == graph_of(plain).key(plain.plan.paths[cell].answers["mini-facts"])
    assert path.repeats["mini-facts", 2].label.endswith("again (2)")


def test_a_cell_is_done_once_it_was_asked_every_time_and_its_repeats_are_records_of_their_own(made, tmp_path):
    one = made()
    path = one.plan.paths[one.plan.cells[1]]
    finish(one, path.training, seconds=2.0, cpu_seconds=2.0, steps=2, peak_memory_bytes=1, stored_bytes=1,
           trainable_parameters=1)  # fmt: skip
    for step in path.answers.values():
        finish(one, step, answered(1.0), seconds=3.0)
    finish(one, path.scores["mini-law"], answered(1.0))
    assert state_of(path, graph_of(one)) == "answered"
    for (name, _), step in path.repeats.items():
        if name == "mini-law":
            finish(one, step.answers, answered(0.5))
        finish(one, step, answered(0.5))
    graph = graph_of(one)
    assert state_of(path, graph) == "done"
    records = [record for record in collect(one.plan, graph, tmp_path / "run", {}) if record.benchmark == "mini-facts"]
    assert [(record.role, record.repeat, record.value) for record in records] == [
        ("general", 0, 100.0),
        ("repeat", 1, 50.0),
        ("repeat", 2, 50.0),
    ]
    assert len({record.items for record in records}) == 3
    (tested,) = (r for r in collect(one.plan, graph, tmp_path / "run", {}) if r.metric == "test_seconds")
    assert tested.value == 6.0


def test_quick_asks_nothing_twice(made):
    quick = AGAIN + "quick: {tasks: [mini-law], methods: [base, fft]}\n"
    assert not any(path.repeats for path in made(quick, quick=True).plan.paths.values())


def test_a_plan_says_what_a_difference_needs_and_costs(made):
    one = made()
    console = Terminal(width=200)
    with console.capture() as said:
        console.print(needed(one, graph_of(one), 10.0, Rates(accelerator(DEFAULT), None, 2.0)))
    text = said.get()
    assert "To find a difference of 10 points" in text
    assert "Average over the tasks" in text
    assert "$" in text
    assert "assumed" in text
    assert "no run has shown what testing takes" in " ".join(text.split())
