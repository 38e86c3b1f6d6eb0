"""Expert scores: what says that an expert matters for some data, and how it is averaged.

For T tokens, top-K routing, g_it the gate weight of expert i for token t (0 where it is not chosen; without the
router's scaling factor) and E_i(x_t) the expert's output before that weight:

    gate          s_i = 1/T Σ_t g_it                                                                                (1)
    token         s_i = 1/(T K) Σ_t [g_it > 0]                                                                      (2)
    output_norm   s_i = N_i / Σ_j N_j,   N_i = mean of ‖E_i(x_t)‖₂ over the tokens sent to i                        (3)
    contribution  s_i = 1/T Σ_t g_it ‖E_i(x_t)‖₂ / Σ_j g_jt ‖E_j(x_t)‖₂                                             (4)
    score_norm    s_i = G_i N_i / Σ_j G_j N_j,   G_i by (1), N_i by (3)                                             (5)

Sources: (1), (2) ESFT paper, Equations 6 and 7; deepseek-ai/ESFT, results/expert_scores and
scripts/expert/get_expert_scores.py. (3) to (5) are named in the expert-concentration paper (Table 5), whose definitions
are not public in full: the equations are this project's reading. They are shares of a layer, so that thresholds and
differences mean the same for all; (4) splits each token among its experts by what they add to its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from esft_bench.methods.moe.profile import Profile

Score = Literal["gate", "token", "output_norm", "contribution", "score_norm"]
"""What is measured of an expert: equations (1) to (5)."""
ScoreRule = Literal["released", "paper", "upstream_script"]
"""How gate and token scores are averaged (the others are pooled over all tokens and not rounded):

`released`: pooled over all tokens, rounded to 4 decimals, as the published scores are. Token scores sum to 1 in a
    layer, gate scores to less (the mean top-k gate weight is not normalised).
`paper`: averaged in each sample first, then over samples (Equations 6 and 7).
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
    rounding = scores.values.shape[1] * 0.5e-4
    return Scores(scores.layers, scores.values / sums.where(sums > 1 + rounding, sums.new_ones(())), scores.signed)


def expert_scores(profile: Profile, score: Score, rule: ScoreRule = "released") -> Scores:
    """Score every expert of a profile.

    Raises MethodError where the score needs experts' outputs and the profile has none.
    """
    values = _routing(profile, score, rule) if score in ("gate", "token") else _outputs(profile, score)
    return Scores(profile.layers, values)


def _routing(profile: Profile, score: Score, rule: ScoreRule) -> Tensor:
    """Equations 1 and 2 by one of the rules, [L, E]."""
    gate = score == "gate"
    pooled = profile.gate_sums / profile.tokens if gate else profile.token_counts / (profile.tokens * profile.top_k)
    match rule:
        case "released":
            return pooled.round(decimals=4)
        case "paper":
            return profile.gate_means if gate else profile.token_means
        case "upstream_script":
            return over_layers(pooled)


def _outputs(profile: Profile, score: Score) -> Tensor:
    """Equations 3 to 5, [L, E]."""
    if score == "contribution":
        return profile.measured("contribution_sums") / profile.tokens
    values = profile.measured("norm_sums") / profile.token_counts.clamp(min=1)
    if score == "score_norm":
        values = values * profile.gate_sums / profile.tokens
    return values / values.sum(1, keepdim=True)


def domain_advantage(domain: Profile, general: Profile, score: Score = "gate", rule: ScoreRule = "paper") -> Scores:
    """How much more a domain uses each expert than general data do.

        DAS_e = s_e(domain) − s_e(general),  s_e being an expert's score by `score` and `rule`      (domain advantage)

    Source: the expert-concentration paper's domain advantage score. Its definition is not public in full: taking the
    mean gate weight over each sample for s is this project's reading. Raises MethodError where the two profiles are of
    different models.
    """
    from esft_bench.methods.moe.profile import check_same_experts

    check_same_experts(domain, general)
    values = expert_scores(domain, score, rule).values - expert_scores(general, score, rule).values
    return Scores(domain.layers, values, signed=True)


def over_layers(values: Tensor) -> Tensor:
    """Divide scores [L, E] by their sum over layers (the published script's axis); an unused expert scores 0."""
    return (values / values.sum(dim=0, keepdim=True)).nan_to_num(nan=0.0)
