"""Profiles as the released ones look, for what has to be known or tried before there are any."""

from collections.abc import Mapping

import torch

from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.view import MoeLayer

GATE_MASS = 0.4
CONCENTRATION = 0.5


def assumed_profiles(layers: Mapping[int, MoeLayer]) -> tuple[Profile, Profile]:
    """A profile of a task as the released ones look, and one of general data that favours other experts.

    An expert's share falls with the square root of its rank: p = 0.2 then takes 5 of 64 experts, as the released
    configurations do on average (83 to 153 experts in 26 layers).
    """
    first = next(iter(layers.values()))
    share = torch.arange(1, first.num_experts + 1, dtype=torch.float64) ** -CONCENTRATION
    share = (share / share.sum()).expand(len(layers), -1)
    return _profile(tuple(layers), first.top_k, share), _profile(tuple(layers), first.top_k, share.flip(1))


def _profile(layers: tuple[int, ...], top_k: int, share: torch.Tensor, tokens: int = 100_000) -> Profile:
    counts = share * tokens * top_k
    return Profile(
        layers,
        top_k,
        tokens,
        1,
        token_counts=counts,
        gate_sums=share * tokens * GATE_MASS,
        token_means=share,
        gate_means=share * GATE_MASS,
        router_sums=share * tokens,
        norm_sums=counts.clone(),
        contribution_sums=share * tokens,
        score_norm_sums=counts.clone(),
        pair_counts=counts.unsqueeze(1) * counts.unsqueeze(2) / tokens,
    )
