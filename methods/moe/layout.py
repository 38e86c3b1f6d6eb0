"""The official ESFT adapter layout: `expert_cfg.json` and safetensors with one tensor per expert and projection.

Tensor names are those of the hub checkpoint, e.g. `model.layers.3.mlp.experts.7.gate_proj.weight`. Older official
adapters leave out the prefix `model.`; reading accepts both. Source: deepseek-ai/ESFT, esft.py.

Checkpoints of some architectures keep the experts of a layer in one tensor, which the official layout does not know. An
adapter then has its rows, one for each expert, under the name with the expert's id: `….mlp.experts.down_proj[7]`.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esft_bench.methods.atomic import write_json
from esft_bench.methods.errors import MethodError
from esft_bench.methods.overlay import changes_of
from esft_bench.methods.tensor_files import TensorFiles

CONFIG = "expert_cfg.json"
EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")
"""The expert's id in the name of a tensor of a hub checkpoint; `PLACE` has the layer's number too."""
PLACE = re.compile(r"layers\.(\d+)\..*(?:\.experts\.(\d+)\.|\[(\d+)\]$)")


class AdapterConfig(BaseModel):
    """What an adapter trains: expert ids by layer number, best first, and whether the rest is trained too.

    The official layout has no word for single tensors of that rest, such as routers: `other_tensors` names them.
    """

    model_config = ConfigDict(frozen=True)
    experts: dict[int, list[int]]
    shared_experts: bool = False
    non_expert_modules: bool = False
    other_tensors: list[str] = []

    def leaves_out(self, name: str) -> bool:
        """Whether no option says that a tensor outside the routed experts is trained."""
        return not (self.shared_experts if "shared_expert" in name else self.non_expert_modules)


def read_config(adapter: Path) -> AdapterConfig:
    """Read an adapter's `expert_cfg.json`, or that file itself. Raises MethodError where it is missing or malformed."""
    path = adapter if adapter.is_file() else adapter / CONFIG
    try:
        return AdapterConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise MethodError(f"{adapter} is not an ESFT adapter: it has no {CONFIG}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise MethodError(f"{path}: {where}: {first['msg']}; expected {{'experts': {{layer: [ids]}}, …}}") from error


def write_config(adapter: Path, config: AdapterConfig) -> None:
    """Write an adapter's `expert_cfg.json`, with nothing that the official one has not unless it is needed."""
    left_out = set() if config.other_tensors else {"other_tensors"}
    write_json(adapter / CONFIG, config.model_dump(exclude=left_out))


def base_name(name: str) -> str:
    """The name in the base checkpoint of a tensor of an adapter, old prefix or new."""
    return f"model.{name}" if name.startswith("layers.") else name


def check_adapter(adapter: Path, base: Path) -> None:
    """Refuse an adapter that is not whole or not of `base`, before anything is written.

    Every expert that `expert_cfg.json` names has all the parts that the base has of it; there is nothing else but what
    the options there name; all of it has the base's shapes and a float type. Raises MethodError naming the tensor.
    """
    config = read_config(adapter)
    named = {(layer, expert) for layer, experts in config.experts.items() for expert in experts}
    changes = changes_of(base, adapter, base_name)
    found: dict[tuple[int, int], set[str]] = {}
    for name in changes.sources:
        place = PLACE.search(name)
        if place is None:
            if config.leaves_out(name) and name not in config.other_tensors:
                raise MethodError(f"{adapter} changes `{name}`, and its {CONFIG} (ESFT's layout) does not say so")
            continue
        layer, expert = int(place[1]), int(place[2] or place[3])
        if (layer, expert) not in named:
            raise MethodError(
                f"{adapter} changes expert {expert} of layer {layer}, which its {CONFIG} (ESFT's layout) does not name"
            )
        found.setdefault((layer, expert), set()).add(name)
    every = _parts(changes.old)
    for layer, expert in sorted(named):
        parts = every.get((layer, expert))
        if parts is None:
            raise MethodError(f"{adapter / CONFIG} names expert {expert} of layer {layer}, which {base} does not have")
        if missing := sorted(parts - found.get((layer, expert), set())):
            raise MethodError(
                f"{adapter / CONFIG} (ESFT's layout) names expert {expert} of layer {layer}, of which the adapter has "
                f"no `{missing[0]}`; export or fetch it again"
            )


def _parts(base: TensorFiles) -> dict[tuple[int, int], set[str]]:
    """Names of all that an expert (layer, id) consists of."""
    parts: dict[tuple[int, int], set[str]] = {}
    for name in base.files:
        if (place := PLACE.search(name)) and place[2]:
            parts.setdefault((int(place[1]), int(place[2])), set()).add(name)
    if parts:
        return parts
    from esft_bench.methods.moe.export import parts_of_experts  # a checkpoint with one tensor for a layer's experts

    return parts_of_experts(base.folder)
