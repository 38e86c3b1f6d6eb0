"""Banks that change while a model trains: the model goes on as it was, and what was learned stays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from esft_bench.harness.training.optimizer import retarget
from esft_bench.methods.all_experts import AllExperts
from esft_bench.methods.changes import Done
from esft_bench.methods.esft_dynamic import EsftDynamic
from esft_bench.methods.esft_gradual import EsftGradual
from esft_bench.methods.moe.changing import ExpertChanges, change_experts
from esft_bench.methods.moe.experts import bank_weights, selected_experts, use_selective_experts
from esft_bench.methods.moe.layout import read_config
from esft_bench.methods.moe.profile import profile
from esft_bench.methods.moe.running import Reselection
from esft_bench.methods.moe.view import moe_layers
from tests.methods.helpers import backward, each_moe, load, logits, pieces, seen_by, tensors_of_experts, tokens

Models = Callable[..., PreTrainedModel]
COURSE: tuple[list[int], ...] = ([5, 2], [2, 7, 1], [], [5, 1, 0])
"""The experts of a layer, one selection after another: some stay, leave, come, and come again."""


def same_in_all(model: PreTrainedModel, experts: list[int]) -> dict[int, list[int]]:
    return dict.fromkeys(moe_layers(model), experts)


def steps(model: PreTrainedModel, optimizer: torch.optim.Optimizer, count: int = 2) -> None:
    model.train()
    for _ in range(count):
        backward(model)
        optimizer.step()
        optimizer.zero_grad()


def trained(model: PreTrainedModel) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def through(model: PreTrainedModel) -> torch.optim.Optimizer:
    """Train a model on the whole course, one layer of it without a first selection."""
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    steps(model, optimizer)
    for experts in COURSE[1:]:
        before = logits(model)
        moved = change_experts(moe_layers(model), same_in_all(model, experts))
        assert moved is not None
        torch.testing.assert_close(logits(model), before)
        retarget(optimizer, trained(model), moved)
        if experts:
            steps(model, optimizer)
    return optimizer


@each_moe
def test_the_adapter_has_every_expert_that_was_trained_and_no_other_is_changed(
    tiny_model: Models, tmp_path: Path, architecture: str
) -> None:
    model, method = tiny_model(architecture), EsftDynamic()
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "merged"))
    model.save_pretrained(base)
    use_selective(method, model)
    through(model)
    for folder in (adapter, out):
        folder.mkdir()
    method.export(model, adapter)
    method.merge(base, adapter, out)
    torch.testing.assert_close(logits(load(out)), logits(model), atol=5e-5, rtol=1e-5)
    chosen = read_config(adapter).experts
    assert {tuple(sorted(experts)) for experts in chosen.values()} == {(0, 1, 2, 5, 7)}
    before, after = pieces(base), pieces(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == tensors_of_experts(before, chosen)


@each_moe
def test_a_model_whose_experts_have_come_and_gone_is_profiled_like_its_merged_checkpoint(
    tiny_model: Models, tmp_path: Path, architecture: str
) -> None:
    model, method = tiny_model(architecture), EsftDynamic()
    model.save_pretrained(tmp_path / "base")
    layers = moe_layers(model)
    use_selective(method, model)
    through(model)
    for folder in ("adapter", "merged"):
        (tmp_path / folder).mkdir()
    method.export(model, tmp_path / "adapter")
    method.merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    batch = (tokens(), torch.ones_like(tokens()))
    ours, merged = profile(model, [batch], layers), profile(load(tmp_path / "merged"), [batch])
    torch.testing.assert_close(ours.gate_sums, merged.gate_sums, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.token_counts, merged.token_counts, rtol=0.01, atol=1)


def use_selective(method: EsftDynamic, model: PreTrainedModel) -> None:
    model.requires_grad_(False)
    use_selective_experts(model, same_in_all(model, COURSE[0]))


@each_moe
def test_an_expert_gets_the_gradient_of_full_fine_tuning_in_whatever_part_it_is(
    tiny_model: Models, architecture: str
) -> None:
    model, full = tiny_model(architecture), tiny_model(architecture)
    use_selective(EsftDynamic(), model)
    change_experts(moe_layers(model), same_in_all(model, [2, 7, 1]))
    change_experts(moe_layers(model), same_in_all(model, [3, 2, 1]))
    backward(model)
    backward(full)
    for index, layer in moe_layers(model).items():
        reference = moe_layers(full)[index].experts.get_parameter("down_proj").grad
        assert reference is not None
        assert selected_experts(layer) == [2, 1, 3]
        parts = [layer.experts.get_parameter(f"selected_down{part}").grad for part in ("", "_1", "_2")]
        torch.testing.assert_close(torch.cat([part for part in parts if part is not None]), reference[[2, 1, 3]])


def test_to_select_what_is_selected_changes_nothing(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    use_selective(EsftDynamic(), model)
    assert change_experts(moe_layers(model), same_in_all(model, [2, 5])) is None


def test_experts_that_stay_move_as_a_plain_adamw_with_the_same_gradients_moves_them(tiny_model: Models) -> None:
    """And one that comes moves as one that begins: the optimizer's steps are counted from there."""
    model = tiny_model("olmoe")
    use_selective(EsftDynamic(), model)
    layer = next(iter(moe_layers(model).values()))
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)

    def rows(expert: int, gradient: bool = False) -> Tensor:
        place = selected_experts(layer).index(expert)
        if not gradient:
            found = bank_weights(layer.experts, "selected_down")
            assert found is not None
            return found.detach()[place].clone()
        parts = [p.grad for name, p in layer.experts.named_parameters() if "selected_down" in name]
        return torch.cat([part for part in parts if part is not None])[place].clone()

    followed: dict[int, nn.Parameter] = {}
    plain: dict[int, torch.optim.Optimizer] = {}
    for experts in ([5, 2], [5, 2], [2, 7], [2, 7], [7, 2, 3]):
        moved = change_experts(moe_layers(model), same_in_all(model, experts))
        retarget(optimizer, trained(model), moved or {})
        for expert in experts:
            if expert not in followed:
                followed[expert] = nn.Parameter(rows(expert))
                plain[expert] = torch.optim.AdamW([followed[expert]], lr=1e-2)
        backward(model)
        for expert in experts:
            followed[expert].grad = rows(expert, gradient=True)
            plain[expert].step()
        optimizer.step()
        optimizer.zero_grad()
        for expert in experts:
            torch.testing.assert_close(rows(expert), followed[expert].detach(), rtol=1e-6, atol=1e-8)
    assert {id(parameter) for parameter in optimizer.state} == {id(parameter) for parameter in trained(model)}


class Told(ExpertChanges):
    """Changes that somebody else decides on."""


def test_a_state_gives_a_model_back_what_it_was_wherever_it_has_gone_on_to(tiny_model: Models) -> None:
    model, fresh = tiny_model("olmoe"), tiny_model("olmoe")
    for each in (model, fresh):
        use_selective(EsftDynamic(), each)
    changes = Told(model)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    kept: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]] = []
    for experts in COURSE:
        moved = change_experts(moe_layers(model), same_in_all(model, experts))
        retarget(optimizer, trained(model), moved or {})
        if experts:
            steps(model, optimizer)
        values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        kept.append(({key: value.clone() for key, value in changes.state_dict().items()}, values, logits(model)))
    for state, values, seen in reversed(kept):
        for each in (model, fresh):
            Told(each).load_state_dict(state)
            assert {name for name, p in each.named_parameters() if p.requires_grad} == set(values)
            each.load_state_dict(values, strict=False)
            assert torch.equal(logits(each), seen)


def one_pass(model: PreTrainedModel, changes: Reselection, rows: slice = slice(None)) -> None:
    ids = tokens()[rows]
    with changes.seeing(torch.ones_like(ids, dtype=torch.bool)):
        model(input_ids=ids)


@each_moe
def test_the_running_profile_of_what_was_profiled_is_that_profile(tiny_model: Models, architecture: str) -> None:
    """`Profile` counts by another implementation; the average begins with it, and batches like it leave it there."""
    model = tiny_model(architecture)
    context = seen_by(model)
    method = EsftDynamic(every=100, decay=0.5)
    method.prepare(model, context)
    changes = method.changes(model, context)
    assert isinstance(changes, Reselection)
    start = changes.running.clone()
    changes.running = torch.zeros_like(start)
    for step in range(1, 31):
        one_pass(model, changes, slice(0, 1))
        one_pass(model, changes, slice(1, None))
        assert changes.after(Done(step, (), lambda tensor: tensor)) is None
    torch.testing.assert_close(changes.running, start * (1 - 0.5**30), rtol=1e-5, atol=1e-7)
    seen = context.profile
    assert seen is not None
    torch.testing.assert_close(changes.profile.gate_sums * seen.tokens, seen.gate_sums, rtol=1e-4, atol=1e-4)


def test_tokens_that_are_not_real_do_not_count(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    context = seen_by(model)
    method = EsftDynamic(decay=0)
    method.prepare(model, context)
    changes = method.changes(model, context)
    assert isinstance(changes, Reselection)
    start, ids = changes.running.clone(), tokens()
    twice = torch.cat([ids, tokens(seed=9)])
    with changes.seeing(torch.arange(len(twice))[:, None].expand_as(twice) < len(ids)):
        model(input_ids=twice)
    changes.after(Done(1, (), lambda tensor: tensor))
    torch.testing.assert_close(changes.running, start)


def test_stages_take_more_of_the_same_order_until_they_are_esfts(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    context = seen_by(model)
    assert context.profile is not None
    chosen = [EsftGradual(p=0.6).at_stage(stage).select(context.profile) for stage in (1, 2, 3, 4)]
    for fewer, more in itertools.pairwise(chosen):
        assert all(more[layer][: len(experts)] == experts for layer, experts in fewer.items())
    assert chosen[-1] == EsftGradual(p=0.6).at_most.select(context.profile)
    assert sum(map(len, chosen[0].values())) < sum(map(len, chosen[-1].values()))


def test_no_stage_begins_once_the_held_out_loss_falls_no_more(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    context = seen_by(model)
    method = EsftGradual(p=0.6, every=2)
    method.prepare(model, context)
    changes = method.changes(model, context)
    assert changes is not None

    def changed(step: int, *losses: float) -> bool:
        return changes.after(Done(step, losses, lambda tensor: tensor)) is not None

    assert not changed(1)
    assert changed(2, 3.0)
    assert changed(4, 3.0, 2.0)
    assert not changed(6, 3.0, 2.0, 2.0)
    assert not changed(8, 3.0, 2.0, 2.0, 1.0)


def test_all_experts_are_trained_where_all_are_selected(tiny_model: Models) -> None:
    """Bank parts put together are the bank of a method that trains all experts from the start."""
    model, reference = tiny_model("qwen3-moe"), tiny_model("qwen3-moe")
    use_selective(EsftDynamic(), model)
    change_experts(moe_layers(model), same_in_all(model, list(range(8))))
    AllExperts().prepare(reference, seen_by(reference))
    torch.testing.assert_close(logits(model), logits(reference))


@pytest.mark.parametrize("method", [EsftDynamic(), EsftGradual()])
def test_an_estimate_is_of_an_esft_that_trains_no_less(tiny_model: Models, method: EsftDynamic | EsftGradual) -> None:
    seen = seen_by(tiny_model("olmoe")).profile
    assert seen is not None
    at_most, first = method.at_most.select(seen), method.select(seen)
    assert all(set(first[layer]) <= set(at_most[layer]) for layer in first)
