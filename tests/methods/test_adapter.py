"""Adapters that others trained: loaded from a folder, refused where they are no adapter or of another backbone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from esft_bench.methods.adapter import Adapter
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Method
from tests.conftest import build
from tests.methods.helpers import Outcome, load, logits

Released = Callable[[str], Outcome]
KINDS: dict[str, Method] = {
    "esft": EsftToken(),
    "peft": Lora(rank=2),
    "peft-experts": Lora(rank=2, experts=True),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """`released(kind)`: an adapter of that kind of a tiny DeepSeek-V2, with its base; trained once."""
    made: dict[str, Outcome] = {}

    def get(kind: str) -> Outcome:
        if kind not in made:
            base = tmp_path_factory.mktemp(kind) / "base"
            build("deepseek-v2").save_pretrained(base)
            made[kind] = Outcome(KINDS[kind], base)
        return made[kind]

    return get


@each_kind
def test_a_released_adapter_merged_is_the_model_it_was_exported_from(
    released: Released, tmp_path: Path, kind: str
) -> None:
    outcome = released(kind)
    method = Adapter(path=str(outcome.adapter))
    assert method.source(outcome.base) == outcome.adapter
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    out.mkdir()
    method.export(outcome.model, adapter)
    method.merge(outcome.base, adapter, out)
    torch.testing.assert_close(logits(load(out)), logits(outcome.model), atol=1e-5, rtol=1e-5)


@each_kind
@pytest.mark.parametrize("change", [{"hidden_size": 16}, {"num_hidden_layers": 2}], ids=["narrower", "shallower"])
def test_an_adapter_of_another_backbone_is_refused(
    released: Released, tmp_path: Path, kind: str, change: dict[str, int]
) -> None:
    adapter = released(kind).adapter
    build("deepseek-v2", **change).save_pretrained(tmp_path / "other")
    with pytest.raises(MethodError, match="belongs to another backbone") as refused:
        Adapter(path=str(adapter)).source(tmp_path / "other")
    assert str(adapter) in str(refused.value)


@each_kind
def test_an_adapter_that_lacks_a_tensor_is_refused(released: Released, tmp_path: Path, kind: str) -> None:
    outcome = released(kind)
    folder = tmp_path / "half"
    shutil.copytree(outcome.adapter, folder)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    gone = next(name for name in tensors if "layers.1" in name)
    place = gone.rpartition(".gate_proj" if ".gate_proj" in gone else ".lora_")[0]
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith(place)}, weights)
    with pytest.raises(MethodError, match=r"of which the adapter has no `|which its adapter_config"):
        Adapter(path=str(folder)).source(outcome.base)


def test_a_folder_without_an_adapter_and_pickled_weights_are_refused(released: Released, tmp_path: Path) -> None:
    outcome = released("peft")
    with pytest.raises(MethodError, match=r"neither expert_cfg\.json .* nor adapter_config\.json"):
        Adapter(path=str(tmp_path)).source(outcome.base)
    shutil.copy(outcome.adapter / "adapter_config.json", tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(MethodError, match=r"has no adapter_model\.safetensors"):
        Adapter(path=str(tmp_path)).source(outcome.base)


def test_a_name_on_the_hub_needs_a_revision_and_a_connection(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="give its `revision`"):
        Adapter(path="someone/some-adapter").source(tmp_path)
    with pytest.raises(MethodError, match="revision abc could not be had from the hub"):
        Adapter(path="someone/some-adapter", revision="abc").source(tmp_path)


def test_each_task_has_the_adapter_that_the_path_names_for_it() -> None:
    method = Adapter(path="org/ESFT-gate-{task}-lite", revision="abc", tasks={"intent-bdci": "intent"})
    assert method.by_task
    assert method.for_task("intent-bdci").path == "org/ESFT-gate-intent-lite"
    assert method.for_task("law").path == "org/ESFT-gate-law-lite"
    assert not Adapter(path="org/one-for-all").by_task
