"""The base of everything that is read from a file and means what it says."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen, no unknown fields and no infinite numbers: a typing error is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
