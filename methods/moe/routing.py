"""What scores and profiles say about routing: how concentrated it is, what tasks share, how training moved it.

L layers, E experts; a measure has a value for each layer, so that the variance over layers can be shown. A run stores
what its figures show of them in `routing.json` (`esft_bench.spec.routing`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.profile import Profile, check_same_experts
from esft_bench.methods.moe.scores import Score, ScoreRule, Scores, domain_advantage, expert_scores
from esft_bench.methods.moe.selection import highest


def concentration(scores: Scores) -> Tensor:
    """The concentration curve, [L, E]: the sum of the n highest scores of a layer, for n = 1 … E.

        c_l(n) = Σ_{r ≤ n} s_l(r),   s_l(r) being the r-th highest score of layer l      (concentration)

    Source: ESFT paper, Figure 2.
    """
    return scores.values.sort(dim=1, descending=True).values.cumsum(dim=1)


def concentration_shares(scores: Scores) -> Tensor:
    """The concentration curve in shares of a layer's sum, [L, E]: from 0 to 1; a layer without weight stays 0."""
    curve = concentration(scores)
    total = curve[:, -1:]
    return curve / torch.where(total > 0, total, 1.0)


def overlap(first: Profile, second: Profile, count: int | None = None, score: Score = "gate") -> Tensor:
    """How many of the `count` best experts (default: top-k of the router) two profiles share in each layer, [L].

    Ties go to the lower expert id, as in selections. Source: ESFT paper, Figure 3. Raises MethodError for profiles of
    different models.
    """
    check_same_experts(first, second)
    best = [highest(expert_scores(one, score), count or one.top_k) for one in (first, second)]
    return torch.tensor([len({*best[0][layer]} & {*best[1][layer]}) for layer in first.layers])


def cumulated_advantage(
    domain: Profile, general: Profile, k: int, score: Score = "router", rule: ScoreRule = "pooled"
) -> Tensor:
    """The share of a layer's positive domain advantage that the k experts with the highest one hold, [L].

        C-DAS@k = Σ_l  Σ_{j ∈ T_l} max(DAS_lj, 0) / Σ_j max(DAS_lj, 0),   T_l being the k experts highest in layer l

    C-DAS@k itself is the sum over layers, so L at most. A layer without any advantage counts as 0. Source: the
    expert-concentration paper, Equation 2. Raises MethodError for profiles of different models, or fewer experts.
    """
    return concentrated(domain_advantage(domain, general, score, rule).values, k)


def concentrated(advantage: Tensor, k: int) -> Tensor:
    """The same of domain advantages [L, E]."""
    layers, experts = advantage.shape
    if k > experts:
        raise MethodError(f"C-DAS@{k} asks for more experts than the {experts} a layer has")
    return concentration_shares(Scores(tuple(range(layers)), advantage.clamp(min=0)))[:, k - 1]


def consistency(before: Profile, after: Profile) -> Tensor:
    """How far the routing scores of the same data moved, [L]: the mean over a layer's experts.

        RC = 1/(L N) Σ_l Σ_j (g_lj(after) − g_lj(before))²,   g being the average routing score      (RC)

    RC itself is the mean over layers; low where little moved, whatever its name (routing consistency) says. Source: the
    expert-concentration paper, Equations 4 and 5. Raises MethodError for profiles of different models.
    """
    check_same_experts(before, after)
    return moved(*(expert_scores(one, "router").values for one in (before, after)))


def moved(before: Tensor, after: Tensor) -> Tensor:
    """The same of average routing scores, each [L, E]."""
    return (after - before).square().mean(1)


def shift(before: Profile, after: Profile) -> Tensor:
    """How far the routing of the same data moved, [L], from 0 (not at all) to 1 (to other experts altogether).

        TV_l = 1/2 Σ_i |s_li(after) − s_li(before)|,   s being the token ratio      (routing shift)

    The total variation distance between the two distributions of token-expert pairs, which is no paper's figure: unlike
    RC it does not depend on how many experts there are. It is 0 as well where tokens only traded experts. Raises
    MethodError for profiles of different models.
    """
    check_same_experts(before, after)
    shares = [one.token_counts / one.token_counts.sum(1, keepdim=True) for one in (before, after)]
    return (shares[1] - shares[0]).abs().sum(1) / 2


def selected_counts(experts: Mapping[int, Sequence[int]], layers: Sequence[int]) -> Tensor:
    """How many experts are selected in each of `layers`, [L] float64, so that means can be taken."""
    return torch.tensor([len(experts.get(layer, ())) for layer in layers], dtype=torch.float64)


def mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n − 1) over the rows of [L, E], [E] each; without a second row the latter is 0."""
    deviation = values.std(dim=0) if len(values) > 1 else torch.zeros_like(values[0])
    return values.mean(dim=0), deviation


def over_cells(values: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, lowest and highest over the cells of a row, each [L], of measures [L]."""
    stacked = torch.stack(list(values))
    return stacked.mean(dim=0), stacked.amin(dim=0), stacked.amax(dim=0)
