"""Settings files: read, checked against pydantic models, and a study's choice laid over `params.yaml`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mammo.core.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Index = Annotated[int, Field(ge=0)]
Folds = Annotated[int, Field(ge=3, le=20)]


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys, no silent conversions, no infinite or undefined numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """Of YAML in which an exponent needs no point before it: so DVC writes `3e-05`, by YAML 1.2."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]\d+$"), list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """What the text of a settings file says; `yaml.YAMLError` where it is no YAML."""
    return _Loader(text).get_single_data()


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """Read a YAML file of sections, or raise `ConfigError`; `remedy` says what to do where the file is missing."""
    try:
        values = parse_yaml(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: does not exist; {remedy}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of sections, got {type(values).__name__}")
    return values


@contextmanager
def explained(name: str, remedy: str = "") -> Iterator[None]:
    """Turn a model's refusal of a file into a `ConfigError`: key, rule and value of each, a line each."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(name, detail) for detail in error.errors()) + remedy) from error


def _explain(name: str, detail: Any) -> str:
    loc = list(detail["loc"])
    if loc[:2] == ["tune", "space"]:
        del loc[3:4]  # pydantic's own: which kind of range it is
    key = ".".join(str(part) for part in loc)
    got = detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            return f"{name}: {key} is not a known key; remove it or correct its spelling"
        case "missing":
            return f"{name}: {key} is required and missing"
        case "value_error":
            section = f"{key}{' ' if isinstance(loc[-1], int) else '.'}" if key else ""
            rules = detail["msg"].removeprefix("Value error, ").splitlines()
            return "\n".join(f"{name}: {section}{rule}" for rule in rules)
        case "union_tag_not_found" | "union_tag_invalid" | "model_attributes_type":
            return (
                f"{name}: {key} must say its type (int, float or categorical), got {got!r}; for example "
                "{type: float, low: 0.001, high: 0.01}"
            )
    said = f"{name}: {key}: {detail['msg']}, got {got!r}"
    if isinstance(got, str) and detail["type"].startswith(("int_", "float_")):
        said += "; write a number, without quotes and with a sign in its exponent, such as 5e-4"
    return said


class Choice(BaseModel):
    """What a study's record (`reports/tune/best.yaml`) puts above `params.yaml`; the rest of it is for people."""

    study: dict[str, Any]
    best: dict[str, Any]
    system: str
    recipes: Annotated[dict[str, Any], Field(min_length=1, max_length=1)]
    patches: dict[str, Any]
    vote: dict[str, Any]


def _read_record(path: Path) -> dict[str, Any]:
    record = read_yaml(path, "run `mammo tune` to make it, or set settings_from to params.yaml")
    with explained(str(path), "; run `mammo tune` to write it again"):
        Choice.model_validate(record)
    return record


def with_choice(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The sections of `params.yaml` with patches, votes and recipe of the record.

    Raises:
        ConfigError: `params.yaml` contradicts it.
    """
    record = _read_record(path)
    train = values["train"]
    for key in ("head_lr", "backbone_lr"):
        if train.get(key) is not None:
            raise ConfigError(
                f"params.yaml: train.{key} must be null while settings_from takes it from {path}, got {train[key]}"
            )
    if record["system"] not in values["systems"]:
        raise ConfigError(
            f"params.yaml: systems must hold {record['system']}, which {path} chose, got {values['systems']}; add it"
        )
    (recipe,) = record["recipes"]
    return values | {
        "patches": record["patches"],
        "vote": record["vote"],
        "recipes": values["recipes"] | record["recipes"],
        "train": train | {"recipe": recipe},
    }


def study_tags(path: Path) -> dict[str, str]:
    """Which study and trial the settings come from, as tags of a training run; `ConfigError` without a record."""
    record = _read_record(path)
    return {"mammo.study": str(record["study"]["id"]), "mammo.best_trial": str(record["best"]["trial"])}
