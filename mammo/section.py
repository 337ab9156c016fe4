"""The base of every section of `params.yaml`."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
