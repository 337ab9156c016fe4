"""ROIs that a small network can tell apart: noise, and noise with a bright disc (Tumor)."""

import numpy as np
import pandas as pd

from mammo.data.sources import RoiSet
from mammo.records import ROI_SCHEMA, ROI_SIDE_PX, conform


def disc_rois(n_normal: int, n_tumor: int, seed: int = 0) -> RoiSet:
    """Normal ROIs are noise; Tumor ROIs have a disc of 28 pixels radius near the centre on top."""
    rng = np.random.default_rng(seed)
    labels = np.array([0] * n_normal + [1] * n_tumor)
    rows, columns = np.mgrid[:ROI_SIDE_PX, :ROI_SIDE_PX]
    images = np.empty((len(labels), ROI_SIDE_PX, ROI_SIDE_PX), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        grey = rng.normal(100, 12, (ROI_SIDE_PX, ROI_SIDE_PX))
        centre = 59.5 + rng.uniform(-6, 6, 2)
        if label == 1:
            grey[np.hypot(rows - centre[0], columns - centre[1]) < 28] += 70
        image[:] = grey.clip(0, 255)
    table = pd.DataFrame({column: None for column in ROI_SCHEMA}, index=range(len(labels)))
    table["roi_id"] = [f"disc-{seed}-{row:03d}" for row in range(len(labels))]
    table["source"] = "disc"
    table["label"] = labels
    table["sha256"] = [f"{row:064x}" for row in range(len(labels))]
    table["synthetic"] = True
    return RoiSet(conform(table, ROI_SCHEMA, "disc ROIs"), images)
