"""Groups of experts: the laws of grouping, and a coarse-grained model that is the same everywhere."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.grouping import (
    can_search,
    check_groups,
    experts_of_groups,
    group_experts,
    group_scores,
    use_grouped_routers,
    whole_groups,
)
from esft_bench.methods.moe.layout import read_config
from esft_bench.methods.moe.observed import observed
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.scores import Scores, expert_scores
from esft_bench.methods.moe.selection import select
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from tests.conftest import build
from tests.methods.helpers import MOE, Outcome, load, logits, profiled, tensors_of_routers
from tests.methods.helpers import tensors_of_experts as tensors_of

PAIRS: dict[str, dict[str, Any]] = {name: {"num_experts_per_tok": 4} for name in MOE} | {
    "mixtral": {"num_experts_per_tok": 2},
    "deepseek-v3": {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1},
}
"""Settings under which pairs of experts can be grouped; the default architectures send tokens to three."""
LIMITED = {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}


MODEL = build("deepseek-v2", num_experts_per_tok=4)
SEEN = profiled(MODEL)


def together(pairs: Tensor) -> Profile:
    """A profile of the model above with this co-occurrence matrix in each layer."""
    return replace(SEEN, pair_counts=pairs.double().expand(len(SEEN.layers), *pairs.shape))


@given(st.lists(st.integers(0, 50), min_size=64, max_size=64), st.sampled_from([1, 2, 4]))
def test_groups_are_of_one_size_and_have_every_expert_once(counts: list[int], size: int) -> None:
    matrix = torch.tensor(counts).view(8, 8)
    for groups in group_experts(MODEL, together(matrix + matrix.T), size).values():
        assert {len(group) for group in groups} == {size}
        assert sorted(expert for group in groups for expert in group) == list(range(8))
        assert groups == sorted(sorted(group) for group in groups)


def test_experts_that_keep_the_same_company_are_grouped() -> None:
    """0 and 5, 1 and 4, 2 and 7, 3 and 6 go with the same third experts; the diagonal must not count."""
    rows = {0: [1], 5: [1], 1: [0, 5], 4: [0, 5], 2: [3], 7: [3], 3: [2, 7], 6: [2, 7]}
    matrix = torch.zeros(8, 8)
    for expert, others in rows.items():
        matrix[expert, others] = 3
    matrix += 1000 * torch.eye(8)
    groups = group_experts(MODEL, together(matrix), 2)
    assert groups[1] == groups[2] == [[0, 5], [1, 4], [2, 7], [3, 6]]


def similar_to(seed: int, experts: int) -> Tensor:
    counts = torch.rand(experts, experts, generator=torch.Generator().manual_seed(seed)).double() ** 4
    return (counts + counts.T).fill_diagonal_(0)


def appendix_c(pairs: Tensor, size: int) -> list[list[int]]:
    """Appendix C, written down: of all groups of what is left, the one whose pairs have the highest mean cosine."""
    rows = [row.tolist() for row in pairs]
    norms = [math.sqrt(sum(value * value for value in row)) for row in rows]
    left, groups = list(range(len(rows))), []

    def cosine(i: int, j: int) -> float:
        return math.fsum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / (norms[i] * norms[j])

    while left:
        every = itertools.combinations(left, size)
        best = max(every, key=lambda group: sum(cosine(i, j) for i, j in itertools.combinations(group, 2)))
        groups.append(list(best))
        left = [expert for expert in left if expert not in best]
    return sorted(groups)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_groups_is_taken_as_the_paper_does(seed: int, size: int) -> None:
    pairs = similar_to(seed, 8)
    assert group_experts(MODEL, together(pairs), size)[1] == appendix_c(pairs, size)


def test_where_there_are_too_many_groups_they_are_grown_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_search(64, 4)
    assert not can_search(64, 8)
    method, context = FullFineTuning(group_size=4), Context(0, general=SEEN)
    assert method.remarks(context) == []
    monkeypatch.setattr("esft_bench.methods.moe.grouping.MOST_GROUPS", 69)  # 8 experts make 70 groups of four
    assert "grown from the most similar pair, not the best of all 70 groups" in method.remarks(context)[0]
    assert FullFineTuning(group_size=2).remarks(context) == []
    for groups in group_experts(MODEL, SEEN, 4).values():
        assert sorted(expert for group in groups for expert in group) == list(range(8))


def test_scores_of_groups_are_sums_and_selected_groups_are_trained_whole() -> None:
    groups = {3: [[0, 2], [1, 3]]}
    scores = group_scores(Scores((3,), torch.tensor([[0.1, 0.3, 0.1, 0.5]]).double()), groups)
    torch.testing.assert_close(scores.values, torch.tensor([[0.2, 0.8]]).double())
    assert experts_of_groups(select(scores, 0.7), groups) == {3: [1, 3]}
    assert experts_of_groups(select(scores, 0.9), groups) == {3: [1, 3, 0, 2]}


def routed(model: PreTrainedModel) -> list[tuple[Tensor, Tensor]]:
    """The experts and gates of every layer on the tests' tokens."""
    calls: list[tuple[Tensor, Tensor]] = []
    layers = moe_layers(model)
    with observed(model, layers, {i: lambda index, gates, _: calls.append((index, gates)) for i in layers}):
        logits(model)
    return calls


@pytest.mark.parametrize(("architecture", "changes"), [*PAIRS.items(), ("deepseek-v2", LIMITED), ("olmoe", {})])
def test_a_grouped_router_takes_whole_groups_and_gives_their_experts_one_gate(
    architecture: str, changes: dict[str, Any]
) -> None:
    model = build(architecture, **changes)
    groups = group_experts(model, profiled(model), 2)
    use_grouped_routers(model, groups)
    found = routed(model)
    assert len(found) == len(groups)
    for (index, gates), of_layer in zip(found, groups.values(), strict=True):
        place = {expert: number for number, group in enumerate(of_layer) for expert in group}
        numbers = torch.tensor([[place[int(expert)] for expert in row] for row in index])
        ranks = numbers.argsort(dim=1, stable=True)
        numbers, gates = numbers.gather(1, ranks).unflatten(1, (-1, 2)), gates.gather(1, ranks).unflatten(1, (-1, 2))
        assert torch.equal(numbers[..., 0], numbers[..., 1])
        torch.testing.assert_close(gates[..., 0], gates[..., 1], rtol=1e-5, atol=1e-7)
        assert len(numbers.unique()) > 1


@pytest.mark.parametrize("architecture", MOE)
def test_groups_of_one_change_nothing(architecture: str) -> None:
    model = build(architecture)
    before = logits(model)
    groups = group_experts(model, profiled(model), 1)
    assert all(of_layer == [[expert] for expert in range(8)] for of_layer in groups.values())
    use_grouped_routers(model, groups)
    assert torch.equal(logits(model), before)


METHODS: dict[str, Method] = {
    "esft-token": EsftToken(group_size=2, p=0.3),
    "esft-router": EsftRouter(group_size=2, p=0.3),
    "fft": FullFineTuning(group_size=2),
}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [*((name, PAIRS[name]) for name in ("deepseek-v2", "deepseek-v3", "granite-moe", "gpt-oss")), ("qwen3-moe", {})],
)
@pytest.mark.parametrize("name", METHODS)
def test_the_merged_checkpoint_is_the_coarse_model_as_it_was_trained(
    tmp_path: Path, architecture: str, changes: dict[str, Any], name: str
) -> None:
    base = tmp_path / "base"
    build(architecture, **changes).save_pretrained(base)
    outcome = Outcome(METHODS[name], base)
    merged, general = load(outcome.out), outcome.context.general
    assert general is not None
    torch.testing.assert_close(logits(merged), outcome.logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(outcome.prepared_logits, outcome.base_logits, atol=1e-3)
    assert not torch.allclose(outcome.logits, outcome.prepared_logits, atol=1e-3)
    assert merged.config.num_experts_per_tok == whole_groups(outcome.seen.top_k, 2)
    groups = group_experts(merged, general, 2)
    for layer in moe_layers(merged).values():
        for rows in merged.get_submodule(str(layer.router)).state_dict().values():
            for first, second in groups[layer.index]:
                assert torch.equal(rows[first], rows[second])
    if name != "fft":
        chosen = read_config(outcome.adapter).experts
        assert all({*ids} == {e for g in groups[index] if g[0] in ids for e in g} for index, ids in chosen.items())
        changed = outcome.changed()
        assert changed == tensors_of(changed, chosen) | {n for n in changed if "router" in n or ".gate." in n}
        assert tensors_of_routers(changed)


@pytest.mark.parametrize(
    ("top_k", "size", "expected"), [(6, 1, 6), (6, 2, 6), (6, 4, 8), (6, 8, 8), (6, 3, 6), (8, 16, 16)]
)
def test_tokens_go_to_the_nearest_whole_number_of_groups(top_k: int, size: int, expected: int) -> None:
    assert whole_groups(top_k, size) == expected


def test_groups_are_selected_by_the_coarse_model_itself() -> None:
    model = build("deepseek-v2", num_experts_per_tok=4)
    seen = profiled(model)
    groups = group_experts(model, seen, 2)
    EsftGate(group_size=2, p=0.05).prepare(model, Context(0, seen, seen, profiled))
    coarse = profiled(model)
    for row, index in enumerate(coarse.layers):
        for first, second in groups[index]:
            assert coarse.token_counts[row, first] == coarse.token_counts[row, second]
    expected = experts_of_groups(select(group_scores(expert_scores(coarse, "gate"), groups), 0.05), groups)
    found = {i: layer.experts.get_buffer("selected_experts").tolist() for i, layer in moe_layers(model).items()}
    assert found == expected


@pytest.mark.parametrize(
    ("architecture", "changes", "size", "message"),
    [
        (
            "deepseek-v2",
            {},
            3,
            r"3, which does not divide the 8 experts of `model\.layers\.1\.mlp\.gate`",
        ),
        ("deepseek-v3", {}, 4, "does not divide the 2 experts"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_before_training(
    architecture: str, changes: dict[str, Any], size: int, message: str
) -> None:
    with torch.device("meta"):
        model = build(architecture, **changes)
    for method in (FullFineTuning(group_size=size), EsftToken(group_size=size)):
        with pytest.raises(MethodError, match=message):
            method.check_model(model)


def test_a_router_of_another_form_is_refused() -> None:
    model = build("deepseek-v2", num_experts_per_tok=4)
    layer = moe_layers(model)[1]
    model.get_submodule(str(layer.router)).add_module("first", nn.Linear(32, 16))
    with pytest.raises(MethodError, match=r"mlp\.gate\.first\.weight` has no row for each of 8 experts"):
        check_groups(model, layer, 2)


def test_what_groups_cannot_be_used_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="counts of experts, not of groups"):
        RandomExperts(of=EsftToken(group_size=2))
    with pytest.raises(ValidationError, match="no selection of groups"):
        EsftToken(group_size=2, selection={1: [0]})
    model = build("deepseek-v2", num_experts_per_tok=4)
    with pytest.raises(MethodError, match="profile of general data"):
        EsftToken(group_size=2).prepare(model, Context(0, profiled(model)))
