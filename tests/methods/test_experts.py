"""Expert-selective training is full fine-tuning with everything but the selected experts held still."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context
from esft_bench.methods.moe.experts import selected_experts, use_selective_experts
from esft_bench.methods.moe.view import attention_parameters, moe_layers, router_parameters
from esft_bench.methods.recompute import checkpoint_gradients
from tests.methods.helpers import MOE, backward, logits, train

Models = Callable[..., PreTrainedModel]


def selection_for(model: PreTrainedModel) -> dict[int, list[int]]:
    """A few experts of each layer, neither sorted nor the same, one layer without any."""
    indices = list(moe_layers(model))
    return {index: [[5, 2], [0], [7, 1, 3]][number % 3] for number, index in enumerate(indices[1:] or indices)}


@pytest.mark.parametrize("architecture", MOE)
def test_a_selected_expert_gets_the_gradient_fft_gives_it(tiny_model: Models, architecture: str) -> None:
    full, selective = tiny_model(architecture), tiny_model(architecture)
    backward(full)
    selective.requires_grad_(False)
    use_selective_experts(selective, selection_for(selective))
    backward(selective)
    for index, layer in moe_layers(selective).items():
        reference = moe_layers(full)[index].experts
        ids = selected_experts(layer)
        assert ids == selection_for(selective).get(index, [])
        for bank, fused in (("selected_gate_up", "gate_up_proj"), ("selected_down", "down_proj")):
            if ids:
                torch.testing.assert_close(getattr(layer.experts, bank).grad, getattr(reference, fused).grad[ids])
            assert getattr(layer.experts, fused).grad is None


@pytest.mark.parametrize("architecture", MOE)
def test_the_forward_is_that_of_the_model_as_it_was(tiny_model: Models, architecture: str) -> None:
    model = tiny_model(architecture)
    before = logits(model)
    use_selective_experts(model, selection_for(model))
    torch.testing.assert_close(logits(model), before)


@pytest.mark.parametrize("selected", [[], [0], list(range(8))], ids=["none", "one", "all"])
def test_any_number_of_experts_can_be_selected(tiny_model: Models, selected: list[int]) -> None:
    model = tiny_model("qwen3-moe")
    before = logits(model)
    use_selective_experts(model, dict.fromkeys(moe_layers(model), selected))
    torch.testing.assert_close(logits(model), before)


def test_every_input_gets_the_gradient_the_stock_experts_give_it(tiny_model: Models) -> None:
    """Routers, attention and embeddings too, with all parameters trainable beside the banks."""
    full, selective = tiny_model("deepseek-v2"), tiny_model("deepseek-v2")
    backward(full)
    use_selective_experts(selective, selection_for(selective))
    backward(selective)
    theirs = dict(full.named_parameters())
    compared = [name for name in theirs if ".experts." not in name]
    assert len(compared) > 20
    ours = dict(selective.named_parameters())
    for name in compared:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, msg=partial("{}: {}".format, name))


def test_training_moves_nothing_but_the_bank(tiny_model: Models) -> None:
    model = tiny_model("deepseek-v2")
    model.requires_grad_(False)
    banks = use_selective_experts(model, selection_for(model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = train(model, banks)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (".selected_" not in name), name
    assert set(optimizer.state) == set(banks)
    stateful = sum(value.numel() for state in optimizer.state.values() for value in state.values() if value.dim())
    assert stateful == 2 * sum(bank.numel() for bank in banks)


def test_an_expert_no_token_reaches_gets_a_zero_gradient(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    use_selective_experts(model, {0: [4, 6]})
    experts: Any = moe_layers(model)[0].experts
    hidden = torch.randn(5, 32, requires_grad=True)
    index = torch.tensor([[4, 1, 2]] * 5)
    experts(hidden, index, torch.full((5, 3), 0.3)).sum().backward()
    assert experts.selected_gate_up.grad[0].abs().sum() > 0
    assert experts.selected_gate_up.grad[1].abs().sum() == 0
    assert hidden.grad is not None


def test_no_token_in_any_selected_expert_is_no_error(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    use_selective_experts(model, {0: [4, 6]})
    experts: Any = moe_layers(model)[0].experts
    experts(torch.randn(5, 32), torch.tensor([[0, 1, 2]] * 5), torch.full((5, 3), 0.3)).sum().backward()
    assert experts.selected_down.grad.abs().sum() == 0


def test_the_frozen_rows_of_the_lowest_trained_layer_build_no_graph(tiny_model: Models) -> None:
    model = tiny_model("qwen3-moe")
    model.requires_grad_(False)
    use_selective_experts(model, {0: [0]})
    experts: Any = moe_layers(model)[0].experts
    with_gradient: list[bool] = []
    original = experts._apply_gate

    def spy(rows: Tensor) -> Tensor:
        with_gradient.append(rows.requires_grad)
        activated: Tensor = original(rows)
        return activated

    experts._apply_gate = spy
    experts(torch.randn(6, 32), torch.tensor([[0, 1, 2]] * 6), torch.full((6, 3), 0.3))
    assert with_gradient == [True, False]


def test_banks_of_a_half_precision_model_are_float32(tiny_model: Models) -> None:
    model = tiny_model("deepseek-v2").to(torch.bfloat16)
    model.requires_grad_(False)
    banks = use_selective_experts(model, selection_for(model))
    backward(model)
    assert {bank.dtype for bank in banks} == {torch.float32}
    assert all(bank.grad is not None and bank.grad.dtype == torch.float32 for bank in banks)
    assert logits(model).dtype == torch.bfloat16


def test_autocast_computes_in_its_dtype_and_keeps_float32_gradients(tiny_model: Models) -> None:
    model = tiny_model("deepseek-v2")
    model.requires_grad_(False)
    banks = use_selective_experts(model, selection_for(model))
    with torch.autocast("cpu", torch.bfloat16):
        backward(model)
    reference = tiny_model("deepseek-v2")
    reference.requires_grad_(False)
    exact = use_selective_experts(reference, selection_for(reference))
    backward(reference)
    for bank, expected in zip(banks, exact, strict=True):
        assert bank.grad is not None
        assert expected.grad is not None
        assert bank.grad.dtype == torch.float32
        assert torch.cosine_similarity(bank.grad.flatten(), expected.grad.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("architecture", MOE)
def test_gradient_checkpointing_changes_no_gradient(tiny_model: Models, architecture: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(architecture).train()
        if checkpointing:
            checkpoint_gradients(model)
        model.requires_grad_(False)
        banks = use_selective_experts(model, selection_for(model))
        backward(model)
        gradients.append([bank.grad for bank in banks])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("architecture", ["deepseek-v2", "gpt-oss"])
def test_gradient_checkpointing_recomputes_nothing_below_the_lowest_trained_layer(
    tiny_model: Models, architecture: str
) -> None:
    model = tiny_model(architecture).train()
    checkpoint_gradients(model)
    model.requires_grad_(False)
    use_selective_experts(model, {2: [5, 2]})
    runs = dict.fromkeys(range(3), 0)

    def count(number: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            runs[number] += 1

        return hook

    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(count(number))
    backward(model)
    assert runs == {0: 1, 1: 1, 2: 2}


def test_a_dense_model_is_refused_by_what_it_lacks(tiny_model: Models) -> None:
    with pytest.raises(MethodError, match=r"LlamaForCausalLM.*gate_up_proj"):
        moe_layers(tiny_model("dense"))


def test_a_model_whose_router_or_attention_is_not_seen_is_refused_by_what_was_looked_for(tiny_model: Models) -> None:
    model = tiny_model("olmoe")
    unseen = replace(moe_layers(model)[0], router=None)
    with pytest.raises(MethodError, match=r"no router .*model\.layers\.0\.mlp\.experts.*named gate or router"):
        router_parameters(model, unseen)
    with pytest.raises(MethodError, match="no parameters inside an attn or attention"):
        attention_parameters(model.model.layers[0].mlp)
    with pytest.raises(MethodError, match=r"LlamaForCausalLM.*gate_up_proj"):
        AttentionRouter().prepare(tiny_model("dense"), Context(seed=0))


def test_the_view_reads_the_conventions(tiny_model: Models) -> None:
    layers = moe_layers(tiny_model("deepseek-v2"))
    assert list(layers) == [1, 2]
    assert (layers[1].num_experts, layers[1].top_k, layers[1].scaling) == (8, 3, 4.0)
    assert layers[2].router == "model.layers.2.mlp.gate"
    assert [path for path, _ in layers[1].shared] == ["model.layers.1.mlp.shared_experts"]
    mixtral = moe_layers(tiny_model("mixtral"))[0]
    assert (mixtral.num_experts, mixtral.top_k, mixtral.scaling, mixtral.shared) == (8, 2, 1.0, ())
