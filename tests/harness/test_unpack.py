"""Quantised checkpoints: what is unpacked is the bfloat16 checkpoint they stand for, whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from esft_bench.harness.backbone import unpack as unpacking
from esft_bench.harness.backbone.model import load_config
from esft_bench.harness.backbone.packing import packing
from esft_bench.harness.backbone.unpack import size_of, unpack
from esft_bench.spec.errors import NoSpaceError, UserError
from tests.conftest import build
from tests.harness.quantised import quantise
from tests.methods.helpers import logits

SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "fp8": ("deepseek-v3", {"hidden_size": 160, "moe_intermediate_size": 24}),
    "mxfp4": ("gpt-oss", {"hidden_size": 64, "intermediate_size": 32}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By format a quantised checkpoint, and what it stands for."""
    found = {}
    for method, (architecture, shape) in SHAPES.items():
        folder = tmp_path_factory.mktemp(method) / "base"
        build(architecture, **shape).to(torch.bfloat16).save_pretrained(folder)
        found[method] = quantise(folder, method)
    return found


def unpacked(source: Path, place: Path, told: list[int] | None = None) -> Path:
    out, scratch = place / "out", place / "scratch"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    packed = packing(source)
    assert packed
    unpack(source, packed, scratch, out, lambda done, total: told.append(done) if told is not None else None)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same(found: Path, expected: Path) -> None:
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("method", SHAPES)
def test_an_unpacked_checkpoint_is_the_one_it_stands_for(
    made: dict[str, tuple[Path, Path]], method: str, tmp_path: Path
) -> None:
    packed, plain = made[method]
    out = unpacked(packed, tmp_path)
    assert_same(out, plain)
    assert json.loads((out / "config.json").read_text()) == json.loads((plain / "config.json").read_text())
    model, told = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    expected = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    assert torch.equal(logits(model), logits(expected))


@pytest.mark.parametrize("method", SHAPES)
def test_files_are_no_larger_than_they_may_be_and_an_index_names_them(
    made: dict[str, tuple[Path, Path]], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FILE_BYTES", 50_000)
    packed, plain = made[method]
    out = unpacked(packed, tmp_path)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 3
    for path in files:
        held = load_file(path)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= 50_000
    assert_same(out, plain)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: path.name for path in files for name in load_file(path)}
    config = packing(packed)
    assert config
    assert size_of(packed, config) == (sum(tensor.nbytes for tensor in tensors(out).values()), True)


KILLED = """\
import os, signal, sys
from pathlib import Path
from esft_bench.harness.backbone import unpack
from esft_bench.harness.backbone.packing import packing

unpack.FILE_BYTES = 50_000
source, place = Path(sys.argv[1]), Path(sys.argv[2])
left = [3]

def progress(done, total):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

for name in ("out", "scratch"):
    (place / name).mkdir()
unpack.unpack(source, packing(source), place / "scratch", place / "out", progress)
"""


def test_what_was_written_before_a_kill_is_gone_on_from(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain = made["fp8"]
    done = subprocess.run([sys.executable, "-c", KILLED, str(packed), str(tmp_path)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scratch").iterdir()}
    assert len(before) == 2
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "scratch" / ".model.safetensors.1.tmp").write_bytes(b"half")
    monkeypatch.setattr(unpacking, "FILE_BYTES", 50_000)
    out = unpacked(packed, tmp_path)
    assert_same(out, plain)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert not list((tmp_path / "scratch").iterdir())


def changed(source: Path, out: Path, change: Any) -> Path:
    """A copy of a checkpoint, of one file, with other tensors."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("model*"))
    held = tensors(source)
    change(held)
    save_file(held, out / "model.safetensors", {"format": "pt"})
    return out


WEIGHT = "model.layers.1.mlp.experts.3.up_proj.weight"
FUSED = "model.layers.1.mlp.experts.down_proj"


def nan_in(name: str, byte: int) -> Any:
    def change(held: dict[str, torch.Tensor]) -> None:
        held[name].view(torch.uint8).flatten()[5] = byte

    return change


@pytest.mark.parametrize(
    ("method", "change", "sentence"),
    [
        ("fp8", lambda held: held.pop(f"{WEIGHT}_scale_inv"), rf"`{WEIGHT}_scale_inv` are missing: fetch"),
        ("mxfp4", lambda held: held.pop(f"{FUSED}_scales"), rf"`{FUSED}_scales` are missing: fetch"),
        ("fp8", nan_in(WEIGHT, 0x7F), rf"`{WEIGHT}` .* no finite number"),
        ("fp8", nan_in(WEIGHT, 0xFF), rf"`{WEIGHT}` .* no finite number"),
        ("mxfp4", nan_in(f"{FUSED}_scales", 255), rf"`{FUSED}_blocks` .* no finite number"),
        ("fp8", lambda held: held.update({WEIGHT: held[WEIGHT].view(torch.int8)}), rf"`{WEIGHT}` is of type I8"),
        (
            "fp8",
            lambda held: held.update({f"{WEIGHT}_scale_inv": torch.ones(3, 2)}),
            rf"`{WEIGHT}`: its scales are of shape \[3, 2\] where \[1, 2\]",
        ),
        (
            "mxfp4",
            lambda held: held.update({f"{FUSED}_scales": held[f"{FUSED}_scales"][:, :5].clone()}),
            rf"`{FUSED}_blocks`: blocks of shape .* have scales of shape",
        ),
        (
            "mxfp4",
            lambda held: held.update({f"{FUSED}_scales": held[f"{FUSED}_scales"][:7].clone()}),
            rf"`{FUSED}_blocks`: it is of shape",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence_that_names_the_tensor(
    made: dict[str, tuple[Path, Path]], method: str, change: Any, sentence: str, tmp_path: Path
) -> None:
    source = changed(made[method][0], tmp_path / "damaged", change)
    with pytest.raises(UserError, match=sentence):
        unpacked(source, tmp_path)


def test_a_disk_without_room_is_said_before_anything_is_written(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(NoSpaceError, match=r"takes 0\.0 GiB more, .* 0\.0 GiB free: free some, or"):
        unpacked(made["fp8"][0], tmp_path)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"quant_method": "awq", "bits": 4}, "is quantised by awq, and"),
        ({"quant_method": "gptq"}, "is quantised by gptq, and"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "is quantised by bitsandbytes, and"),
        ({"quant_method": "fp8", "weight_block_size": None}, "by fp8 with weight_block_size None, and"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, r"by fp8 with weight_block_size \[0, 128\], and"),
        ({"bits": 4}, "is quantised by a method that it does not name, and"),
        ("int8", "is quantised by a method that it does not name, and"),
    ],
)
def test_other_quantisations_are_refused_by_name_with_what_to_do(
    made: dict[str, tuple[Path, Path]], tmp_path: Path, told: object, sentence: str
) -> None:
    config = json.loads((made["fp8"][1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    with pytest.raises(UserError, match=rf"{sentence}.* take the checkpoint it was made from"):
        packing(tmp_path)


def test_the_configuration_of_a_quantised_checkpoint_is_that_of_what_it_is_unpacked_to(
    made: dict[str, tuple[Path, Path]],
) -> None:
    packed, plain = made["mxfp4"]
    assert load_config(packed).to_dict() | {"_name_or_path": ""} == load_config(plain).to_dict() | {"_name_or_path": ""}
