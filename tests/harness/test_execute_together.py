"""Steps that ask an engine for one model are run together, and fail by themselves."""

from pathlib import Path

from esft_bench.harness.execute.executor import Ended
from tests.harness.toys import Sociable, Toy, executor, job


def run(folder: Path, *steps: Toy) -> dict[str, Ended]:
    """Start steps at once and wait for their ends, by what they are told."""
    local = executor(folder)
    for step in steps:
        assert local.fit(step.resources) is not None
        local.start(step, job(folder / step.told))
    ended: dict[str, Ended] = {}
    while len(ended) < len(steps):
        for each in local.wait():
            if isinstance(each, Ended):
                assert isinstance(each.step, Toy)
                ended[each.step.told] = each
    local.close()
    return ended


def toy(does: str, told: str, model: str = "a model") -> Sociable:
    return Sociable(does, told=told, holds="engine", model=model)


def test_what_is_asked_of_one_model_is_asked_together(tmp_path: Path) -> None:
    ended = run(tmp_path, toy("works", "1"), toy("works", "2"), toy("works", "3"))
    assert {name: each.measured["together"] for name, each in ended.items()} == {"1": 3, "2": 3, "3": 3}
    assert [each.measured["said"] for each in ended.values()] == list(ended)


def test_other_kinds_that_ask_the_same_model_are_run_by_themselves(tmp_path: Path) -> None:
    other = Toy("works", told="2", holds="engine", model="a model")
    ended = run(tmp_path, toy("works", "1"), other, toy("works", "3"))
    assert {name: each.measured.get("together") for name, each in ended.items()} == {"1": 2, "2": None, "3": 2}


def test_one_that_breaks_fails_alone(tmp_path: Path) -> None:
    ended = run(tmp_path, toy("works", "1"), toy("breaks", "2"), toy("works", "3"))
    assert {name: each.error for name, each in ended.items()} == {"1": "", "2": "RuntimeError: boom", "3": ""}


def test_a_process_that_ends_without_a_word_is_an_error_of_all_that_it_ran(tmp_path: Path) -> None:
    ended = run(tmp_path, toy("works", "1"), toy("dies", "2"))
    assert "ended with code -9" in ended["1"].error
    assert "ended with code -9" in ended["2"].error


def test_another_model_waits_until_all_of_one_is_answered(tmp_path: Path) -> None:
    local = executor(tmp_path)
    first, other = toy("works", "1"), toy("works", "2", model="another")
    local.start(first, job(tmp_path / "1"))
    assert (local.fit(first.resources), local.fit(other.resources)) == (0, None)
    while not any(isinstance(each, Ended) for each in local.wait()):
        assert local.fit(first.resources) is None  # the engine is at work: what is ready only now comes after
    assert (local.fit(first.resources), local.fit(other.resources)) == (0, 1)
    local.close()
