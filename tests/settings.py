"""The project's settings with changes: params.yaml alone has values for them."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mammo.core.config import AugmentConfig, Config, ModelConfig, PhantomConfig
from mammo.core.settings import Section

PARAMS = Path(__file__).parents[1] / "params.yaml"

S = TypeVar("S", bound=Section)


@cache
def _shipped() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    return values


def params(**sections: Any) -> dict[str, Any]:
    """What params.yaml holds; a mapping of `sections` is laid over its section, anything else stands for it."""
    return laid_over(deepcopy(_shipped()), sections)


def laid_over(values: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Likewise over other values."""
    changed = {name: values[name] | new if isinstance(new, dict) else new for name, new in sections.items()}
    return values | changed


def settings(**sections: Any) -> Config:
    """These as the program reads them."""
    return Config.parse(params(**sections))


def section(kind: type[S], **changes: Any) -> S:
    """One section with changes, such as `section(IngestConfig, source="mini_mias")`; of augmentations the paper's."""
    if kind is AugmentConfig:
        values = params()["recipes"]["paper"]["augment"]
    else:
        fields = Config.model_fields.items()
        (name,) = (field.alias or name for name, field in fields if field.annotation is kind)
        values = settings().model_dump(by_alias=True)[name]
    return kind.model_validate(values | changes)


PHANTOM = section(PhantomConfig, n_patients=6, seed=3)
"""Of the fixture `phantom_folder`."""


TINY_MODEL = {"compact_channels": [4, 4, 8, 8, 8], "head_units": 8}
"""Of a compact network that is fitted in a fraction of a second."""


def tiny_model(**changes: Any) -> ModelConfig:
    """The same without dropout."""
    return section(ModelConfig, **(TINY_MODEL | {"head_dropout": 0.0} | changes))
