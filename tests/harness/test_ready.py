"""Which ready step comes next: held against looking at all of them."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness.execute.ready import Ready
from esft_bench.harness.steps.step import Resources


@dataclass(eq=False)
class Asking:
    """As much of a step as is looked at."""

    resources: Resources
    place: tuple[float, int]


@dataclass
class Holds:
    """An executor that holds states, and has room or not for others and for processes."""

    states: set[str] = field(default_factory=set)
    others: int | None = 1
    process: int | None = 0

    def asks(self, step):
        return step.resources

    def fit(self, asked):
        if asked.holds == "process":
            return self.process
        return 0 if asked.state in self.states else self.others


ROOM = st.sampled_from([None, 0, 1])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3), st.sampled_from(["", "a", "b", "c", "d"])),
        st.tuples(st.just("take"), st.sets(st.sampled_from("abcd")), ROOM, ROOM),
    ),
    max_size=60,
)


@given(MOVES)
def test_the_step_that_fits_best_is_taken_and_of_several_the_first(moves):
    executor: Any = Holds()
    ready: Any = Ready(executor)
    left: list[Asking] = []
    for number, (move, *told) in enumerate(moves):
        if move == "add":
            size, state = told
            step = Asking(Resources("engine" if state else "process", state=state), (-size, number))
            ready.add(step.place, step)
            left.append(step)
            continue
        executor.states, executor.others, executor.process = told
        fits = [(executor.fit(step.resources), step.place) for step in left]
        best = min((each for each in fits if each[0] is not None), default=None)
        taken = ready.take()
        assert (taken and taken.place) == (best and best[1])
        left = [step for step in left if step is not taken]
        assert bool(ready) == bool(left)


def test_one_step_stands_for_all_whose_states_nothing_holds():
    executor: Any = Holds(others=None)
    ready: Any = Ready(executor)
    asked: list[Resources] = []
    executor.fit = lambda resources: asked.append(resources)
    for number in range(1000):
        ready.add((0.0, number), Asking(Resources("engine", state=str(number)), (0.0, number)))
    assert ready.take() is None
    assert len(asked) == 1
