"""LoRA adapters by peft, and by libraries that write its format: recognised, checked and merged.

Most name linear layers that the checkpoint has as tensors, the experts of older transformers among them: W + s B A is
added to exactly those, be they of two experts in eight. What peft 0.21 packs, the experts of a layer in one pair of
factors, it merges itself, and all that is more than plain LoRA (DoRA, whole modules, biases).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from esft_bench.methods.atomic import write_json, write_tensors
from esft_bench.methods.errors import MethodError
from esft_bench.methods.hub import WEIGHTS, check_not_tied, without_weights, write_tied
from esft_bench.methods.overlay import MODEL_CONFIG, check_fits, check_type, read_finite, write_different
from esft_bench.methods.tensor_files import TensorFiles, tensor_files

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
PACKED = re.compile(r"\.experts(\.base_layer)*\.lora_B\.weight")
"""The end of the name of factors [out, rank · experts] of all experts of a layer."""
EXPERT = re.compile(r"\.experts\.\d+\.")
LAYER = re.compile(r"\.\d+\.")
Layout = Literal["peft", "expert-major"]
"""Where expert e's column of rank r is in packed factors: `peft`, r · experts + e; `expert-major`, e · rank + r."""


def is_packed(adapter: Path) -> bool:
    """Whether the factors of all experts of a layer lie in one tensor, in peft's order or in unsloth's older one."""
    return any(PACKED.search(name) for name in tensor_files(adapter).files)


def check(adapter: Path, base: Path, layout: Layout) -> None:
    """Raise MethodError where an adapter is not whole, is of another backbone, or cannot have this layout."""
    if not (adapter / WEIGHTS).is_file():
        raise MethodError(f"{adapter} has no {WEIGHTS}: other formats are not loaded, save it as safetensors")
    old, new = tensor_files(base), tensor_files(adapter)
    for name in new.files:
        check_type(name, name, old, new)
        read_finite(new, name)
    if layout == "expert-major" and not is_packed(adapter):
        raise MethodError(f"{adapter} packs no experts in one tensor, so it has no expert-major layout; leave it out")
    check_not_tied(without_weights(base), filter(None, map(_stem, new.files)))
    if _plain(adapter, old, new):
        _check_plain(adapter, old, new)
    else:
        _check_with_peft(adapter, base, new)


def write_changed(adapter: Path, base: Path, folder: Path, layout: Layout = "peft") -> None:
    """Write into `folder` the tensors of `base` that the adapter's updates change, as they become."""
    old, new = tensor_files(base), tensor_files(adapter)
    if _plain(adapter, old, new):
        write_tensors(folder / WEIGHTS, dict(_updated(adapter, old, new)))
    else:
        _merge_with_peft(adapter, base, folder, layout)


@contextmanager
def quiet_about_ranks() -> Iterator[None]:
    """Keep peft 0.21 from warning that a parameter's rank matches no module: it looks among modules, yet uses it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following rank_pattern keys did not match", RuntimeWarning)
        yield


def _config(adapter: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((adapter / CONFIG).read_text("utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise MethodError(f"{adapter / CONFIG} is no JSON object ({error}); fetch it again") from error


def _stem(factor: str) -> str:
    """The path of the module that a factor belongs to."""
    match = FACTOR.fullmatch(factor)
    return match[1].removeprefix(PREFIX) if match else ""


def _plain(adapter: Path, old: TensorFiles, new: TensorFiles) -> bool:
    """Whether an adapter is nothing but pairs of factors of matrices that the base checkpoint has."""
    config = _config(adapter)
    more = ("use_dora", "modules_to_save", "fan_in_fan_out", "trainable_token_indices", "lora_bias")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or any(map(config.get, more)):
        return False
    return all((stem := _stem(name)) and f"{stem}.weight" in old.files for name in new.files)


def _check_plain(adapter: Path, old: TensorFiles, new: TensorFiles) -> None:
    factors = {(_stem(name), name[-len("A.weight")]): name for name in new.files}
    stems = {stem for stem, _ in factors}
    for stem in sorted(stems):
        for which in "AB":
            if (stem, which) not in factors:
                raise MethodError(f"{adapter} (peft's layout) has no lora_{which} of `{stem}`; fetch it again")
        a, b = (new.shape(factors[stem, which]) for which in "AB")
        if a[0] != b[1]:
            raise MethodError(f"{adapter} (peft's layout) has factors of ranks {a[0]} and {b[1]} of `{stem}`")
        check_fits(f"{stem}.weight", [b[0], a[1]], old, adapter)
    if missing := sorted(_asked(_config(adapter).get("target_modules"), stems, old) - stems):
        raise MethodError(f"{adapter} has no factors of `{missing[0]}`, which its {CONFIG} asks for; fetch it again")


def _asked(targets: object, stems: set[str], old: TensorFiles) -> set[str]:
    """Modules that an adapter must have, as far as its configuration tells; of experts it may have any.

    Those that are named in full, or, of names that many layers share, those of the layers that it has something of.
    """
    if not isinstance(targets, list):  # a pattern
        return set()
    asked = {target for target in targets if f"{target}.weight" in old.files and not EXPERT.search(f"{target}.")}
    ends = tuple(f".{target}" for target in targets)
    places = [(stem, match) for stem in stems if (match := LAYER.search(stem)) and not EXPERT.search(f"{stem}.")]
    for stem, match in places if not asked else ():
        same = {f"{stem[: match.start()]}{other.group()}{stem[match.end() :]}" for _, other in places}
        asked |= {name for name in same if name.endswith(ends) and f"{name}.weight" in old.files}
    return asked


def _updated(adapter: Path, old: TensorFiles, new: TensorFiles) -> Iterator[tuple[str, Tensor]]:
    """Every matrix that an adapter changes, by name, as it becomes, in float32: W + s B A."""
    import torch

    config = _config(adapter)
    for name in sorted(new.files):
        stem = _stem(name)
        if name.endswith("A.weight"):
            a, b = (read_finite(new, name[: -len("A.weight")] + f"{which}.weight").float() for which in "AB")
            scaling = _alpha(config, stem) / (math.sqrt(len(a)) if config.get("use_rslora") else len(a))
            yield f"{stem}.weight", torch.addmm(old.read(f"{stem}.weight").float(), b, a, alpha=scaling)


def _alpha(config: dict[str, Any], stem: str) -> float:
    """The numerator of the scaling of a module's update."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    return float(patterns.get(get_pattern_key(patterns, stem), config["lora_alpha"]))


def _check_with_peft(adapter: Path, base: Path, files: TensorFiles) -> None:
    import torch
    from peft import get_peft_model, set_peft_model_state_dict

    other = f"{adapter} (peft's layout) belongs to another backbone than {base}"
    shapes = {name: torch.empty(files.shape(name), device="meta") for name in files.files}
    try:
        with warnings.catch_warnings(action="ignore"):  # that nothing is really loaded
            adapted = get_peft_model(without_weights(base), _for_merging(adapter))
            found = set_peft_model_state_dict(adapted, shapes)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise MethodError(f"{other}: {str(error).partition(chr(10))[0]}") from error
    if found.unexpected_keys:
        raise MethodError(f"{other}, which has nothing for its `{found.unexpected_keys[0]}`")
    if missing := [name for name in found.missing_keys if "lora_" in name]:
        raise MethodError(f"{adapter} has no `{missing[0]}`, which its {CONFIG} asks for; fetch it again")


def _for_merging(adapter: Path) -> Any:
    """An adapter's configuration for peft, without dropout: merged weights have none, and packed experts refuse it."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(adapter)
    config.lora_dropout = 0.0
    return config


def _merge_with_peft(adapter: Path, base: Path, folder: Path, layout: Layout) -> None:
    """Write the tensors in which the merged model differs, under their names in hub checkpoints, into `folder`.

    In float32: sums rounded to the base's type would be others than trained.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with TemporaryDirectory(dir=folder.parent, prefix=".repacked-") as scratch, quiet_about_ranks():
        source = adapter if layout == "peft" else _repacked(adapter, base, Path(scratch))
        merged = PeftModel.from_pretrained(model, source, config=_for_merging(adapter)).merge_and_unload()
        whole = Path(scratch) / "whole"
        merged.save_pretrained(whole)
        (whole / MODEL_CONFIG).unlink()  # as this library writes it; none of it has changed
        write_tied(merged, whole)
        write_different(base, whole, folder)


def _repacked(adapter: Path, base: Path, folder: Path) -> Path:
    """The adapter with packed factors that were expert-major as peft has them."""
    from esft_bench.methods.moe.view import moe_layers

    files = tensor_files(adapter)
    experts = next(iter(moe_layers(without_weights(base)).values())).num_experts
    tensors = {name: files.read(name) for name in files.files}
    for name, tensor in tensors.items():
        if PACKED.search(name):
            tensors[name] = tensor.view(len(tensor), experts, -1).transpose(1, 2).reshape(tensor.shape)
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, _config(adapter))
    return folder
