"""Profiles: what one pass over the data measures, whatever the batching, and what it leaves as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Method
from esft_bench.methods.moe.observed import observed
from esft_bench.methods.moe.profile import STATISTICS, Profile, profile
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import (
    MOE,
    Outcome,
    load,
    logits,
    profiled,
    tokens,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


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
