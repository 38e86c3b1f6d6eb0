"""Merging by overlay: what replaces what in checkpoints as they lie on disks, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.method import Method
from esft_bench.methods.overlay import overlaid, overlay
from esft_bench.methods.tensor_files import TensorFiles
from tests.methods.helpers import (
    Outcome,
    load,
    logits,
)

Checkpoints = Callable[[str], Path]
Models = Callable[..., PreTrainedModel]


def test_a_sharded_base_stays_sharded_and_keeps_its_other_files(tiny_model: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_model("deepseek-v2").save_pretrained(base, max_shard_size="40KB")
    (base / "tokenizer.json").write_text("{}")
    (base / "pytorch_model.bin").write_text("old weights")
    assert len(list(base.glob("*.safetensors"))) > 2
    outcome = Outcome(EsftToken(p=0.05), base)
    kept = {path.name for path in base.iterdir()} - {"pytorch_model.bin"}
    assert {path.name for path in outcome.out.iterdir()} == kept
    torch.testing.assert_close(logits(load(outcome.out)), logits(outcome.model), atol=1e-5, rtol=1e-5)


def test_a_method_that_only_merges_changes_what_its_checkpoint_differs_in(tiny_model: Any, tmp_path: Path) -> None:
    class OnlyMerges(EsftToken):
        def write_changed(self, base: Path, adapter: Path, folder: Path) -> None:
            Method.write_changed(self, base, adapter, folder)

        def merge(self, base: Path, adapter: Path, out: Path) -> None:
            EsftToken(p=0.05).merge(base, adapter, out)

    tiny_model("olmoe").save_pretrained(tmp_path / "base", max_shard_size="40KB")
    outcome = Outcome(EsftToken(p=0.05), tmp_path / "base")
    (folder := tmp_path / "changed").mkdir()
    OnlyMerges(p=0.05).write_changed(outcome.base, outcome.adapter, folder)
    assert overlaid(outcome.base, [folder]).names == outcome.changed()
    assert not (folder / "config.json").exists()


def test_merged_tensors_keep_what_was_trained_to_the_last_bit_in_the_wider_of_both_types(tmp_path: Path) -> None:
    base, changed, out = tmp_path / "base", tmp_path / "changed", tmp_path / "out"
    for folder in (base, changed, out):
        folder.mkdir()
    narrow, wide = torch.bfloat16, torch.float32
    old = {"a": torch.zeros(2, dtype=narrow), "b": torch.ones(2), "c": torch.zeros(3, 2, dtype=narrow)}
    new = {"a": torch.full((2,), 0.1), "b": torch.full((2,), 0.1, dtype=narrow), "c[1]": torch.full((2,), 0.1)}
    save_file(old, base / "model.safetensors")
    save_file(new, changed / "changed.safetensors")
    overlay(base, changed, out)
    merged = load_file(out / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in merged.items()} == {"a": wide, "b": wide, "c": wide}
    assert torch.equal(merged["a"], new["a"])
    assert torch.equal(merged["b"], new["b"].float())
    assert torch.equal(merged["c"], torch.stack([torch.zeros(2), new["c[1]"], torch.zeros(2)]))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [({"c": torch.zeros(2)}, "`c`"), ({"a": torch.zeros(3)}, r"`a` is \[3\]")],
    ids=["unknown name", "other shape"],
)
def test_an_adapter_of_another_backbone_is_refused_before_anything_is_written(
    tmp_path: Path, tensor: dict[str, Tensor], message: str
) -> None:
    base, changed, out = (tmp_path / name for name in ("base", "changed", "out"))
    for folder in (base, changed, out):
        folder.mkdir()
    save_file({"a": torch.zeros(2)}, base / "model.safetensors")
    save_file(tensor, changed / "adapter_model.safetensors")
    with pytest.raises(MethodError, match=message):
        overlay(base, changed, out)
    assert list(out.iterdir()) == []


def test_a_folder_without_or_with_broken_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"no \.safetensors"):
        overlay(tmp_path, tmp_path, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(MethodError, match=r"model\.safetensors is not"):
        overlay(tmp_path, tmp_path, tmp_path)


def test_a_row_beyond_the_experts_of_a_fused_tensor_is_refused(tmp_path: Path) -> None:
    base, changed = tmp_path / "base", tmp_path / "changed"
    for folder in (base, changed):
        folder.mkdir()
    save_file({"a": torch.zeros(4, 2)}, base / "model.safetensors")
    save_file({"a[4]": torch.zeros(2)}, changed / "adapter_model.safetensors")
    with pytest.raises(MethodError, match=r"changes `a\[4\]`, which .* does not have"):
        overlay(base, changed, tmp_path)
    assert TensorFiles(base, {"a": base / "model.safetensors"}).shape("a[3]") == [2]
