"""The backbone: where its checkpoint lies, what it is (a digest), and loading it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Method
from esft_bench.methods.moe.view import MoeLayer, moe_layers
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import canonical, digest_of_files, digest_of_text, write_json
from esft_bench.spec.suite import Backbone

WEIGHTS = "*.safetensors"
OTHERS = ["*.json", "*.model", "*.txt", "*.jinja"]


def locate(backbone: Backbone, weights: bool = True) -> Path:
    """The folder of a backbone's checkpoint: the one that ships, a local folder, or a hub snapshot (downloaded).

    Without `weights`, what says of which shapes they are is enough, and no more is downloaded. Raises UserError where
    it is neither.
    """
    if backbone.path == "mini":
        from esft_bench.tasks.mini import BACKBONE

        return BACKBONE
    folder = Path(backbone.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"backbone.path: {folder} holds no config.json, so it is no Hugging Face checkpoint.")
        return folder
    from huggingface_hub import snapshot_download

    try:
        patterns = [*OTHERS, *([WEIGHTS] if weights else [])]
        return Path(snapshot_download(backbone.path, revision=backbone.revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen kinds; to the user they are one
        raise UserError(
            f"backbone.path: '{backbone.path}' is no folder here and could not be had from the hub "
            f"({type(error).__name__}): give a folder, or check name, revision and connection."
        ) from error


def digest(folder: Path, cache: Path, weights: bool = True) -> str:
    """A digest of the checkpoint's contents, kept in `cache` under its files' names, sizes and times.

    Raises UserError where `weights` are asked for and there are none.
    """
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja")]
    if weights and not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"{folder} holds no *.safetensors: convert the checkpoint first, other formats are not loaded.")
    stamp = digest_of_text(canonical(sorted([p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files)))
    kept = cache / f"{stamp}.json"
    if kept.exists():
        return str(json.loads(kept.read_text("utf-8"))["digest"])
    value = digest_of_files(files, folder)
    write_json(kept, {"folder": folder.name, "digest": value})
    return value


def check_methods(folder: Path, methods: Mapping[str, Method], trust_remote_code: bool = False) -> None:
    """Refuse a backbone that a row's method cannot train, from its config alone: no weights are loaded.

    Raises MethodError naming the row and what was looked for.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    for row, method in methods.items():
        try:
            method.check_model(model)
        except MethodError as error:
            raise MethodError(f"methods.{row}: {error}") from error


def experts_of(model: PreTrainedModel) -> dict[int, MoeLayer]:
    """The model's MoE layers; none where it is dense."""
    try:
        return moe_layers(model)
    except MethodError:
        return {}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; it must have an end-of-sequence token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer in {folder} has no end-of-sequence token: answers could not end.")
    return tokenizer  # type: ignore[no-any-return]


def load_model(folder: Path, precision: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """The checkpoint's model, on the accelerator if there is one, in evaluation mode."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[no-any-return]
