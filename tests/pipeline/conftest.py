"""One `dvc repro` on a small phantom set, shared by the tests of the pipeline and of the model's behaviour."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
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


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after one `dvc repro`, of which DVC warned nobody."""
    space = make_workspace(tmp_path_factory.mktemp("pipeline") / "space")
    done = run(space, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stdout + done.stderr
    return space
