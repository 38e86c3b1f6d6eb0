"""Backbones as hubs and disks have them: found, checked, loaded or refused in one sentence before anything runs."""

import fnmatch
import json
import shutil
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks import architectures
from esft_bench.harness.backbone.files import digest, locate
from esft_bench.harness.backbone.model import check_methods, experts_of, load_config, load_model, load_tokenizer
from esft_bench.harness.store.notes import Notes
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Backbone
from tests.conftest import build
from tests.harness.conftest import BACKBONE


def checkpoint(folder: Path, architecture: str = "olmoe", **options) -> Path:
    """A small checkpoint with the shipped tokenizer."""
    build(architecture, vocab_size=2048).save_pretrained(folder, **options)
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository on a hub that gives the files asked for; what was fetched comes out sorted by name."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()

    def snapshot(name, revision, allow_patterns):
        for path in sorted(path for path in there.rglob("*") if path.is_file()):
            relative = path.relative_to(there)
            if any(fnmatch.fnmatch(str(relative), pattern) for pattern in allow_patterns):
                (here / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, here / relative)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return there


def fetched(**options):
    folder = locate(Backbone(path="some/model", revision="1", **options))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".safetensors", ".py"))


def test_of_a_hub_checkpoint_the_shards_of_its_index_are_fetched_and_no_copies_beside_them(hub):
    checkpoint(hub, max_shard_size="100KB")
    shards = sorted(path.name for path in hub.glob("*.safetensors"))
    assert len(shards) > 2
    (hub / "original").mkdir()
    for copy in ("consolidated.safetensors", "original/model.safetensors", "modeling_x.py"):
        (hub / copy).write_bytes(b"a copy")
    assert fetched() == shards
    assert fetched(trust_remote_code=True) == sorted([*shards, "modeling_x.py"])


def test_of_a_checkpoint_of_one_file_that_file_is_fetched(hub):
    checkpoint(hub)
    (hub / "consolidated.safetensors").write_bytes(b"a copy")
    assert fetched() == ["model.safetensors"]
    assert not locate(Backbone(path="some/model", revision="1"), weights=False).joinpath("original").exists()


def test_of_a_hub_checkpoint_whose_quantisation_is_refused_no_weights_are_fetched(hub):
    checkpoint(hub)
    edit_config(hub, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match="is quantised by gptq, and"):
        fetched()
    assert (hub.parent / "here" / "config.json").exists()
    assert not list((hub.parent / "here").glob("*.safetensors"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4096\n"


@pytest.mark.parametrize("damage", ["pointer", "truncated", "empty", "missing"])
def test_a_damaged_weight_file_is_named_before_anything_is_computed(tmp_path, damage):
    folder = checkpoint(tmp_path / "base", max_shard_size="100KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes({"pointer": POINTER, "truncated": whole[:-100], "empty": b"", "missing": whole}[damage])
    if damage == "missing":
        shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        digest(folder, Notes(tmp_path))


def test_a_checkpoint_that_lacks_weights_is_refused_and_none_are_made_up(tmp_path):
    folder = checkpoint(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"base has no weights for `lm_head\.weight`: fetch"):
        load_model(folder)


def test_the_digest_of_code_that_comes_with_a_checkpoint_is_part_of_its_own(tmp_path):
    folder = checkpoint(tmp_path / "base")
    before = digest(folder, Notes(tmp_path))
    (folder / "modeling_own.py").write_text("SCALE = 2\n")
    assert digest(folder, Notes(tmp_path)) != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "no_such_model"}, "no_such_model"),
        ({"model_type": "qwen3_vl_moe"}, "it has none for this model_type"),
        ({"num_attention_heads": "many"}, "num_attention_heads"),
        ({"auto_map": {"AutoConfig": "configuration_own.Own"}, "model_type": "own"}, "set backbone.trust_remote_code"),
    ],
)
def test_a_configuration_of_which_no_model_can_be_made_is_one_sentence(tmp_path, changes, said):
    folder = checkpoint(tmp_path / "base")
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=r"^backbone\.path: ") as raised:
        check_methods(folder, {"full": FullFineTuning()})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_broken_config_is_one_sentence(tmp_path):
    folder = checkpoint(tmp_path / "base")
    (folder / "config.json").write_text('{"model_type": "olmoe", ')
    with pytest.raises(UserError, match=r"^backbone\.path: transformers makes no causal .*config\.json"):
        load_config(folder)


def test_experts_that_cannot_be_profiled_are_refused_before_training_and_other_methods_are_not(tmp_path):
    folder = tmp_path / "base"
    model = architectures.build("llama4_text")
    model.save_pretrained(folder)
    check_methods(folder, {"full": FullFineTuning(), "lora": Lora()})
    with pytest.raises(UserError, match=r"^methods\.esft: `model\.layers\.0\.feed_forward\.experts` runs no other"):
        check_methods(folder, {"full": FullFineTuning(), "esft": EsftToken()})
    assert experts_of(model) == {}
    assert list(experts_of(build("olmoe"))) == [0, 1, 2]


@pytest.mark.parametrize("method", [EsftToken(), FullFineTuning(), Lora(rank=2, experts=True)])
def test_a_bfloat16_base_trained_in_float32_is_loaded_again_as_it_was_trained(tmp_path, method):
    from tests.methods.helpers import profiled, tokens

    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    build("qwen3-moe").to(torch.bfloat16).save_pretrained(base)
    adapter.mkdir()
    out.mkdir()
    model = load_model(base, "float32")
    parameters = method.prepare(model, Context(seed=0, profile=profiled(model)))
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    torch.optim.AdamW(parameters, lr=1e-3).step()
    method.export(model, adapter)
    method.merge(base, adapter, out)
    with torch.no_grad():
        expected, found = model(tokens()).logits, load_model(out, "float32")(tokens()).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


OWN_CODE = {
    "configuration_own.py": """
        from transformers import LlamaConfig

        class OwnConfig(LlamaConfig):
            model_type = "own"
        """,
    "modeling_own.py": """
        from transformers import LlamaForCausalLM
        from .configuration_own import OwnConfig

        class OwnForCausalLM(LlamaForCausalLM):
            config_class = OwnConfig
        """,
}


def own(folder: Path) -> Path:
    """A checkpoint with code of its own."""
    checkpoint(folder, "dense")
    for name, code in OWN_CODE.items():
        (folder / name).write_text(textwrap.dedent(code))
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    edit_config(folder, model_type="own", auto_map=classes, architectures=["OwnForCausalLM"])
    return folder


def test_trusted_code_of_a_checkpoint_is_known_to_all_that_load_it_and_nobody_is_asked(tmp_path, monkeypatch):
    def asked(*_):
        raise AssertionError("a question at the terminal")

    monkeypatch.setattr("builtins.input", asked)
    folder = own(tmp_path / "own")
    with pytest.raises(UserError, match="trust_remote_code"):
        load_model(folder)
    model = load_model(folder, trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"
    assert load_tokenizer(folder, trust_remote_code=True).eos_token_id == 2
    # What merging, or an engine, does with the folder or a copy of it.
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert AutoConfig.from_pretrained(copy).model_type == "own"
    assert type(AutoModelForCausalLM.from_pretrained(copy)).__name__ == "OwnForCausalLM"
    method = Lora(rank=2)
    method.prepare(model, Context(seed=0))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "out").mkdir()
    method.export(model, tmp_path / "adapter")
    method.merge(folder, tmp_path / "adapter", tmp_path / "out")
    assert type(load_model(tmp_path / "out", trust_remote_code=True)).__name__ == "OwnForCausalLM"


def test_a_token_without_a_row_in_the_embeddings_is_named(tmp_path):
    folder = checkpoint(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<answer>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"token '<answer>', for which the embeddings, of 2048 rows, have none"):
        load_tokenizer(folder)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "base")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != "eos_token"}))
    with pytest.raises(UserError, match="has no end-of-sequence token"):
        load_tokenizer(folder)
