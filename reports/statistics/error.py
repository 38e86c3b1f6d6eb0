"""How far a mean may be from the truth: a mixture over the variance between runs, which few runs leave open.

Equations are those of the package.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]
NODES = 256
"""Points at which the mixture over the variance between runs is evaluated."""


@dataclass(frozen=True)
class Error:
    """The error of an estimate: t-distributed, over a standard error that is itself known up to a distribution.

    Attributes:
        variances: possible squared standard errors, one for each node.
        weights: how probable each is.
        freedom: degrees of freedom of what does not come from runs.
    """

    variances: Array
    weights: Array
    freedom: float

    def beyond(self, distance: float) -> float:
        """The probability of an error above `distance`, to one side; equation (6) is twice that."""
        if not self.variances.any():
            return 0.5 if distance == 0 else float(distance < 0)
        with np.errstate(divide="ignore"):
            tails = special.stdtr(self.freedom, -distance / np.sqrt(self.variances))
        return float(self.weights @ tails)

    def quantile(self, tail: float) -> float:
        """The error exceeded with probability `tail` (below one half), to one side."""
        widest = float(np.sqrt(self.variances.max()))
        if widest == 0:
            return 0.0
        most = 1.01 * widest * float(stats.t.isf(tail, self.freedom))
        return _root(lambda distance: self.beyond(distance) - tail, most)

    def with_variance(self, variance: float) -> "Error":
        """The error where an independent one of that variance is added: another paper's own uncertainty."""
        return Error(self.variances + variance, self.weights, self.freedom)

    def at_least(self, variance: float) -> "Error":
        """The error where no variance below that one is believed."""
        return Error(np.maximum(self.variances, variance), self.weights, self.freedom)


def error_of(run: float, item: float, residual: float, run_freedom: float, item_freedom: float) -> Error:
    """Equations (4) and (5): the error of a mean with the variances A, C and E of the package."""
    between = np.maximum(run * _scaled(run_freedom) - residual, 0.0)
    return Error(max(item, residual) + between, _nodes()[1], item_freedom)


def _root(function: Callable[[float], float], most: float) -> float:
    """Where a falling function on [0, most] crosses zero."""
    return float(optimize.brentq(function, 0.0, most, xtol=1e-8))


@cache
def _nodes() -> tuple[Array, Array]:
    """Probabilities and their weights, dense towards 0, where a variance that happened to come out small lies."""
    middle = (np.arange(NODES) + 0.5) / NODES
    weights = middle**2
    return middle**3, weights / weights.sum()


@lru_cache(maxsize=4096)
def _scaled(freedom: float) -> Array:
    """f / χ²_f at the nodes: by how much a variance estimated with f degrees of freedom may be too small."""
    return np.asarray(freedom / stats.chi2.ppf(_nodes()[0], freedom))
