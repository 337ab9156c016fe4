"""`mammo tune apply`: from now on `params.yaml` takes patches, votes and recipe from what a study chose."""

from typing import Any, Final

import yaml

from mammo.core.config import Config
from mammo.core.errors import ConfigError
from mammo.core.files import Workspace, write_bytes
from mammo.core.settings import read_record, with_choice
from mammo.tuning.differences import differences
from mammo.tuning.record import BEST_FILE, report_folder

SHOWN: Final = ("patches", "vote", "recipe")


def apply_best(space: Workspace) -> list[str]:
    """Point `settings_from` of `params.yaml` at `reports/tune/best.yaml`, and add the chosen system to `systems`.

    Comments and everything else stay as they are. Returns what changes for the stages: key, old and new value.

    Raises:
        ConfigError: there is no study's result, or it would break a rule; nothing is written.
    """
    path = report_folder(space) / BEST_FILE
    system = read_record(path)["system"]
    before = Config.load_own(space.params)
    source = path.relative_to(space.root).as_posix()
    text = space.params.read_text()
    lines = []
    value = _node(text, "settings_from")
    if value.value != source:
        lines.append(f"settings_from: {value.value} → {source}")
        text = text[: value.start_mark.index] + source + text[value.end_mark.index :]
    if system not in before.systems:
        lines.append(f"systems: + {system}")
        text = _with_system(text, system)
    if not lines:
        return []
    after = Config.parse(with_choice(yaml.safe_load(text), path), str(path))
    write_bytes(space.params, text.encode())
    return lines + _differences(before, after)


def _with_system(text: str, system: str) -> str:
    """One more item behind the last, in the list's own style."""
    systems = _node(text, "systems")
    end = systems.value[-1].end_mark.index
    item = f", {system}" if systems.flow_style else f"\n{' ' * systems.start_mark.column}- {system}"
    return text[:end] + item + text[end:]


def _node(text: str, key: str) -> Any:
    """Where the value of a top-level key stands: splicing there leaves every other character as people wrote it.

    Raises:
        ConfigError: there is no such key.
    """
    document: Any = yaml.compose(text)
    for name, value in document.value:
        if name.value == key:
            return value
    raise ConfigError(f"params.yaml: {key} is required and missing; dvc.yaml reads it")


def _differences(before: Config, after: Config) -> list[str]:
    lines = []
    for section in SHOWN:
        old, new = getattr(before, section).model_dump(), getattr(after, section).model_dump()
        found = differences(old, new, f"{section}.")
        lines += [f"{key}: {was} → {becomes}" for key, (was, becomes) in found.items()]
    return lines
