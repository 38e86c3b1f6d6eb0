"""Profiles, scores and selections: the laws they keep."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.atomic import write_json
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.observed import observed
from esft_bench.methods.moe.profile import STATISTICS, Profile, profile
from esft_bench.methods.moe.scores import Scores, expert_scores
from esft_bench.methods.moe.selection import check, draw, highest, lowest, select
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.top_k_experts import TopKExperts
from esft_bench.methods.unrelated_experts import UnrelatedExperts
from tests.conftest import build
from tests.methods.helpers import MOE, TRAINING, Outcome, load, logits, profiled, tokens

Models = Callable[..., PreTrainedModel]
Checkpoints = Callable[[str], Path]

rows = st.lists(st.integers(0, 10_000), min_size=1, max_size=64).map(lambda row: [v / 10_000 for v in row])
thresholds = st.integers(1, 100).map(lambda percent: percent / 100)


def one_layer(row: list[float]) -> Scores:
    return Scores((0,), torch.tensor([row], dtype=torch.float64))


@given(rows, thresholds)
def test_the_selection_reaches_p_and_no_expert_of_it_can_be_spared(row: list[float], p: float) -> None:
    chosen = select(one_layer(row), p)[0]
    total = math.fsum(row[expert] for expert in chosen)
    assert len(set(chosen)) == len(chosen)
    assert total >= p - 1e-6 or len(chosen) == sum(value > 0 for value in row)
    if chosen:
        assert total - row[chosen[-1]] < p


@given(rows, thresholds)
def test_the_selection_is_ordered_by_score_then_by_id_and_leaves_out_nothing_better(row: list[float], p: float) -> None:
    chosen = select(one_layer(row), p)[0]
    keys = [(-row[expert], expert) for expert in chosen]
    assert keys == sorted(keys)
    left = [(-value, expert) for expert, value in enumerate(row) if expert not in chosen]
    assert not keys or not left or max(keys) < min(left)


@given(rows, thresholds, thresholds)
def test_a_higher_threshold_only_adds_experts(row: list[float], p: float, q: float) -> None:
    low, high = (select(one_layer(row), value)[0] for value in sorted((p, q)))
    assert high[: len(low)] == low


@given(
    st.dictionaries(st.integers(0, 60), st.integers(0, 8).map(lambda count: list(range(count))), min_size=1),
    st.integers(0, 2**32),
)
def test_a_draw_has_the_counts_of_the_selection_and_distinct_known_experts(
    selection: dict[int, list[int]], seed: int
) -> None:
    drawn = draw(selection, 8, seed)
    assert drawn == draw(selection, 8, seed)
    for layer, chosen in selection.items():
        assert len(set(drawn[layer])) == len(drawn[layer]) == len(chosen)
        assert set(drawn[layer]) <= set(range(8))


def test_a_draw_prefers_no_expert() -> None:
    counts = torch.zeros(8)
    for seed in range(2000):
        counts[draw({0: [0, 1]}, 8, seed)[0]] += 1
    assert (counts - 500).abs().max() < 100  # five standard deviations


@given(rows, st.data())
def test_the_highest_and_the_lowest_experts_are_disjoint_parts_of_one_order(
    row: list[float], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(row)))
    best = highest(one_layer(row), count)[0]
    worst = lowest(one_layer(row), {0: len(row) - count})[0]
    assert len(best) == count
    assert [*best, *reversed(worst)] == highest(one_layer(row), len(row))[0]
    assert not best or not worst or min(row[expert] for expert in best) >= max(row[expert] for expert in worst)


@given(rows, thresholds)
def test_a_selection_by_threshold_starts_the_order_of_the_highest(row: list[float], p: float) -> None:
    chosen = select(one_layer(row), p)
    assert highest(one_layer(row), len(chosen[0])) == chosen


def test_unrelated_experts_have_the_counts_of_the_selection_and_its_lowest_scores(tiny_model: Models) -> None:
    seen = profiled(tiny_model("deepseek-v2"))
    of = EsftToken(p=0.3)
    scores = expert_scores(seen, "token")
    unrelated = UnrelatedExperts(of=of).select(seen, seed=1)
    assert unrelated == UnrelatedExperts(of=of).select(seen, seed=2)
    for row, (layer, chosen) in zip(scores.values, of.select(seen).items(), strict=True):
        assert len(unrelated[layer]) == len(chosen) <= 4
        assert not set(unrelated[layer]) & set(chosen)
        assert row[unrelated[layer]].tolist() == row.sort().values[: len(chosen)].tolist()


def test_more_experts_than_a_layer_has_are_refused(tiny_model: Models) -> None:
    model = tiny_model("deepseek-v2")
    with pytest.raises(MethodError, match="layer 1 has 8 experts, 9 are asked for"):
        TopKExperts(count=9).prepare(model, Context(seed=0, profile=profiled(model)))
    with pytest.raises(MethodError, match="layer 1 has 8 experts, 9 are asked for"):
        TopKExperts(count=9).check_model(model)
    with pytest.raises(ValidationError):
        TopKExperts(count=0)


@pytest.mark.parametrize("p", [0, -0.1, 1.01, math.nan])
def test_a_threshold_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(MethodError, match="p is"):
        select(one_layer([1.0]), p)
    with pytest.raises(ValidationError):
        EsftToken(p=p)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_score_that_is_no_score_is_refused_by_name(value: float) -> None:
    for choose in (lambda scores: select(scores, 0.2), lambda scores: highest(scores, 1), lambda s: lowest(s, {0: 1})):
        with pytest.raises(MethodError, match="expert 1 in layer 0"):
            choose(one_layer([0.5, value]))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({9: [0]}, "names layer 9; the model's MoE layers are 1, 2"),
        ({1: [8]}, "expert 8 in layer 1"),
        ({1: [-1]}, "expert -1 in layer 1"),
        ({1: [3, 3]}, "layer 1 twice"),
        ({1: [], 2: []}, "empty"),
        ({}, "empty"),
    ],
)
def test_a_selection_that_does_not_fit_the_model_is_refused_by_name(
    tiny_model: Models, selection: dict[int, list[int]], message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        check(selection, moe_layers(tiny_model("deepseek-v2")))


def summary(folder: Path, experts: int, layers: tuple[int, ...] = (1, 2), value: float | None = None) -> Path:
    """An official score file in which expert 1 of each layer leads, or has the score `value`."""
    row = {str(expert): 0.1 for expert in range(experts)} | {"1": 0.9 if value is None else value}
    path = folder / "summary.json"
    path.write_text(json.dumps({"token_scores": {str(layer): row for layer in layers}}))
    return path


def test_a_given_selection_is_trained_whatever_the_profile_says(tiny_model: Models, tmp_path: Path) -> None:
    write_json(tmp_path / "expert_cfg.json", {"experts": {"1": [7, 2], "2": [0]}, "shared_experts": False})
    model = tiny_model("deepseek-v2")
    for source in (tmp_path, tmp_path / "expert_cfg.json", {1: [7, 2], 2: [0]}):
        assert EsftGate.model_validate({"selection": source}).select(profiled(model)) == {1: [7, 2], 2: [0]}
    method = EsftToken.model_validate({"selection": str(tmp_path)})
    method.check_model(model)
    method.prepare(model, Context(seed=0, profile=profiled(model)))
    assert {i: selected_experts(layer) for i, layer in moe_layers(model).items()} == {1: [7, 2], 2: [0]}
    (tmp_path / "expert_cfg.json").unlink()
    assert EsftToken.model_validate(method.model_dump(mode="json")).selection == {1: [7, 2], 2: [0]}


def test_ablations_take_their_counts_from_a_given_selection(tiny_model: Models) -> None:
    of = EsftToken(selection={1: [7, 2, 3], 2: [0]})
    for ablation in (RandomExperts(of=of), UnrelatedExperts(of=of)):
        chosen = ablation.select(profiled(tiny_model("deepseek-v2")), seed=0)
        assert {layer: len(ids) for layer, ids in chosen.items()} == {1: 3, 2: 1}


def test_given_scores_are_selected_from_in_place_of_the_profiles(tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model("deepseek-v2")
    method = EsftToken.model_validate({"scores": str(summary(tmp_path, 8)), "p": 1.0})
    method.check_model(model)
    assert method.select(profiled(model)) == {1: [1, 0], 2: [1, 0]}
    assert EsftToken.model_validate(method.model_dump(mode="json")) == method


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({9: [0]}, "names layer 9; the model's MoE layers are 1, 2"),
        ({1: [8]}, "expert 8 in layer 1"),
        ({1: []}, "empty"),
    ],
)
def test_a_given_selection_of_another_model_is_refused_before_anything_is_trained(
    selection: dict[int, list[int]], message: str
) -> None:
    with torch.device("meta"):
        model = build("deepseek-v2")
    for method in (
        EsftGate(selection=selection),
        EsftLora(selection=selection),
        RandomExperts(of=EsftToken(selection=selection)),
    ):
        with pytest.raises(MethodError, match=message):
            method.check_model(model)


@pytest.mark.parametrize(("experts", "layers"), [(6, (1, 2)), (8, (1, 2, 3)), (8, (0, 1))])
def test_a_score_file_of_another_model_is_refused(tmp_path: Path, experts: int, layers: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build("deepseek-v2")
    method = EsftToken.model_validate({"scores": str(summary(tmp_path, experts, layers))})
    with pytest.raises(MethodError, match=rf"given scores are of \[{experts}\] experts in layers .*{layers[-1]}\]"):
        method.check_model(model)


def test_files_that_hold_no_selection_or_no_scores_are_refused_by_name(tmp_path: Path) -> None:
    for settings, message in (
        ({"selection": str(tmp_path)}, r"is not an ESFT adapter: it has no expert_cfg\.json"),
        ({"scores": str(tmp_path / "none.json")}, r"no score file .*none\.json"),
        ({"scores": str(summary(tmp_path, 8, value=math.nan))}, "score of expert 1 in layer 1 is nan"),
        ({"scores": {1: [0.5, math.inf]}}, "score of expert 1 in layer 1 is inf"),
        ({"scores": str(tmp_path / "any.json"), "score": "contribution"}, "gate and token scores, not contribution"),
        ({"scores": {1: [1.0]}, "selection": {1: [0]}}, "give one of the two"),
    ):
        with pytest.raises(ValidationError, match=message):
            EsftToken.model_validate(settings)
    (tmp_path / "expert_cfg.json").write_text('{"experts": {"1": ["first"]}}')
    with pytest.raises(ValidationError, match=r"expert_cfg\.json: experts\.1\.0"):
        EsftToken.model_validate({"selection": str(tmp_path)})


@pytest.mark.parametrize("name", sorted(TRAINING.keys() - {"fft"}))
def test_every_method_that_touches_experts_refuses_a_dense_model_from_its_architecture_alone(name: str) -> None:
    with torch.device("meta"):
        dense, sparse = build("dense"), build("deepseek-v2")
    with pytest.raises(MethodError, match="LlamaForCausalLM is not a mixture-of-experts model"):
        TRAINING[name].check_model(dense)
    TRAINING[name].check_model(sparse)


def test_methods_that_touch_no_experts_take_a_dense_model() -> None:
    with torch.device("meta"):
        dense = build("dense")
    for method in (FullFineTuning(), Lora()):
        method.check_model(dense)


def test_a_profile_of_another_model_is_refused(tiny_model: Models) -> None:
    model, other = tiny_model("deepseek-v2"), profiled(tiny_model("olmoe"))
    with pytest.raises(MethodError, match="profile"):
        EsftToken().prepare(model, Context(seed=0, profile=other))
    with pytest.raises(MethodError, match="profile"):
        EsftToken().prepare(model, Context(seed=0))


def padded(ids: list[Tensor], left: bool) -> tuple[Tensor, Tensor]:
    """Samples of different lengths in one batch, with padding that must not count."""
    length = max(map(len, ids))
    batch, mask = torch.full((len(ids), length), 7), torch.zeros(len(ids), length, dtype=torch.long)
    for row, sample in enumerate(ids):
        place = slice(length - len(sample), None) if left else slice(0, len(sample))
        batch[row, place], mask[row, place] = sample, 1
    return batch, mask


@pytest.mark.parametrize("architecture", MOE)
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_the_profile_depends_on_neither_batching_nor_padding(tiny_model: Models, architecture: str, left: bool) -> None:
    model = tiny_model(architecture)
    samples = [row[:length] for row, length in zip(tokens(5, 16), (3, 16, 9, 1, 12), strict=True)]
    alone = profile(model, [padded([sample], left) for sample in samples])
    together = profile(model, [padded(samples[:2], left), padded(samples[2:], left)])
    assert (alone.tokens, alone.samples) == (together.tokens, together.samples) == (41, 5)
    for name in STATISTICS:
        torch.testing.assert_close(getattr(alone, name), getattr(together, name), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("architecture", MOE)
def test_a_profile_counts_every_token_once_for_each_of_its_experts(tiny_model: Models, architecture: str) -> None:
    seen = profiled(tiny_model(architecture))
    assert seen.token_counts.sum(1).tolist() == [seen.tokens * seen.top_k] * len(seen.layers)
    torch.testing.assert_close(seen.token_means.sum(1), torch.ones(len(seen.layers), dtype=torch.float64))
    assert ((seen.gate_sums > 0) == (seen.token_counts > 0)).all()


@pytest.mark.parametrize("architecture", MOE)
def test_a_profile_measures_what_running_each_expert_alone_gives(tiny_model: Models, architecture: str) -> None:
    model = tiny_model(architecture)
    layer = moe_layers(model)[1]
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    with layer.experts.register_forward_pre_hook(lambda _, args: calls.append(args)):
        seen = profiled(model)
    hidden, index, weights = calls[0]
    row, norms = seen.layers.index(1), torch.zeros(*index.shape, dtype=torch.float64)
    with torch.no_grad():
        for place in range(index.shape[1]):
            alone = layer.experts(hidden, index[:, place : place + 1], torch.ones_like(weights[:, :1]))
            norms[:, place] = alone.double().norm(dim=1)
    parts = norms * weights
    shares = parts / parts.sum(1, keepdim=True)
    pairs = torch.zeros_like(seen.measured("pair_counts")[row])
    for chosen in index:
        pairs[chosen.unsqueeze(1), chosen] += 1
    for name, values in (("norm_sums", norms), ("contribution_sums", shares)):
        expected = torch.zeros(layer.num_experts, dtype=torch.float64).index_add(0, index.flatten(), values.flatten())
        torch.testing.assert_close(seen.measured(name)[row], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(seen.measured("pair_counts")[row], pairs)


@pytest.mark.parametrize("architecture", MOE)
def test_a_model_that_is_looked_at_computes_what_it_does_alone_to_the_last_bit(
    tiny_model: Models, architecture: str
) -> None:
    model = tiny_model(architecture)
    alone = logits(model)
    layers = moe_layers(model)
    with observed(model, layers, {index: lambda *_: None for index in layers}):
        assert torch.equal(logits(model), alone)
    assert torch.equal(logits(model), alone)


@pytest.mark.parametrize(
    "method",
    [FullFineTuning(), Lora(rank=2, experts=True), EsftToken(), EsftLora(rank=2)],
    ids=["fft", "lora", "esft-token", "esft-lora"],
)
def test_a_profile_of_a_trained_model_is_that_of_its_merged_checkpoint(
    tiny_checkpoint: Checkpoints, method: Method
) -> None:
    outcome = Outcome(method, tiny_checkpoint("deepseek-v2"))
    trained = profile(outcome.model, [(tokens(), torch.ones_like(tokens()))], outcome.layers)
    merged = profiled(load(outcome.out))
    for name in STATISTICS:
        torch.testing.assert_close(getattr(trained, name), getattr(merged, name), atol=1e-4, rtol=1e-4)
    assert not torch.equal(trained.gate_sums, outcome.seen.gate_sums)


def test_gates_are_those_of_the_paper_whatever_the_routers_scaling_factor(tiny_model: Models) -> None:
    seen = [profiled(tiny_model("deepseek-v2", routed_scaling_factor=factor)) for factor in (1.0, 4.0)]
    first = [one.gate_sums[0] for one in seen]  # later layers see other inputs
    torch.testing.assert_close(first[0], first[1])
    assert float(first[0].sum()) / seen[0].tokens < 1


def test_a_profile_leaves_the_model_as_it_was(tiny_model: Models) -> None:
    model = tiny_model("olmoe").train()
    profiled(model)
    assert model.training
    assert model.config._experts_implementation == "grouped_mm"
    assert not any("_observer" in vars(module) for module in model.modules())


def test_a_profile_of_nothing_is_refused(tiny_model: Models) -> None:
    with pytest.raises(MethodError, match="no token"):
        profile(tiny_model("olmoe"), [])


def test_a_profile_is_read_as_it_was_written(tiny_model: Models, tmp_path: Path) -> None:
    seen = profiled(tiny_model("deepseek-v2"))
    seen.save(tmp_path)
    again = Profile.load(tmp_path)
    assert (again.layers, again.top_k, again.tokens, again.samples) == ((1, 2), 3, seen.tokens, seen.samples)
    assert all(torch.equal(getattr(again, name), getattr(seen, name)) for name in STATISTICS)
    (tmp_path / "profile.safetensors").write_bytes(b"not one")
    with pytest.raises(MethodError, match="not an expert profile"):
        Profile.load(tmp_path)
