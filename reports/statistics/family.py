"""All comparisons that a report makes, judged together: equation (7) of the package."""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property

import numpy as np
from scipy import stats

ALPHA = 0.05
"""Of the differences that a report calls significant, at most this share is expected to be none."""

PValues = Mapping[Hashable, float]


class Family:
    """The p-values of a report, from all that compare something in it; each source is asked once, when first needed."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], PValues]] = []

    def join(self, source: Callable[[], PValues]) -> None:
        """Take in the p-values of a source. Raises RuntimeError once the family has been judged."""
        if "adjusted" in self.__dict__:
            raise RuntimeError("this family has been judged already")
        self._sources.append(source)

    @cached_property
    def p_values(self) -> dict[Hashable, float]:
        """Every p-value as it was found."""
        return {key: value for source in self._sources for key, value in source().items()}

    @cached_property
    def adjusted(self) -> dict[Hashable, float]:
        """Every p-value adjusted for all of them (Benjamini and Yekutieli)."""
        values = list(self.p_values.values())
        found = stats.false_discovery_control(values, method="by") if values else []
        return dict(zip(self.p_values, map(float, found), strict=True))

    def holds(self, key: Hashable) -> bool:
        """Whether a comparison is significant among all; False for one that was never made."""
        return self.adjusted.get(key, 1.0) <= ALPHA

    @cached_property
    def level(self) -> float:
        """The p-value below which one comparison more would count."""
        count = sum(value <= ALPHA for value in self.adjusted.values())
        return level_of(max(len(self.adjusted), 1), min(count + 1, max(len(self.adjusted), 1)))


def level_of(comparisons: int, significant: int) -> float:
    """The largest p-value that counts where `significant` of so many comparisons do, equation (7)."""
    return float(ALPHA * significant / (comparisons * np.sum(1 / np.arange(1, comparisons + 1))))
