"""Lesions painted into ROIs, to see how a model answers."""

import numpy as np
import numpy.typing as npt

from mammo.core.records import ROI_SIDE_PX
from mammo.data.phantom_drawing import RADIUS_PX, add_lesion, draw_lesion


def paint_lesion(image: npt.NDArray[np.uint8], kind: str, seed: int) -> npt.NDArray[np.uint8]:
    """A copy of a normal ROI with a lesion near its middle; the seed draws its size, shape and place."""
    rng = np.random.default_rng(seed)
    smallest, largest = RADIUS_PX[kind]
    radius = int(rng.integers(max(smallest, 16), min(largest, 50) + 1))
    x, y = (int(value) for value in ROI_SIDE_PX // 2 + rng.integers(-4, 5, size=2))
    tissue = image.astype(np.float32)
    # Preprocessing stretches contrast, so the ROI's own spread is the measure here.
    add_lesion(tissue, draw_lesion(kind, radius, rng), x, y, texture_std=max(float(tissue.std()), 8.0))
    return np.clip(np.rint(tissue), 0, 255).astype(np.uint8)
