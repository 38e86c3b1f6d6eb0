"""Expert scores: what says that an expert matters for some data, and how it is averaged.

For T tokens, top-K routing, g_it the gate weight of expert i for token t (0 where it is not chosen; without the
router's scaling factor), r_it the router's score of it before the choice (for a softmax router its whole softmax), and
E_i(x_t) the expert's output before the gate weight:

    gate          s_i = 1/T Σ_t g_it                                                                                (1)
    token         s_i = 1/(T K) Σ_t [g_it > 0]                                                                      (2)
    output_norm   s_i = N_i / Σ_j N_j,   N_i = mean of ‖E_i(x_t)‖₂ over the tokens sent to i                        (3)
    contribution  s_i = 1/T Σ_t g_it ‖E_i(x_t)‖₂ / Σ_j g_jt ‖E_j(x_t)‖₂                                             (4)
    score_norm    s_i = P_i / Σ_j P_j,   P_i = 1/T Σ_t g_it ‖E_i(x_t)‖₂                                             (5)
    router        s_i = 1/T Σ_t r_it                                                                                (6)

Sources: (1), (2) ESFT paper, Equations 6 and 7; deepseek-ai/ESFT, results/expert_scores and
scripts/expert/get_expert_scores.py. (3) to (6) expert-concentration paper: (6) is the average routing score of its
Equations 1 and 3, alone its Table 5's "direct routing score"; (3) and (5) that table's "average L2 norm of an expert's
output" and "average product of an expert's gate score and its output norm", which only tokens sent to an expert have.
(4) is our reading of "the contribution of an expert to the change in the hidden state", for which it gives no formula:
each token is split among its experts by what they add to its state. (3) to (5) are shares of a layer. (2) is, but for
the factor 1/K, the "selection frequency" of that paper's introduction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from esft_bench.methods.moe.profile import Profile

Score = Literal["gate", "token", "output_norm", "contribution", "score_norm", "router"]
"""What is measured of an expert: equations (1) to (6)."""
ScoreRule = Literal["released", "paper", "pooled", "upstream_script"]
"""How gate and token scores are averaged (the others are pooled over all tokens and not rounded by any):

`released`: pooled over all tokens, rounded to 4 decimals, as the published scores are. Token scores sum to 1 in a
    layer, gate scores to less (the mean top-k gate weight is not normalised).
`paper`: averaged in each sample first, then over samples (Equations 6 and 7).
`pooled`: over all tokens, as (1) and (2) say, not rounded; of (3) and (5) the averages N_i and P_i themselves, by which
    experts of several layers can be ranked together.
`upstream_script`: pooled, then divided by the sum over layers instead of over experts, as the published script does; it
    selects about half as many experts. Only for reproducing others' numbers.
"""


@dataclass(frozen=True)
class Scores:
    """Relevance of each expert to a data set.

    Attributes:
        layers: numbers of the MoE layers, in order.
        values: [L, E] float64, a row for each of `layers`.
        signed: whether values may be below 0, as differences may; such scores have an order, but no threshold.
    """

    layers: tuple[int, ...]
    values: Tensor
    signed: bool = False


def scores_of(rows: Mapping[int, Sequence[float]]) -> Scores:
    """Scores by layer number."""
    import torch

    return Scores(tuple(rows), torch.tensor(list(rows.values()), dtype=torch.float64))


def as_shares(scores: Scores) -> Scores:
    """The scores with each layer that adds up to more than 1 divided by its sum.

    Softmax routers give gates that add up to 1 at most, so their means are shares already. Those of a sigmoid router
    without normalisation do not: a layer may add up to 4, and a threshold of 0.1 would be passed by its first expert.
    What rounding to 4 decimals may add to a sum of 1 does not count.
    """
    sums = scores.values.sum(dim=1, keepdim=True)
    return Scores(scores.layers, scores.values / sums.where(sums > _one(scores), sums.new_ones(())), scores.signed)


def most_over_one(scores: Scores) -> float | None:
    """The highest sum of a layer's scores where that is over 1, as `as_shares` has it; else None."""
    most = float(scores.values.sum(dim=1).max())
    return most if most > _one(scores) else None


def _one(scores: Scores) -> float:
    """1, and what rounding to 4 decimals may add to it."""
    return 1 + scores.values.shape[1] * 0.5e-4


def expert_scores(profile: Profile, score: Score, rule: ScoreRule = "released") -> Scores:
    """Score every expert of a profile.

    Raises MethodError where the score needs experts' outputs and the profile has none.
    """
    values = _routing(profile, score, rule) if score in ("gate", "token") else _outputs(profile, score, rule)
    return Scores(profile.layers, values)


def _routing(profile: Profile, score: Score, rule: ScoreRule) -> Tensor:
    """Equations 1 and 2 by one of the rules, [L, E]."""
    gate = score == "gate"
    pooled = profile.gate_sums / profile.tokens if gate else profile.token_counts / (profile.tokens * profile.top_k)
    match rule:
        case "released":
            return pooled.round(decimals=4)
        case "pooled":
            return pooled
        case "paper":
            return profile.gate_means if gate else profile.token_means
        case "upstream_script":
            return over_layers(pooled)


def _outputs(profile: Profile, score: Score, rule: ScoreRule) -> Tensor:
    """Equations 3 to 6, [L, E]; by the rule `pooled` N_i and P_i themselves."""
    match score:
        case "router":
            return profile.measured("router_sums") / profile.tokens
        case "contribution":
            return profile.measured("contribution_sums") / profile.tokens
        case "score_norm":
            values = profile.measured("score_norm_sums") / profile.tokens
        case _:
            values = profile.measured("norm_sums") / profile.token_counts.clamp(min=1)
    return values if rule == "pooled" else values / values.sum(1, keepdim=True)


def domain_advantage(domain: Profile, general: Profile, score: Score = "router", rule: ScoreRule = "pooled") -> Scores:
    """How much more a domain uses each expert than general data do.

        DAS(D_d, D_g) = 1/|D_d| Σ_{t ∈ D_d} g_t − 1/|D_g| Σ_{t ∈ D_g} g_t,   g_t being an expert's routing score  (DAS)

    Source: the expert-concentration paper, Equation 1 with the g of Equation 3, which is the score `router`; `token`
    stands for its introduction's selection frequency. Raises MethodError where the two profiles are of different
    models.
    """
    from esft_bench.methods.moe.profile import check_same_experts

    check_same_experts(domain, general)
    values = expert_scores(domain, score, rule).values - expert_scores(general, score, rule).values
    return Scores(domain.layers, values, signed=True)


def over_layers(values: Tensor) -> Tensor:
    """Divide scores [L, E] by their sum over layers (the published script's axis); an unused expert scores 0."""
    return (values / values.sum(dim=0, keepdim=True)).nan_to_num(nan=0.0)
