"""Variances between few runs, read together: equation (9) of the package (Smyth 2004, as in the library limma).

Two or three runs of a pair say little about how much it varies from run to run; all pairs of a report say more. How
far they may be read together is itself estimated, from how unlike the variances of pairs are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from esft_bench.reports.statistics.error import Array
from esft_bench.reports.statistics.variance import VarianceComponents

MOST = 1000.0
"""Degrees of freedom that count as any number."""
FEWEST = 5
"""Variances that it takes to see how unlike they are."""


@dataclass(frozen=True)
class Prior:
    """Where variances lie: `variance`, with as many degrees of `freedom` as say how alike they are."""

    variance: float
    freedom: float


def moderated(components: Sequence[VarianceComponents]) -> list[VarianceComponents]:
    """The components of many pairs with the variance between runs moderated; never below what a pair itself shows."""
    several = [one for one in components if one.runs > 1 and one.run > 0]
    if len(several) < FEWEST:
        return list(components)
    prior = prior_of(np.array([one.run for one in several]), np.array([one.run_freedom for one in several]))
    return [_moderated(one, prior) if one.runs > 1 else one for one in components]


def prior_of(variances: Array, freedom: Array) -> Prior:
    """Fit the prior to the logarithms of variances (Smyth 2004, Section 6.2)."""
    known = np.maximum(variances, 1e-5 * np.median(variances))
    logs = np.log(known) - special.digamma(freedom / 2) + np.log(freedom / 2)
    spread = float(logs.var(ddof=1) - special.polygamma(1, freedom / 2).mean())
    if spread <= special.polygamma(1, MOST / 2):
        return Prior(float(np.exp(logs.mean())), MOST)
    found = 2 * float(optimize.brentq(lambda half: special.polygamma(1, half) - spread, 1e-3, MOST / 2))
    return Prior(float(np.exp(logs.mean() + special.digamma(found / 2) - np.log(found / 2))), found)


def _moderated(one: VarianceComponents, prior: Prior) -> VarianceComponents:
    freedom = prior.freedom + one.run_freedom
    together = (prior.freedom * prior.variance + one.run_freedom * one.run) / freedom
    return replace(one, run=max(together, one.run), run_freedom=freedom)
