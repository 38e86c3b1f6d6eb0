"""Groups of experts that act as one: a coarse-grained model simulated with a fine-grained one (ESFT paper, Appendix C).

Experts that the same tokens are sent to are grouped, all groups of one size. Each group then has one gate: every tensor
of a router has a row for each expert, and the rows of a group are replaced by their mean, so that its experts get equal
logits and the router's own top-k takes whole groups. That is all there is to it in a checkpoint: the merged model is a
plain one, which any server runs. What is averaged are logits, so gates by their geometric mean, up to the router's
normalisation; averages of the gates themselves would need another router.

It works wherever equal logits give equal gates. Where the router's k is no whole number of groups, it becomes the
nearest one (at a tie an even one), in the configuration too. Routers that first choose blocks of experts (group-
limited) are grouped within those blocks. Two groups whose gates round to the same number may be mixed at the edge of
the top k: in float32 that does not happen in practice, with gates in bfloat16 it can.
"""

from collections.abc import Mapping
from functools import cache
from itertools import chain, combinations
from math import comb

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.scores import Scores
from esft_bench.methods.moe.selection import Selection
from esft_bench.methods.moe.view import MoeLayer, moe_layers, router_parameters

Groups = dict[int, list[list[int]]]
"""By layer number, the groups: expert ids, ascending; groups are numbered by their lowest expert."""
TOP_K = "num_experts_per_tok"
"""What configurations call the number of experts a token is sent to."""
MOST_GROUPS = 4_000_000
"""How many groups of a layer are looked at to find the best, at most."""
BLOCKS = ("num_group", "n_group")
"""What routers call the number of blocks from which they choose before they choose experts."""


def group_experts(model: nn.Module, seen: Profile, size: int) -> Groups:
    """Group the experts of each layer by the company they keep in a profile, `size` to a group.

    Experts i and j are as similar as the rows of the co-occurrence matrix C are (C_ij: tokens sent to both, C_ii = 0):

        sim(i, j) = C_i · C_j / (‖C_i‖ ‖C_j‖)                                                             (similarity)

    Of all groups of that size the one whose experts are most similar, on average over its pairs, is taken, then the
    best of what is left, and so on; of equals the lowest ids. That is the paper's search. Where there are too many
    groups to look at (`can_search`) one is grown instead: the most similar pair left, then the expert most similar to
    the members on average, until the group is full.

    Raises MethodError where the model cannot be grouped so, or the profile is of another model.
    """
    layers = moe_layers(model)
    if seen.layers != tuple(layers):
        raise MethodError(f"the profile is of layers {list(seen.layers)}, the model's are {list(layers)}")
    groups: Groups = {}
    for row, (index, layer) in enumerate(layers.items()):
        blocks = check_groups(model, layer, size)
        similar = _similarity(seen.measured("pair_counts")[row])
        per_block = layer.num_experts // blocks
        starts = range(0, layer.num_experts, per_block)
        groups[index] = [group for start in starts for group in _grouped(similar, start, start + per_block, size)]
    return groups


def check_groups(model: nn.Module, layer: MoeLayer, size: int) -> int:
    """Check that a layer can be grouped; returns the number of blocks its groups must not cross.

    Raises MethodError where sizes do not divide each other or the router is not made of a row for each expert.
    """
    router_parameters(model, layer)
    assert layer.router is not None
    router = model.get_submodule(layer.router)
    numbers = (getattr(router, name, None) for name in BLOCKS)
    blocks = next((number for number in numbers if isinstance(number, int) and number > 0), 1)
    per_block = layer.num_experts // blocks
    if per_block % size:
        raise MethodError(f"group_size is {size}, which does not divide the {per_block} experts of `{layer.router}`")
    chosen = whole_groups(layer.top_k, size)
    if chosen != layer.top_k and getattr(getattr(model, "config", None), TOP_K, None) != layer.top_k:
        raise MethodError(f"group_size is {size}, and the configuration has no `{TOP_K}` to make {chosen}")
    for name, tensor in router.state_dict().items():
        if not tensor.dim() or len(tensor) != layer.num_experts:
            raise MethodError(
                f"`{layer.router}.{name}` has no row for each of {layer.num_experts} experts, so a group's experts "
                "cannot be given one gate"
            )
    return blocks


def whole_groups(top_k: int, size: int) -> int:
    """Experts a token is sent to in the coarse-grained model: the whole number of groups nearest to `top_k`."""
    return size * max(1, round(top_k / size))


def _similarity(pairs: Tensor) -> Tensor:
    """Cosine similarity of the rows of a co-occurrence matrix [E, E], its diagonal left out; 0 for unused experts."""
    pairs = pairs.clone().fill_diagonal_(0)
    rows = torch.nn.functional.normalize(pairs, dim=1)
    return rows @ rows.T


def can_search(experts: int, size: int) -> bool:
    """Whether all groups of a size that some experts make can be looked at: 64 experts in fours, not in eights."""
    return comb(experts, size) <= MOST_GROUPS


def _grouped(similar: Tensor, start: int, stop: int, size: int) -> list[list[int]]:
    """Groups of the experts from `start` to `stop`, in the order of their lowest ids."""
    if size == 1:
        return [[expert] for expert in range(start, stop)]
    if can_search(stop - start, size):
        found = _best_groups(similar[start:stop, start:stop], size)
        return sorted([start + expert for expert in group] for group in found)
    return sorted(_grown(similar, start, stop, size))


def _best_groups(similar: Tensor, size: int) -> list[list[int]]:
    """The best of all groups, then the best of those that share no expert with it, and so on."""
    groups = _all_groups(len(similar), size)
    total = sum(similar[groups[:, i], groups[:, j]] for i, j in combinations(range(size), 2))
    assert isinstance(total, Tensor)
    found: list[list[int]] = []
    for _ in range(len(similar) // size):
        best = groups[int(total.argmax())]
        found.append(best.tolist())
        total[torch.isin(groups, best).any(1)] = -torch.inf
    return found


@cache
def _all_groups(experts: int, size: int) -> Tensor:
    """All groups [C(E, size), size] of expert ids, in ascending order."""
    flat = np.fromiter(chain.from_iterable(combinations(range(experts), size)), dtype=np.int64)
    return torch.from_numpy(flat.reshape(-1, size))


def _grown(similar: Tensor, start: int, stop: int, size: int) -> list[list[int]]:
    """Groups that are grown, one after another, from the most similar pair left."""
    free, groups = list(range(start, stop)), []
    while free:
        group = list(_closest(similar, free))
        while len(group) < size:
            others = [expert for expert in free if expert not in group]
            mean = similar[others][:, group].mean(1)
            group.append(others[int(mean.argmax())])
        free = [expert for expert in free if expert not in group]
        groups.append(sorted(group))
    return groups


def _closest(similar: Tensor, free: list[int]) -> tuple[int, int]:
    """The most similar pair; of equals the first."""
    among = similar[free][:, free].triu(1) + torch.full((len(free), len(free)), -torch.inf).tril()
    first, second = divmod(int(among.argmax()), len(free))
    return free[first], free[second]


def group_scores(scores: Scores, groups: Groups) -> Scores:
    """The scores of groups, [L, E / size]: what their experts have together."""
    rows = [
        torch.stack([row[group].sum() for group in groups[layer]])
        for layer, row in zip(scores.layers, scores.values, strict=True)
    ]
    return Scores(scores.layers, torch.stack(rows), scores.signed)


def experts_of_groups(chosen: Selection, groups: Groups) -> Selection:
    """The experts of chosen groups, group by group."""
    return {layer: [expert for group in ids for expert in groups[layer][group]] for layer, ids in chosen.items()}


class GroupMean(nn.Module):
    """A parametrization: rows [E, …] become the means of their groups, and stay equal while they are trained."""

    def __init__(self, groups: list[list[int]]) -> None:
        super().__init__()
        members = torch.tensor(groups)  # [G, size]
        place = torch.empty(members.numel(), dtype=torch.long)
        place[members.reshape(-1)] = torch.arange(len(members)).repeat_interleave(members.shape[1])
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[E, …] → [E, …]."""
        return rows[self.members].mean(1)[self.place]  # type: ignore[index]


def use_grouped_routers(model: PreTrainedModel, groups: Mapping[int, list[list[int]]]) -> None:
    """Have the routers of `model` give each group one gate, in place: the simulated coarse-grained model.

    Parameters, and buffers (a router's correction bias), get a parametrization, through which they can be trained, and
    read where they have no values yet. `groups` must have passed `check_groups`.
    """
    for index, layer in moe_layers(model).items():
        _route_to(model, layer, whole_groups(layer.top_k, len(groups[index][0])))
        assert layer.router is not None
        router = model.get_submodule(layer.router)
        mean, device = GroupMean(groups[index]), layer.experts.get_parameter("down_proj").device
        if device.type != "meta":
            mean.to(device)
        for name, _ in [*router.named_parameters(), *router.named_buffers()]:
            path, _, own = name.rpartition(".")
            parametrize.register_parametrization(router.get_submodule(path), own, mean)


def _route_to(model: PreTrainedModel, layer: MoeLayer, top_k: int) -> None:
    """Send each token of a layer to `top_k` experts."""
    assert layer.router is not None
    router = model.get_submodule(layer.router)
    for holder, name in ((router, "top_k"), (router, TOP_K), (model.config, TOP_K)):
        if getattr(holder, name, None) == layer.top_k:
            setattr(holder, name, top_k)


def settle_routers(model: PreTrainedModel) -> dict[str, Tensor]:
    """Make the group means the routers' own weights, in place, and return all tensors of routers by name."""
    tensors: dict[str, Tensor] = {}
    for layer in moe_layers(model).values():
        assert layer.router is not None
        router = model.get_submodule(layer.router)
        for module in list(router.modules()):
            for name in list(getattr(module, "parametrizations", {})):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        tensors |= {f"{layer.router}.{name}": tensor for name, tensor in router.state_dict().items()}
    return tensors
