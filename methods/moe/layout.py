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
