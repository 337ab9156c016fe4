"""Sources of ROIs behind one function, and the ROI set as it lies on disk."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.files import atomic_path, read_array, read_table
from mammo.core.records import ROI_SCHEMA, ROI_SIDE_PX, conform

TABLE_FILE: Final = "rois.parquet"
IMAGES_FILE: Final = "images.npy"

Progress = Callable[[int, int], None]
"""Told how much is done and how much there is in all: films, or bytes of a download."""


@dataclass(frozen=True)
class RoiSet:
    """ROIs and what is known about them.

    Attributes:
        table: one row for each ROI by `ROI_SCHEMA`.
        images: uint8 grey levels of shape (N, 120, 120), in the order of the rows.
    """

    table: pd.DataFrame
    images: npt.NDArray[np.uint8]


class Source(Protocol):
    """Reads one kind of raw data."""

    def __call__(self, raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
        """Return every ROI under `raw` in natural order, or raise `DataError`."""


_SOURCES: Final = {
    "mias_rois": ("mammo.data.archive", "load_mias_rois"),
    "mini_mias": ("mammo.data.film_rois", "load_mini_mias"),
    "phantom": ("mammo.data.film_rois", "load_phantom"),
}
"""Name → module and function, imported when asked for: films need scikit-image, the archive does not."""


def source_named(name: str) -> Source:
    """The loader of a source by its name in `params.yaml`."""
    module, function = _SOURCES[name]
    loader: Source = getattr(import_module(module), function)
    return loader


def load_rois(config: IngestConfig, root: Path, progress: Progress | None = None) -> RoiSet:
    """Read the raw data that `config` names, relative to the project's `root`.

    Raises:
        DataError: the raw data is missing or breaks its source's contract.
    """
    return source_named(config.source)(root / config.raw, config, progress)


def make_roi_set(rows: Sequence[Mapping[str, Any]], images: Sequence[npt.NDArray[np.uint8]]) -> RoiSet:
    """Join rows and images into a ROI set, in the given order.

    Args:
        rows: values of `ROI_SCHEMA`; a missing key is null, `sha256` is computed here over the 14,400 bytes
            of the ROI's pixels.
        images: uint8 grey levels of shape (120, 120), one for each row.

    Raises:
        DataError: there is no ROI, or a value does not fit the schema.
    """
    if not rows:
        raise DataError("a source must give at least one ROI, got none; check that its raw data is complete")
    stacked = np.stack(images)
    table = pd.DataFrame(list(rows), columns=list(ROI_SCHEMA))
    table["sha256"] = pixel_hashes(stacked)
    return RoiSet(conform(table, ROI_SCHEMA, "ROI table"), stacked)


def pixel_hashes(images: npt.NDArray[np.uint8]) -> list[str]:
    """SHA-256 of each image's pixels, row by row, as lower-case hex."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def write_rois(rois: RoiSet, out_dir: Path) -> None:
    """Write `rois.parquet` and `images.npy` into a folder; neither appears before both are complete.

    Raises:
        DataError: the folder cannot be written or the disk is full.
    """
    table_path, images_path = out_dir / TABLE_FILE, out_dir / IMAGES_FILE
    with atomic_path(table_path) as table_file, atomic_path(images_path) as images_file:
        rois.table.to_parquet(table_file, index=False)
        with images_file.open("wb") as file:
            np.save(file, rois.images, allow_pickle=False)


def read_rois(out_dir: Path) -> RoiSet:
    """Read what `write_rois` wrote, and check that table and images belong together.

    Raises:
        DataError: a file is missing or damaged, or the two do not fit each other.
    """
    table = conform(read_table(out_dir / TABLE_FILE), ROI_SCHEMA, str(out_dir / TABLE_FILE))
    images = read_array(out_dir / IMAGES_FILE)
    expected = (len(table), ROI_SIDE_PX, ROI_SIDE_PX)
    if images.dtype != np.uint8 or images.shape != expected:
        raise DataError(
            f"{out_dir / IMAGES_FILE}: must be uint8 of shape {expected}, got {images.dtype} of shape "
            f"{images.shape}; run `dvc repro` to rebuild it"
        )
    if pixel_hashes(images) != table["sha256"].to_list():
        raise DataError(
            f"{out_dir}: {IMAGES_FILE} and {TABLE_FILE} must come from one run, but the pixels differ from "
            "the table's sha256; run `dvc repro` to rebuild both"
        )
    return RoiSet(table, images)
