"""The selections that others have published: all are read as they are, fit models of their shape, and are trained."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import PUBLISHED, EsftGate, EsftToken, ThresholdSelection
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from tests.methods.helpers import profiled, tokens

Models = Callable[..., PreTrainedModel]
NAMES = sorted(str(path.relative_to(PUBLISHED).with_suffix("")) for path in PUBLISHED.rglob("*.json"))
NARROW = {"hidden_size": 8, "intermediate_size": 8, "moe_intermediate_size": 8, "vocab_size": 96}
SHAPES: dict[str, dict[str, Any]] = {
    "olmoe": {"num_hidden_layers": 16, "num_experts": 64},
    "qwen1.5-moe": {"num_hidden_layers": 24, "num_experts": 60},
}
FAMILIES = {"olmoe": "olmoe", "qwen1.5-moe": "qwen2-moe"}


def shaped(models: Models, backbone: str, **changes: Any) -> PreTrainedModel:
    """A narrow model of as many layers and experts as the backbone has."""
    return models(FAMILIES[backbone], **(SHAPES[backbone] | NARROW | changes))


def method_of(name: str, **changes: Any) -> EsftGate | EsftToken:
    kind = EsftGate if name.endswith("gate") else EsftToken
    return kind.model_validate({"selection": name, "first_layer": 1, **changes})


def test_there_are_the_24_of_densemixer() -> None:
    assert len(NAMES) == 24


@pytest.mark.parametrize("name", NAMES)
def test_a_published_selection_fits_a_model_of_its_shape_and_is_what_is_trained(tiny_model: Models, name: str) -> None:
    told = json.loads((PUBLISHED / f"{name}.json").read_text("utf-8"))
    model = shaped(tiny_model, name.split("/")[1])
    method = method_of(name, shared_experts=told["shared_experts"])
    method.check_model(model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    parameters = method.prepare(model, Context(seed=0, profile=profiled(model)))
    layers = moe_layers(model)
    assert {str(index + 1): selected_experts(layer) for index, layer in layers.items()} == told["experts"]
    ids = tokens()
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.AdamW(parameters, lr=0.1).step()
    after = model.state_dict()
    moved = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert all("shared_expert" in key for key in moved)
    assert bool(moved) == told["shared_experts"]
    for layer in layers.values():
        base = layer.experts.get_parameter("down_proj")[selected_experts(layer)]
        assert not torch.equal(layer.experts.get_parameter("selected_down"), base)


def test_layers_counted_from_one_are_refused_where_that_is_not_said(tiny_model: Models) -> None:
    with torch.device("meta"):
        model = shaped(tiny_model, "olmoe")
    with pytest.raises(MethodError, match="names layer 16"):
        method_of("densemixer/olmoe/gsm/gate", first_layer=0).check_model(model)


def test_each_task_gets_the_selection_that_its_name_stands_for(tiny_model: Models) -> None:
    each = method_of("densemixer/olmoe/{task}/gate", tasks={"intent-bdci": "intent", "gsm8k-train": "gsm"})
    assert each.for_task("intent-bdci").selection == method_of("densemixer/olmoe/intent/gate").selection
    assert each.for_task("gsm8k-train").selection == method_of("densemixer/olmoe/gsm/gate").selection
    assert type(each).model_validate(each.model_dump(mode="json")) == each
    one = each.for_task("law")
    assert type(one).model_validate(one.model_dump(mode="json")) == one
    with pytest.raises(MethodError, match=r"densemixer/olmoe/none/gate is not an ESFT adapter"):
        each.for_task("none")
    with torch.device("meta"):
        fits, other = (shaped(tiny_model, "olmoe", num_experts=count) for count in (64, 32))
    each.check_model(fits)
    with pytest.raises(MethodError, match="which has experts 0 to 31"):
        each.check_model(other)


def test_what_ablates_or_adapts_them_takes_the_selection_of_the_task_too() -> None:
    settings = {"selection": "densemixer/olmoe/{task}/token", "first_layer": 1}
    expected = method_of("densemixer/olmoe/law/token").selection
    adapted: ThresholdSelection = EsftLora.model_validate(settings).for_task("law")
    ablated = RandomExperts.model_validate({"of": {"method": "esft-token", **settings}}).for_task("law")
    assert adapted.selection == expected
    assert isinstance(ablated, RandomExperts)
    assert isinstance(ablated.of, EsftToken)
    assert ablated.of.selection == expected
