"""How long work takes on so many cards: list scheduling, what leads to the most work first.

A list schedule starts whatever is ready and fits as soon as there are cards for it. It is no more than twice as long as
the best one (Graham 1969, for work of one card each); no better order is looked for, and a run does no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(frozen=True)
class Work:
    """A piece of work: so long on so many cards at once, after others, which stand before it in the list."""

    seconds: float
    cards: int = 1
    after: tuple[int, ...] = ()


def makespan(work: Sequence[Work], cards: int) -> float:
    """Seconds until all of it is done. No piece may ask for more cards than there are."""
    waits = [len(each.after) for each in work]
    leads_to = _dependents(work)
    urgency = _urgency(work, leads_to)
    ready = sorted((place for place, count in enumerate(waits) if not count), key=urgency.__getitem__, reverse=True)
    running: list[tuple[float, int]] = []
    now, free = 0.0, cards
    while ready or running:
        waiting = []
        for place in ready:
            if work[place].cards <= free:
                free -= work[place].cards
                heappush(running, (now + work[place].seconds, place))
            else:
                waiting.append(place)
        now, done = heappop(running)
        free += work[done].cards
        for place in leads_to[done]:
            waits[place] -= 1
        waiting += [place for place in leads_to[done] if not waits[place]]
        ready = sorted(waiting, key=urgency.__getitem__, reverse=True)
    return now


def _dependents(work: Sequence[Work]) -> list[list[int]]:
    """What comes after each piece, directly."""
    found: list[list[int]] = [[] for _ in work]
    for place, each in enumerate(work):
        for before in each.after:
            found[before].append(place)
    return found


def _urgency(work: Sequence[Work], leads_to: list[list[int]]) -> list[float]:
    """Seconds from the begin of each piece to the end of the longest path from it."""
    found = [0.0] * len(work)
    for place in reversed(range(len(work))):
        found[place] = work[place].seconds + max((found[other] for other in leads_to[place]), default=0.0)
    return found
