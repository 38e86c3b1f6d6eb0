"""Work for one model, shared out among engines that have nothing else to do."""

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.execute.executor import Ended
from esft_bench.harness.execute.sharing import shares
from esft_bench.harness.serving.settings import EngineSettings
from esft_bench.harness.steps.answer import _tokens
from esft_bench.harness.steps.step import Job, Resources, Step
from esft_bench.spec.sections import Evaluation
from tests.harness.toys import Toy, executor, job


@dataclass(frozen=True, eq=False)
class Asked(Toy):
    """A toy that asks one of several servers of others; `told` begins with how much work it is."""

    kind: ClassVar[str] = "asked"
    holds: str = "engine"
    servers: int = 2

    @property
    def resources(self) -> Resources:
        urls = tuple(f"http://server-{number}" for number in range(self.servers))
        engine = EngineSettings("vllm 0.32.0", "float32", 128, Evaluation(endpoints=urls))
        return Resources("engine", engine, self.model, gpus=engine.gpus)

    def weight(self, job: Job) -> float:
        return float(self.told.split()[0])

    def _waits(self, job: Job) -> dict[str, Any]:
        time.sleep(0.3)
        return {"pid": os.getpid()}


def works(weights: list[float]) -> list[tuple[Asked, Job]]:
    nowhere = Job({}, Path(), Path())
    return [(Asked("waits", told=f"{weight} {n}"), nowhere) for n, weight in enumerate(weights)]


def told(work: tuple[Step, Job]) -> str:
    return str(work[0].settings["told"])


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=20), st.integers(1, 6))
def test_all_work_is_shared_out_once_and_no_part_is_longer_than_it_must(weights: list[float], count: int) -> None:
    work = works(weights)
    parts = shares(work, count)
    assert sorted(map(told, (each for part in parts for each in part))) == sorted(map(told, work))
    assert len(parts) == min(count, len(work))
    longest = max(sum(step.weight(each) for step, each in part) for part in parts)
    # Graham 1969: no list schedule takes longer than the mean load and the rest of the longest piece.
    assert longest <= sum(weights) / count + (1 - 1 / count) * max(weights) + 1e-6


def test_the_longest_is_asked_first() -> None:
    (part,) = shares(works([1.0, 3.0, 2.0]), 1)
    assert [told(each).split()[0] for each in part] == ["3.0", "2.0", "1.0"]


def test_a_benchmark_weighs_what_its_answers_may_be_long(tmp_path: Path) -> None:
    rows = [{"more": [{"until": [], "max_gen_toks": 100}]}, {"more": [{"until": []}]}, {"more": [" yes"]}, {"more": []}]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _tokens(tmp_path) == 100 + 256 + 1 + 1


def finish(local: Any, steps: list[Asked], folder: Path) -> dict[str, int]:
    """Run steps, started together where there is room; returns the process of each."""
    for number, step in enumerate(steps):
        assert local.fit(local.asks(step)) is not None
        local.start(step, job(folder / str(number)))
    found: dict[str, int] = {}
    while len(found) < len(steps):
        for event in local.wait():
            if isinstance(event, Ended):
                assert event.error == ""
                found[str(event.step.settings["told"])] = event.measured["pid"]
    return found


@pytest.fixture
def local(tmp_path: Path) -> Any:
    made = executor(tmp_path)
    yield made
    made.close()


def test_a_model_is_asked_on_as_many_servers_as_others_run_and_the_longest_has_one_for_itself(
    local: Any, tmp_path: Path
) -> None:
    steps = [Asked("waits", told=told, model="a") for told in ("5 long", "2 x", "1 y", "1 z")]
    pids = finish(local, steps, tmp_path / "first")
    assert len(set(pids.values())) == 2
    assert [told for told, pid in pids.items() if pid == pids["5 long"]] == ["5 long"]
    again = finish(local, [replace(step, told=f"{step.told} again") for step in steps], tmp_path / "second")
    assert set(again.values()) == set(pids.values())  # the same engines, which stay


def test_servers_of_others_are_asked_beside_a_training_and_never_two_models_by_one(local: Any, tmp_path: Path) -> None:
    one, two, three = (Asked("waits", told="1", model=name) for name in "abc")
    for step in (one, two):
        assert local.fit(local.asks(step)) == 1
        local.start(step, job(tmp_path / step.model))
    assert local.fit(local.asks(three)) is None
    assert local.fit(local.asks(replace(one, told="2"))) == 0  # collected for what is served next
    assert local.fit(Resources("process")) == 0
    local.start(Toy("sleeps", told=str(tmp_path / "pid")), job(tmp_path / "training"))
    while local.fit(local.asks(three)) is None:
        local.wait()
