"""What a registered voter takes and gives, and what it needs installed."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

REQUIREMENTS: Final = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "pydicom",
    "pyyaml",
    "safetensors",
    "scipy",
    "torch",
    "torchvision",
)


def pip_requirements() -> list[str]:
    """The libraries that a voter imports, at the versions that made it."""
    return [f"{name}=={version(name)}" for name in REQUIREMENTS]


def signature() -> "ModelSignature":
    """One row for each ROI: `image` (bytes of a picture file) or `pixels` (rows of grey levels)."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    inputs = Schema(
        [
            ColSpec(DataType.binary, name="image", required=False),
            ColSpec(Array(Array(DataType.long)), name="pixels", required=False),
        ]
    )
    outputs = Schema(
        [
            ColSpec(DataType.string, name="label"),
            ColSpec(DataType.double, name="vote_share"),
            ColSpec(Array(DataType.long), name="votes"),
            ColSpec(DataType.double, name="score"),
            ColSpec(DataType.string, name="model_name"),
            ColSpec(DataType.string, name="model_version"),
            ColSpec(DataType.double, name="probability"),
            ColSpec(DataType.double, name="threshold"),
            ColSpec(Array(DataType.string), name="prediction_set"),
            ColSpec(DataType.boolean, name="referral"),
        ]
    )
    return ModelSignature(inputs, outputs)
