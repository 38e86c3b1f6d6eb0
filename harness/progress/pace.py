"""How long the rest of a run will take, from how long its finished steps took."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))

ANY = "any kind"


class Pace:
    """Counts steps by kind: what is left, and the time in which so many of a kind were finished.

    Steps of a kind that run beside each other are counted by the time in which any of them ran, so no number of workers
    has to be known. So are kinds beside each other: as much as they were so far, they are taken to be further on.
    """

    def __init__(self, left: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`left` are the kinds of the steps that are to be done, one for each step."""
        self._left, self._clock = Counter(left), clock
        self._done: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._spent: dict[str, float] = {}

    def started(self, kind: str) -> None:
        """A step of a kind began."""
        for each in (kind, ANY):
            if not self._busy[each]:
                self._since[each] = self._clock()
            self._busy[each] += 1

    def ended(self, kind: str, *, well: bool = True) -> None:
        """A step of a kind is over; one that failed is not waited for any more either."""
        for each in (kind, ANY):
            self._busy[each] -= 1
            if not self._busy[each]:
                self._spent[each] = self._seconds(each)
                del self._since[each]
        self._left[kind] -= 1
        self._done[kind] += well

    def seconds_left(self) -> float | None:
        """What is left; None while some kind of step that is left has not been finished once."""
        waiting = {kind: count for kind, count in self._left.items() if count > 0}
        if any(not self._done[kind] for kind in waiting):
            return None
        one_by_one = sum(count * self._seconds(kind) / self._done[kind] for kind, count in waiting.items())
        spent = sum(self._seconds(kind) for kind in {*self._spent, *self._since} - {ANY})
        return one_by_one * self._seconds(ANY) / spent if spent else one_by_one

    def _seconds(self, kind: str) -> float:
        """The time in which any step of a kind ran."""
        running = self._clock() - self._since[kind] if kind in self._since else 0.0
        return self._spent.get(kind, 0.0) + running


def in_words(seconds: float | None) -> str:
    """`about 6 min left`; empty where it is not known."""
    if seconds is None:
        return ""
    unit, size = next(each for each in UNITS if seconds >= 2 * each[1] or each[1] == 1)
    amount = seconds / size
    return f"about {amount:.0f} {unit} left" if amount >= 10 or size == 1 else f"about {amount:.1f} {unit} left"
