"""How a checkpoint's weights are quantised, by its configuration; imports nothing that computes."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esft_bench.spec.errors import UserError

QUANTISED = "quantization_config"
Side = Annotated[int, Field(ge=1)]


class Packing(BaseModel):
    """What a checkpoint is unpacked from.

    Attributes:
        quant_method: the format.
        weight_block_size: rows and columns of numbers that share a scale, in FP8.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    quant_method: Literal["fp8", "mxfp4"]
    weight_block_size: tuple[Side, Side] = (128, 128)

    @property
    def title(self) -> str:
        """The format's name."""
        return self.quant_method.upper()


def packing(folder: Path) -> Packing | None:
    """How the checkpoint is quantised; None where it is not. Raises UserError where it cannot be unpacked."""
    told = read_config(folder).get(QUANTISED)
    if not told:
        return None
    try:
        return Packing.model_validate(told)
    except ValidationError as error:
        method = told.get("quant_method") if isinstance(told, dict) else None
        how = f"by {method or 'a method that it does not name'}"
        if method == "fp8":
            how += f" with weight_block_size {told['weight_block_size']}"
        raise UserError(
            f"backbone.path: {folder} is quantised {how}, and into that no trained weights can be merged: take the "
            "checkpoint it was made from, one in bfloat16, or one in FP8 by blocks (`fp8`) or MXFP4 (`mxfp4`), which "
            "are unpacked."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json, which has been checked to be one."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config
