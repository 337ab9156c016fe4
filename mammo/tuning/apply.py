"""From a study's choice to the settings that `train` reads: `best.yaml` → `params.yaml`.

`params.yaml` stays the one place that every stage reads and DVC compares, so a tuned setting reruns exactly the stages
that it touches, and `git diff` shows it.
"""

from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from mammo.config import Config
from mammo.errors import ConfigError, DataError
from mammo.layout import Workspace
from mammo.storage import write_bytes
from mammo.tuning.record import BEST_FILE, report_folder
from mammo.tuning.space import TUNED


def apply_best(space: Workspace) -> list[str]:
    """Write the choice of `reports/tune/best.yaml` into `params.yaml`, as the recipe `tuned` and what else it changes.

    Comments and everything else stay as they are. Returns the keys that changed, with old and new value.

    Raises:
        DataError: there is no study's result, or it cannot be read.
        ConfigError: the settings would break a rule; nothing is written.
    """
    path = report_folder(space) / BEST_FILE
    settings = _settings(path)
    system = settings.pop("system")
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.representer.add_representer(type(None), _spelled_null)
    editor.representer.add_representer(float, _float_of_yaml_1_1)
    document = editor.load(space.params.read_text())
    is_new = TUNED not in document["recipes"]
    changes = _overlay(document, settings)
    if system not in document["systems"]:
        document["systems"].append(system)
        changes.append(f"systems: + {system}")
    if is_new:
        document["recipes"].yaml_set_comment_before_after_key(
            TUNED, before="chosen by `mammo tune`, see reports/tune/best.yaml", indent=2
        )
    text = StringIO()
    if not changes:
        return changes
    editor.dump(document, text)
    Config.parse(yaml.safe_load(text.getvalue()), space.params.name)
    write_bytes(space.params, text.getvalue().encode())
    return changes


def applied_choice(space: Workspace, config: Config) -> dict[str, str]:
    """Where settings that are called tuned come from: tags for the training run; empty for another recipe.

    `train` asks this, so that a run of the recipe `tuned` is one of what `best.yaml` chose, and says which trial.

    Raises:
        DataError: there is no study's result, or it cannot be read.
        ConfigError: `params.yaml` says something else than it.
    """
    if config.train.recipe != TUNED:
        return {}
    path = report_folder(space) / BEST_FILE
    settings = _settings(path)
    settings.pop("system")
    changes = _overlay(YAML().load(space.params.read_text()), settings)
    if changes:
        raise ConfigError(
            f"{space.params.name}: with train.recipe {TUNED} the settings must be those of {path}, but differ: "
            f"{'; '.join(changes)}; run `mammo tune apply`, or give the recipe another name"
        )
    record = yaml.safe_load(path.read_text())
    return {"mammo.study": str(record["study"]["id"]), "mammo.best_trial": str(record["best"]["trial"])}


def _spelled_null(representer: Any, _: None) -> Any:
    """`null`, as people wrote it, not an empty value."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _float_of_yaml_1_1(representer: Any, value: float) -> Any:
    """`1.0e-05`: without the point, DVC and PyYAML would read a text."""
    mantissa, e, exponent = repr(value).partition("e")
    text = f"{mantissa}{'' if '.' in mantissa else '.0'}e{exponent}" if e else mantissa
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = dict(yaml.safe_load(path.read_text())["settings"])
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; run `mammo tune` to make it") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is not the record of a study ({error!r}); run `mammo tune` to write it again"
        ) from error
    return settings


def _overlay(document: Any, settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Put nested values into a document in place; returns the lines that say what changed."""
    changes = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            changes += _overlay(document[key], value, f"{name}.")
        elif key not in document or document[key] != value:
            changes.append(
                f"{name}: {document.get(key, 'none')} → {'new' if isinstance(value, dict) else value}"
            )
            document[key] = value
    return changes
