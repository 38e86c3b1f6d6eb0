import pytest
import torch
from safetensors.torch import save_file

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.places import places, read_experts, read_tensor
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.tensor_files import tensor_files
from tests.conftest import ARCHITECTURES, build
from tests.methods.helpers import load, logits, tensors


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "dense"])
def test_every_tensor_of_a_checkpoint_has_its_place_in_memory(architecture: str, tmp_path) -> None:
    model = build(architecture)
    model.save_pretrained(tmp_path / "base")
    found, stored = places(model), tensors(tmp_path / "base")
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "dense"])
def test_what_is_written_to_the_places_is_the_checkpoint_that_it_came_from(architecture: str, tmp_path) -> None:
    other = build(architecture)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    other.save_pretrained(tmp_path / "other")
    model = build(architecture)
    assert (logits(model) - logits(other)).abs().max() > 1e-3
    with torch.no_grad():
        for name, place in places(model).items():
            place.copy_(tensors(tmp_path / "other")[name])
    assert torch.equal(logits(model), logits(load(tmp_path / "other")))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_some_experts_are_read_without_the_others_and_any_other_tensor_by_itself(architecture: str, tmp_path) -> None:
    whole = build(architecture)
    whole.save_pretrained(tmp_path / "base")
    with torch.device("meta"):
        model = build(architecture)
    files, expected, ids = tensor_files(tmp_path / "base"), whole.state_dict(), [5, 2, 7]
    own = {f"{layer.name}.{kind}" for layer in moe_layers(model).values() for kind in layer.kinds}
    for layer in moe_layers(model).values():
        for kind in layer.kinds:
            room = torch.empty(len(ids), *layer.experts.get_parameter(kind).shape[1:])
            layer.experts.register_parameter(kind, torch.nn.Parameter(room))
        read_experts(model, layer, ids, files)
        for kind in layer.kinds:
            assert torch.equal(layer.experts.get_parameter(kind), expected[f"{layer.name}.{kind}"][ids])
    for name in expected.keys() - own:
        assert torch.equal(read_tensor(model, name, files), expected[name]), name


def test_an_expert_that_the_checkpoint_lacks_is_named(tmp_path) -> None:
    model = build("olmoe")
    model.save_pretrained(tmp_path / "base")
    stored = tensors(tmp_path / "base")
    del stored["model.layers.1.mlp.experts.7.up_proj.weight"]
    save_file(stored, tmp_path / "base" / "model.safetensors")
    layer = moe_layers(model)[1]
    with pytest.raises(MethodError, match=r"has no weights for `model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight`;"):
        read_experts(model, layer, range(8), tensor_files(tmp_path / "base"))
