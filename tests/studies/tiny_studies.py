"""A workspace whose fits take a fraction of a second: 48 small-network ROIs with published folders and groups."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mammo.core.config import Config
from mammo.core.errors import OFFLINE
from mammo.core.files import Workspace, write_table
from mammo.data.audit import pairs_table
from mammo.data.rois import Rois, write_rois
from mammo.data.splits import grouped_folds, make_split
from mammo.studies.fits import FitTask
from tests.disc_rois import disc_rois
from tests.settings import TINY_MODEL, laid_over, params

PROJECT = Path(__file__).parents[2]
GRID = {"n_folds": 3, "n_repeats": 1, "n_seeds": 2}
SETTINGS: dict[str, Any] = {
    "systems": ["compact-baseline"],
    "ingest": {"source": "phantom"},
    "split": {"protocol": "grouped_cv"},
    "patches": {"size_px": 48, "stride_px": 36, "tumor_draws": 8, "normal_draws": 4},
    "model": TINY_MODEL,
    "train": {"epochs": 2, "patches_per_epoch": 64, "device": "cpu", "precision": "float32"},
    "evaluate": {"n_bootstrap": 100},
    "ledger": GRID | {"published_seeds": 2},
    "ablate": GRID | {"system": "compact-baseline", "n_seeds": 1},
    "study": GRID | {"system": "compact-baseline", "n_seeds": 1},
}


def tiny_values(**sections: Any) -> dict[str, Any]:
    """The project's params with small settings; `sections` are merged in."""
    return laid_over(params(**SETTINGS), sections)


def tiny_config(**sections: Any) -> Config:
    return Config.parse(tiny_values(**sections))


def _discs() -> Rois:
    """28 Normal and 20 Tumor ROIs of two tissues; every third patient has two; folders in turn, two of three train."""
    rois = disc_rois(28, 20)
    n = len(rois.table)
    table = rois.table.assign(
        source="phantom",
        tissue=pd.array([("F", "G")[row % 5 == 0] for row in range(n)], dtype="string"),
        patient_id=pd.array([f"p{row - (row % 6 == 1):02}" for row in range(n)], dtype="string"),
        published_split=pd.array([("train", "train", "val", "test")[row % 4] for row in range(n)], dtype="string"),
    )
    return Rois(table, rois.images)


def tiny_rois() -> Rois:
    """The same ROIs with a patient a group."""
    rois = _discs()
    return Rois(rois.table.assign(group_id=rois.table["patient_id"]), rois.images)


def tiny_task(seed: int = 0, **sections: Any) -> FitTask:
    """One fit of a second."""
    config = tiny_config(**sections)
    rois = grouped_folds(tiny_rois(), config.ledger)[0].rois
    return FitTask("compact-baseline", config, seed, rois, f"seed {seed}")


def tiny_space(root: Path, **sections: Any) -> Workspace:
    """A workspace whose stages up to `split` have run."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(tiny_values(**sections)))
    workspace, rois = Workspace(root), _discs()
    write_rois(rois, workspace.rois)
    write_table(workspace.overlaps, pairs_table([]))
    groups = list(rois.table["patient_id"])
    write_table(workspace.split, make_split(rois.table, groups, tiny_config(**sections).split))
    return workspace


def mammo_command(workspace: Workspace, *arguments: str) -> subprocess.Popen[str]:
    """Start the real command in the workspace, in a process of its own."""
    paths = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "mammo.cli", *arguments],
        cwd=workspace.root,
        env=os.environ | OFFLINE | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
