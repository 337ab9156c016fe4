"""The base of every section of `params.yaml`."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, no unknown keys, no silent conversions, no infinite or undefined numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
