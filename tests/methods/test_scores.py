"""Scores: the rules for them, the official release's own numbers, and files of scores."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.method import Context
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.released_scores import read_logs, read_summary
from esft_bench.methods.moe.scores import (
    Score,
    Scores,
    as_shares,
    domain_advantage,
    expert_scores,
    over_layers,
)
from esft_bench.methods.moe.selection import select

OFFICIAL = Path(__file__).parents[3] / "shared" / "data" / "esft_official"


@pytest.fixture
def official() -> Path:
    if not OFFICIAL.is_dir():
        pytest.skip("skipped, no data")
    return OFFICIAL


def two_samples() -> Profile:
    """Samples of 1 and of 3 tokens, two layers, top-1 of 2 experts."""
    return Profile(
        layers=(0, 1),
        top_k=1,
        tokens=4,
        samples=2,
        token_counts=torch.tensor([[1.0, 3.0], [4.0, 0.0]]).double(),
        gate_sums=torch.tensor([[0.5, 1.5], [2.0, 0.0]]).double(),
        token_means=torch.tensor([[0.5, 0.5], [1.0, 0.0]]).double(),
        gate_means=torch.tensor([[0.25, 0.25], [0.5, 0.0]]).double(),
        norm_sums=torch.tensor([[2.0, 2.0], [6.0, 0.0]]).double(),
        contribution_sums=torch.tensor([[1.0, 3.0], [4.0, 0.0]]).double(),
        score_norm_sums=torch.tensor([[1.0, 3.0], [4.0, 0.0]]).double(),
        router_sums=torch.tensor([[2.0, 2.0], [3.0, 1.0]]).double(),
    )


def test_the_score_rules_differ_as_defined() -> None:
    """Worked by hand."""
    by_hand = two_samples()
    assert expert_scores(by_hand, "token").values.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert expert_scores(by_hand, "gate").values.tolist() == [[0.125, 0.375], [0.5, 0.0]]
    assert expert_scores(by_hand, "token", "paper").values.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert expert_scores(by_hand, "gate", "paper").values.tolist() == [[0.25, 0.25], [0.5, 0.0]]
    assert expert_scores(by_hand, "token", "upstream_script").values.tolist() == [[0.2, 1.0], [0.8, 0.0]]
    assert expert_scores(by_hand, "output_norm").values.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert expert_scores(by_hand, "contribution").values.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert expert_scores(by_hand, "score_norm").values.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert expert_scores(by_hand, "router").values.tolist() == [[0.5, 0.5], [0.75, 0.25]]
    assert torch.equal(expert_scores(by_hand, "gate", "pooled").values, by_hand.gate_sums / 4)
    never = replace(by_hand, token_counts=torch.tensor([[4.0, 0.0], [4.0, 0.0]]).double())
    assert expert_scores(never, "token", "upstream_script").values.tolist() == [[0.5, 0.0], [0.5, 0.0]]


def test_p_is_a_share_of_a_layers_sum_where_scores_add_up_to_more_than_one() -> None:
    """Sigmoid routers without normalisation: a threshold of 0.1 would be passed by the first expert alone."""
    gates = torch.tensor([[1.2, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.1], [0.09, 0.08, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01]])
    sigmoid = Profile((0, 1), 2, 1, 1, gates, gates.double(), gates, gates.double())
    for rule in ("released", "paper"):
        assert EsftGate(p=0.5, score_rule=rule).select(sigmoid)[0] == [0, 1]
        assert EsftGate(p=0.1, score_rule=rule).select(sigmoid) == {0: [0], 1: [0, 1]}
    assert EsftGate(p=0.5, score_rule="upstream_script").select(sigmoid)[0] == [2]  # as the script has it
    (remark,) = EsftGate().remarks(Context(0, sigmoid))
    assert "so p is a share of their sum" in remark
    assert EsftGate().remarks(Context(0, two_samples())) == []


@given(st.lists(st.floats(1e-4, 1), min_size=2, max_size=64))
def test_scores_that_are_shares_but_for_rounding_are_left_as_they_are(row: list[float]) -> None:
    shares = torch.tensor([row], dtype=torch.float64)
    rounded = (shares / shares.sum()).round(decimals=4)
    assert torch.equal(as_shares(Scores((0,), rounded)).values, rounded)
    assert float(as_shares(Scores((0,), 4 * rounded + 0.1)).values.sum()) == pytest.approx(1)


def test_scores_of_outputs_are_refused_where_only_the_routing_was_seen() -> None:
    logged = replace(two_samples(), norm_sums=None, contribution_sums=None, score_norm_sums=None, router_sums=None)
    for score in ("output_norm", "contribution", "score_norm", "router"):
        with pytest.raises(MethodError, match="logs of the routing alone"):
            expert_scores(logged, score)
    with pytest.raises(MethodError, match="not known; take `score: gate`"):
        expert_scores(replace(two_samples(), router_sums=None), "router")


def test_a_difference_of_scores_has_no_threshold() -> None:
    with pytest.raises(MethodError, match="cannot be cumulated"):
        select(domain_advantage(two_samples(), two_samples()), 0.2)


def test_a_domain_advantage_of_two_models_is_refused() -> None:
    with pytest.raises(MethodError, match=r"layers \[0, 1\], the other 2 in layers \[0, 2\]"):
        domain_advantage(two_samples(), replace(two_samples(), layers=(0, 2)))


def test_gate_and_token_have_the_papers_thresholds() -> None:
    assert (EsftGate().score, EsftGate().p, EsftToken().score, EsftToken().p) == ("gate", 0.1, "token", 0.2)
    assert EsftGate().score_rule == "released"


@pytest.mark.parametrize("task", ["intent", "translation"])
def test_the_released_rule_rebuilds_the_released_selection_in_order(official: Path, task: str) -> None:
    released = json.loads((official / "expert_configs" / f"{task}.json").read_text())["experts"]
    scores = read_summary(official / "expert_scores" / task / "summary.json", "token")
    assert select(scores, 0.2) == {int(layer): ids for layer, ids in released.items()}
    assert len(released) == 26


@pytest.mark.parametrize(("task", "token", "gate", "script"), [("intent", 124, 123, 52), ("translation", 83, 77, 38)])
def test_the_rules_select_as_many_experts_as_known_of_the_release(
    official: Path, task: str, token: int, gate: int, script: int
) -> None:
    def selected(scores: Scores, p: float) -> int:
        return sum(map(len, select(scores, p).values()))

    summary = official / "expert_scores" / task / "summary.json"
    tokens_, gates = read_summary(summary, "token"), read_summary(summary, "gate")
    assert selected(tokens_, 0.2) == token
    assert selected(gates, 0.1) == gate
    assert selected(Scores(tokens_.layers, over_layers(tokens_.values)), 0.2) == script


@pytest.mark.parametrize("score", ["token", "gate"])
def test_the_raw_logs_rebuild_the_released_scores(official: Path, score: Score) -> None:
    folder = official / "expert_scores" / "translation"
    logged = read_logs(folder, num_experts=64, top_k=6)
    released = read_summary(folder / "summary.json", score)
    expected = released.values[[released.layers.index(layer) for layer in logged.layers]]
    assert logged.layers == (1, 14, 26)
    assert torch.equal(expert_scores(logged, score, "released").values, expected)
    assert 0.001 < (expert_scores(logged, score, "paper").values - expected).abs().max() < 0.007


def test_malformed_score_files_are_refused_with_the_place(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    with pytest.raises(MethodError, match=r"no score file .*summary\.json"):
        read_summary(summary, "token")
    summary.write_text('{"token_scores": {"1": {"0": 0.5, "2": 0.5}}}')
    with pytest.raises(MethodError, match=r"summary\.json: `token_scores`"):
        read_summary(summary, "token")
    summary.write_text('{"token_scores": {"1": {"0": 1.0}, "2": {"0": 0.5, "1": 0.5}}}')
    with pytest.raises(MethodError, match="layer 2 has 2 experts, layer 1 1"):
        read_summary(summary, "token")
    summary.write_text('{"token_scores": {"1": {"0": NaN}}}')
    with pytest.raises(MethodError, match="expert 0 in layer 1 is nan"):
        select(read_summary(summary, "token"), 0.2)
    (tmp_path / "expert_weights_1.txt").write_text("0\t1\t\t0.5\t0.5\n0\t1\t\t0.5\n")
    with pytest.raises(MethodError, match=r"expert_weights_1\.txt, line 2"):
        read_logs(tmp_path, num_experts=2, top_k=2)
    (tmp_path / "expert_weights_1.txt").write_text("0\t2\t\t0.5\t0.5\n")
    with pytest.raises(MethodError, match=r"line 1.*ids up to 2"):
        read_logs(tmp_path, num_experts=2, top_k=2)
