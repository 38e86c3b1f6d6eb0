import pytest
import torch

from esft_bench.methods.moe.places import places
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
