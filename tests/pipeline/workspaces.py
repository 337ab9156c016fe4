"""Workspaces with the project's own pipeline and small settings, and programs that run in them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from mammo.core.config import Config
from mammo.core.errors import OFFLINE
from mammo.core.files import Workspace
from mammo.data.phantom import write_phantom
from mammo.demo import prepare

PROJECT = Path(__file__).parents[2]
SETTINGS: Final[dict[str, Any]] = {
    "systems": ["compact-baseline", "compact-model1"],
    "phantom": {"n_patients": 36, "seed": 3},
    "patches": {"tumor_draws": 60, "normal_draws": 60},
    "train": {"epochs": 12, "patches_per_epoch": 768, "device": "cpu"},
    "evaluate": {"n_bootstrap": 200},
}


def run(space: Workspace, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in the workspace."""
    binaries = Path(sys.executable).parent
    environment = os.environ | OFFLINE
    environment["PATH"] = f"{binaries}{os.pathsep}{environment.get('PATH', '')}"
    program = binaries / command[0]
    return subprocess.run(
        [str(program) if program.exists() else command[0], *command[1:]],
        cwd=space.root,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def make_workspace(folder: Path, settings: dict[str, Any] = SETTINGS) -> Workspace:
    """The project's own pipeline with small settings, and phantom films beside it."""
    space = prepare(PROJECT, folder)
    values = yaml.safe_load(space.params.read_text())
    for section, changes in settings.items():
        values[section] = changes if isinstance(changes, list) else values[section] | changes
    space.params.write_text(yaml.safe_dump(values))
    write_phantom(Config.load(space.params).phantom, space.root / "data" / "raw" / "phantom")
    return space
