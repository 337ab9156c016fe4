"""Patch sets: which squares of which ROIs. A patch set is an index, its pixels stay in the ROIs.

Source: Yu et al. 2020, "Data augmentation" and "Decision"; the defects of its recipe are settings (`studies.defects`).
"""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import PatchesConfig
from mammo.core.records import PATCH_SCHEMA, ROI_SIDE_PX, Label, conform

IntArray = npt.NDArray[np.int64]


def grid_offsets(size_px: int, stride_px: int, side_px: int = ROI_SIDE_PX, *, corner_patches: bool = True) -> IntArray:
    """Return the offsets of a grid's patches along one axis, in pixels.

    The grid is centred: where the stride does not divide the free space, what is left over is
    shared by both borders. 72 and 12 give 0, 12, 24, 36, 48.

    `corner_patches=False` leaves out what is further than half the way from the middle to a border, so that
    every patch holds much of the ROI's centre: 12, 24, 36.
    """
    free = side_px - size_px
    steps = free // stride_px
    start = (free - steps * stride_px) // 2
    offsets = start + stride_px * np.arange(steps + 1, dtype=np.int64)
    return offsets if corner_patches else offsets[np.abs(2 * offsets - free) <= max(free / 2, 1)]


def grid_corners(size_px: int, stride_px: int, side_px: int = ROI_SIDE_PX, *, corner_patches: bool = True) -> IntArray:
    """Return the (top, left) corners of the voting grid, row by row: shape `(n_patches, 2)`, pixels."""
    offsets = grid_offsets(size_px, stride_px, side_px, corner_patches=corner_patches)
    top, left = np.meshgrid(offsets, offsets, indexing="ij")
    return np.stack([top.ravel(), left.ravel()], axis=1)


def random_corners(
    n_draws: int, size_px: int, rng: np.random.Generator, *, last_offset: bool, corner_patches: bool = True
) -> IntArray:
    """Draw `n_draws` uniform (top, left) corners: shape `(n_draws, 2)`, pixels.

    `last_offset=False` repeats the paper's code, whose draws never reach the last row and column
    (except where a patch is as large as the ROI and has one place only). `corner_patches=False` draws from the
    middle half of the offsets along each axis, as `grid_offsets` does.
    """
    free = ROI_SIDE_PX - size_px
    if not corner_patches:
        reach = max(free / 4, 0.5)
        return rng.integers(ceil(free / 2 - reach), floor(free / 2 + reach) + 1, size=(n_draws, 2))
    return rng.integers(0, free + 1 if last_offset else max(free, 1), size=(n_draws, 2))


def drawn_patches(rois: pd.DataFrame, config: PatchesConfig) -> pd.DataFrame:
    """Random patches of each ROI, and the whole ROI where the settings ask for it (`PATCH_SCHEMA`).

    Each ROI has a generator of its own, so its patches do not depend on the other rows.

    Args:
        rois: rows with `roi_id` and `label`.
        config: sizes and counts.
    """
    corners: list[IntArray] = []
    for roi_id, label in zip(rois["roi_id"], rois["label"], strict=True):
        rng = np.random.default_rng([config.seed, *str(roi_id).encode()])
        draws = random_corners(
            config.tumor_draws if label == Label.TUMOR else config.normal_draws,
            config.size_px,
            rng,
            last_offset=config.last_offset,
            corner_patches=config.corner_patches,
        )
        corners.append(np.concatenate([draws, np.zeros((1, 2), dtype=np.int64)]) if config.whole_roi else draws)
    patches = _patch_set(rois, corners, config.size_px)
    if config.whole_roi:
        patches.loc[~patches["roi_id"].duplicated(keep="last"), "size_px"] = ROI_SIDE_PX
    return patches


def grid_patches(rois: pd.DataFrame, config: PatchesConfig) -> pd.DataFrame:
    """The voting grid of each ROI, row by row (`PATCH_SCHEMA`)."""
    corners = grid_corners(config.size_px, config.stride_px, corner_patches=config.corner_patches)
    return _patch_set(rois, [corners] * len(rois), config.size_px)


def _patch_set(rois: pd.DataFrame, corners: Sequence[IntArray], size_px: int) -> pd.DataFrame:
    """Patches of one size at the (top, left) corners of each ROI."""
    places = np.concatenate([np.empty((0, 2), dtype=np.int64), *corners])
    owners = rois[["roi_id", "label"]].iloc[np.repeat(np.arange(len(rois)), [len(own) for own in corners])]
    table = owners.reset_index(drop=True).assign(top_px=places[:, 0], left_px=places[:, 1], size_px=size_px)
    return conform(table[list(PATCH_SCHEMA)], PATCH_SCHEMA, "patch set")
