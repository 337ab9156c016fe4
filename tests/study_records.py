"""Records of studies that never ran: the shape of `reports/tune/best.yaml`."""

from pathlib import Path
from typing import Any

import yaml

from mammo.core.config import Config
from mammo.core.files import Workspace


def write_record(
    space: Workspace,
    config: Config,
    *,
    system: str = "compact-model2",
    recipe: dict[str, Any] | None = None,
    patches: dict[str, Any] | None = None,
    vote: dict[str, Any] | None = None,
) -> Path:
    """Trial 7 of study abc chose the settings of `config` with these changes."""
    path = space.reports / "tune" / "best.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "study": {"id": "abc"},
        "best": {"trial": 7},
        "system": system,
        "recipes": {"tuned": config.recipe.model_dump(mode="json") | (recipe or {})},
        "patches": config.patches.model_dump() | (patches or {}),
        "vote": config.vote.model_dump() | (vote or {}),
    }
    path.write_text(yaml.safe_dump(record))
    return path
