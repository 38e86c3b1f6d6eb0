"""Steps that are ready, in order, by what they ask for.

Of steps that ask for the very same but for the state of an engine there may be thousands, each cell's answers for
another state. Where no engine holds their states they fit alike, so one of them stands for all.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from heapq import heappop, heappush

from esft_bench.harness.execute.executor import Executor
from esft_bench.harness.steps.step import Resources, Step

Place = tuple[float, int]
"""Where a step stands in order: how long a way begins with it, negative, and its number."""


class Ready:
    """Steps that an executor may start."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._alike: defaultdict[Resources, _Alike] = defaultdict(_Alike)

    def __bool__(self) -> bool:
        return bool(self._alike)

    def add(self, place: Place, step: Step) -> None:
        """A step is ready."""
        asked = self._executor.asks(step)
        self._alike[replace(asked, state="")].add(asked.state, place, step)

    def take(self) -> Step | None:
        """Take out the step that fits best what the executor holds, of several the first; None for no room."""
        held = self._executor.states
        best: tuple[int, Place, str, Resources] | None = None
        for asked, alike in self._alike.items():
            for place, state in alike.first(held):
                fit = self._executor.fit(replace(asked, state=state))
                if fit is not None and (best is None or (fit, place) < best[:2]):
                    best = fit, place, state, asked
        if best is None:
            return None
        _, _, state, asked = best
        step = self._alike[asked].take(state)
        if not self._alike[asked]:
            del self._alike[asked]
        return step


class _Alike:
    """Steps that ask for the same, but for the state."""

    def __init__(self) -> None:
        self._steps: defaultdict[str, list[tuple[Place, Step]]] = defaultdict(list)
        self._heads: list[tuple[Place, str]] = []  # each state's first step, and some that are not so any more

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, state: str, place: Place, step: Step) -> None:
        """A step is ready."""
        heappush(self._steps[state], (place, step))
        if self._steps[state][0][0] == place:
            heappush(self._heads, (place, state))

    def first(self, held: Collection[str]) -> list[tuple[Place, str]]:
        """The first step of each state that is held, and that of all the others."""
        found = [(self._steps[state][0][0], state) for state in held if state in self._steps]
        aside = []
        while self._heads:
            place, state = self._heads[0]
            is_head = state in self._steps and self._steps[state][0][0] == place
            if is_head and state not in held:
                found.append(self._heads[0])
                break
            head = heappop(self._heads)
            aside += [head] if is_head else []
        for head in aside:
            heappush(self._heads, head)
        return found

    def take(self, state: str) -> Step:
        """Take out the first step of a state."""
        _, step = heappop(self._steps[state])
        if self._steps[state]:
            heappush(self._heads, (self._steps[state][0][0], state))
        else:
            del self._steps[state]
        return step
