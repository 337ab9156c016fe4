"""ROIs that a small network can tell apart: noise, and noise with a bright disc (Tumor); workspaces that hold them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mammo.core.config import Config
from mammo.core.files import Workspace, write_table
from mammo.core.records import ROI_SIDE_PX, SPLIT_SCHEMA, SPLITS, conform
from mammo.data.rois import Rois, make_roi_set, write_rois


def disc_rois(n_normal: int, n_tumor: int, seed: int = 0) -> Rois:
    """Normal ROIs are noise; Tumor ROIs have a disc of 28 pixels radius near the centre on top."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:ROI_SIDE_PX, :ROI_SIDE_PX]
    labels = [0] * n_normal + [1] * n_tumor
    images = []
    for label in labels:
        grey = rng.normal(100, 12, (ROI_SIDE_PX, ROI_SIDE_PX))
        centre = 59.5 + rng.uniform(-6, 6, 2)
        if label == 1:
            grey[np.hypot(rows - centre[0], columns - centre[1]) < 28] += 70
        images.append(grey.clip(0, 255).astype(np.uint8))
    known = [
        {"roi_id": f"disc-{seed}-{index:03d}", "source": "disc", "label": label, "synthetic": True}
        for index, label in enumerate(labels)
    ]
    return make_roi_set(known, images)


def dealt_split(rois: Rois) -> pd.DataFrame:
    """The ROIs dealt to the parts in turn, with every pair of neighbours a group."""
    rows = range(len(rois.table))
    groups, parts = [f"group{row // 2}" for row in rows], [SPLITS[row % 3] for row in rows]
    table = pd.DataFrame({**rois.table[["roi_id", "patient_id"]], "group_id": groups, "split": parts})
    return conform(table, SPLIT_SCHEMA, "split")


def workspace_of(
    root: Path, values: dict[str, Any], rois: Rois, groups: Sequence[str], parts: Sequence[str]
) -> tuple[Workspace, Config]:
    """A workspace with these settings, ROIs, groups and parts: its stages up to `split` have run."""
    workspace = Workspace(root)
    write_rois(rois, workspace.rois)
    workspace.params.write_text(yaml.safe_dump(values))
    split = pd.DataFrame({**rois.table[["roi_id", "patient_id"]], "group_id": groups, "split": parts})
    write_table(workspace.split, conform(split, SPLIT_SCHEMA, "split"))
    return workspace, Config.parse(values)
