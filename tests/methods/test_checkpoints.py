"""Checkpoints as the hub has them: tied embeddings, copies beside, missing and damaged files, parameters they lack."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from esft_bench.methods.adapter import Adapter
from esft_bench.methods.base_model import UntrainedBase
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Method
from esft_bench.methods.tensor_files import tensor_files
from tests.conftest import build
from tests.methods.helpers import Outcome, load, logits, tensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
METHODS: dict[str, Method] = {
    "fft": FullFineTuning(),
    "lora": Lora(rank=2, experts=True),
    "esft": EsftToken(),
    "esft-non-experts": EsftToken(non_expert_modules=True),
}


def saved(folder: Path, architecture: str = "qwen3-moe", shards: str = "50GB", **changes: object) -> Path:
    build(architecture, **changes).save_pretrained(folder, max_shard_size=shards)
    return folder


@pytest.mark.parametrize("stored", ["embedding", "both", "both, unequal", "head"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_tied_embeddings_are_merged_under_whichever_names_the_checkpoint_has_them(
    tmp_path: Path, method: Method, stored: str
) -> None:
    base = saved(tmp_path / "base", tie_word_embeddings=True)
    weights = load_file(base / "model.safetensors")
    if stored != "embedding":
        weights[HEAD] = weights[EMBEDDING] * (0.9 if stored == "both, unequal" else 1)
    if stored == "head":
        del weights[EMBEDDING]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    if stored == "both, unequal":
        assert not torch.equal(load(base).get_input_embeddings().weight, load(base).get_output_embeddings().weight)
    outcome = Outcome(method, base)
    torch.testing.assert_close(logits(load(outcome.out)), outcome.logits, atol=1e-5, rtol=1e-5)
    assert tensors(outcome.out).keys() == weights.keys()


def test_low_rank_updates_of_a_tied_layer_are_refused_before_training(tmp_path: Path) -> None:
    """They would be of the head alone, and the checkpoint has one tensor for both."""
    tied, free = build("qwen3-moe", tie_word_embeddings=True), build("qwen3-moe")
    method = Lora(rank=2, target_modules=("q_proj", "lm_head"))
    with pytest.raises(MethodError, match="`lm_head` shares its weights with another layer"):
        method.check_model(tied)
    method.check_model(free)
    outcome = Outcome(method, saved(tmp_path / "base"))
    with pytest.raises(MethodError, match="`lm_head` shares its weights with another layer"):
        Adapter(path=str(outcome.adapter)).source(saved(tmp_path / "tied", tie_word_embeddings=True))


@pytest.mark.parametrize("method", [FullFineTuning(), EsftToken(), UntrainedBase()], ids=["fft", "esft", "base"])
@pytest.mark.parametrize("shards", ["40KB", "50GB"], ids=["shards", "single"])
def test_what_lies_beside_the_checkpoint_is_neither_merged_nor_taken_over(
    tmp_path: Path, method: Method, shards: str
) -> None:
    base = saved(tmp_path / "base", "mixtral", shards)
    own = {path.name for path in base.iterdir()}
    whole = {name.removeprefix("model."): tensor for name, tensor in tensors(base).items()}
    save_file(whole, base / "consolidated.safetensors")
    (base / "original").mkdir()
    save_file(whole, base / "original" / "consolidated.00.safetensors")
    if shards == "50GB":
        (base / "model.safetensors.index.json").write_text('{"weight_map": {"old": "gone.safetensors"}}')
    if method.trains:
        out = Outcome(method, base).out
    else:
        out = tmp_path / "out"
        out.mkdir()
        method.merge(base, tmp_path, out)
    assert {path.name for path in out.iterdir()} == own


def test_a_single_file_counts_before_shards_beside_it_as_in_transformers(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", "mixtral", "40KB")
    other = {name: 1.01 * tensor for name, tensor in tensors(base).items()}
    save_file(other, base / "model.safetensors", {"format": "pt"})
    outcome = Outcome(EsftToken(), base)
    torch.testing.assert_close(logits(load(outcome.out)), outcome.logits, atol=1e-5, rtol=1e-5)
    assert [path.name for path in outcome.out.glob("*model*")] == ["model.safetensors"]


def missing(path: Path) -> None:
    path.unlink()


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000\n")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another(path: Path) -> None:
    save_file({"something.else": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "names {}, which is not there"),
        (pointer, "{} is a pointer of Git LFS.*git lfs pull"),
        (cut_off, "{} is not a whole safetensors file"),
        (empty, "{} is not a whole safetensors file"),
        (another, "says that {} holds `.*`, which it does not"),
    ],
)
def test_a_damaged_shard_is_named_by_its_file(tmp_path: Path, damage: object, message: str) -> None:
    base = saved(tmp_path / "base", shards="40KB")
    shard = sorted(base.glob("*.safetensors"))[1]
    assert callable(damage)
    damage(shard)
    with pytest.raises(MethodError, match=message.format(shard.name.replace(".", r"\."))):
        tensor_files(base)


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", shards="40KB")
    (base / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(MethodError, match=r"index\.json is no index of weights"):
        tensor_files(base)


@pytest.mark.parametrize("shards", ["40KB", "50GB"], ids=["shards", "single"])
@pytest.mark.parametrize("method", [FullFineTuning(), EsftToken(non_expert_modules=True)], ids=["fft", "esft"])
def test_a_parameter_that_the_checkpoint_lacks_and_its_architecture_has_is_added(
    tmp_path: Path, shards: str, method: Method
) -> None:
    """A router's bias, which older checkpoints of a model may not have."""
    base, name = saved(tmp_path / "base", "gpt-oss", shards), "model.layers.1.mlp.router.bias"
    home = next(path for path in base.glob("*.safetensors") if name in load_file(path))
    save_file({key: value for key, value in load_file(home).items() if key != name}, home, {"format": "pt"})
    index = base / "model.safetensors.index.json"
    if index.exists():
        table = json.loads(index.read_text())
        del table["weight_map"][name]
        index.write_text(json.dumps(table))
    torch.manual_seed(0)
    outcome = Outcome(method, base)
    assert name in tensor_files(outcome.out).files
    torch.testing.assert_close(logits(load(outcome.out)), outcome.logits, atol=1e-5, rtol=1e-5)


def test_a_tensor_that_the_architecture_lacks_too_is_refused(tmp_path: Path) -> None:
    base, changed, out = saved(tmp_path / "base"), tmp_path / "changed", tmp_path / "out"
    changed.mkdir()
    out.mkdir()
    save_file({"model.layers.1.mlp.gate.bias": torch.zeros(8)}, changed / "adapter_model.safetensors")
    with pytest.raises(MethodError, match=r"changes `model\.layers\.1\.mlp\.gate\.bias`, which .* does not have"):
        FullFineTuning().merge(base, changed, out)
    assert list(out.iterdir()) == []
