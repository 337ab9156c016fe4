"""What a study chose, put over the settings of `params.yaml` while they are read (`settings_from`)."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import yaml

from mammo.errors import ConfigError

CHOSEN: Final = ("patches", "vote")
"""Sections that a study's record holds whole, beside `system` and one recipe under `recipes`."""

CHECKSUM: Final = "checksum"
"""Key that tells a record as the study wrote it from one that somebody has edited."""

DRAWN: Final = ("head_lr", "backbone_lr")
"""Overrides of `train` that would undo the choice."""


def checksum(record: dict[str, Any]) -> str:
    """Of all that a record says, but for the checksum itself."""
    rest = {key: value for key, value in record.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def read_record(path: Path) -> dict[str, Any]:
    """A study's record, such as `reports/tune/best.yaml`.

    Raises:
        ConfigError: it is missing, is no such record, or was edited.
    """
    try:
        record = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: does not exist; run `mammo tune` to make it, or set settings_from to params.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: is not valid YAML ({error}); run `mammo tune` to write it again"
        ) from error
    sections = record if isinstance(record, dict) else {}
    missing = [name for name in ("study", "best", "system", "recipes", *CHOSEN) if name not in sections]
    if missing or not isinstance(sections["recipes"], dict) or len(sections["recipes"]) != 1:
        what = f"lacks {', '.join(missing)}" if missing else "must hold one recipe"
        raise ConfigError(
            f"{path}: is not the record of a study ({what}); run `mammo tune` to write it again"
        )
    if sections.get(CHECKSUM) != checksum(sections):
        raise ConfigError(
            f"{path}: must be as the study wrote it, and has been changed since; run `mammo tune` to write it again, "
            "and put settings of your own into params.yaml"
        )
    return sections


def with_choice(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The sections of `params.yaml` with patches, votes and recipe of the record.

    Raises:
        ConfigError: the record cannot be read, or `params.yaml` contradicts it.
    """
    record = read_record(path)
    train = values.get("train", {})
    for key in DRAWN:
        if train.get(key) is not None:
            raise ConfigError(
                f"params.yaml: train.{key} must be null while settings_from takes it from {path}, got {train[key]}"
            )
    if record["system"] not in values.get("systems", [record["system"]]):
        raise ConfigError(
            f"params.yaml: systems must hold {record['system']}, which {path} chose, got {values['systems']}; add it, "
            "or run `mammo tune apply`"
        )
    (recipe,) = record["recipes"]
    return (
        values
        | {name: record[name] for name in CHOSEN}
        | {"recipes": values["recipes"] | record["recipes"], "train": train | {"recipe": recipe}}
    )


def study_tags(path: Path) -> dict[str, str]:
    """Which study and which of its trials the settings come from, as tags of a training run.

    Raises:
        ConfigError: the record cannot be read.
    """
    record = read_record(path)
    return {"mammo.study": str(record["study"]["id"]), "mammo.best_trial": str(record["best"]["trial"])}
