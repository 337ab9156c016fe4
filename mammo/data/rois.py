"""ROIs in one container, their sources behind one function, and the files they lie in."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.config import IngestConfig
from mammo.core.errors import DATA_NAMES, PHANTOM, DataError
from mammo.core.files import Workspace, atomic_path, read_array, read_table
from mammo.core.records import ROI_SCHEMA, ROI_SIDE_PX, Label, conform

TABLE_FILE: Final = "rois.parquet"
IMAGES_FILE: Final = "images.npy"

Progress = Callable[[int, int], None]
"""Told how much is done and how much there is in all: films, or steps of a search."""


@dataclass(frozen=True)
class Rois:
    """ROIs and what is known about them.

    Attributes:
        table: one row for each ROI by `ROI_SCHEMA`; after `with_split` also `group_id` and `split`.
        images: uint8 grey levels of shape (N, 120, 120), in the order of the rows.
    """

    table: pd.DataFrame
    images: npt.NDArray[np.uint8]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """0 Normal, 1 Tumor: `(N,)`."""
        return self.table["label"].to_numpy(dtype=np.int64)

    @property
    def groups(self) -> npt.NDArray[np.object_]:
        """The group of each ROI, `(N,)`: ROIs that share tissue or a patient."""
        return self.table["group_id"].to_numpy(dtype=object)

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each ROI by its id."""
        return dict(zip(self.table["roi_id"], self.groups, strict=True))

    @property
    def name(self) -> str:
        """The part that these ROIs are: `train`, `val` or `test`; several are named with commas."""
        return ", ".join(self.table["split"].unique())

    @property
    def synthetic(self) -> bool:
        """Whether any of the ROIs is a phantom's."""
        return bool(self.table["synthetic"].any())

    def with_split(self, split: pd.DataFrame) -> "Rois":
        """The same ROIs with the patients, groups and parts of a split (`SPLIT_SCHEMA`, rows in any order).

        Raises:
            DataError: the split does not name each ROI exactly once.
        """
        table = self.table.drop(columns=["patient_id", "group_id", "split"], errors="ignore")
        if sorted(split["roi_id"]) != sorted(table["roi_id"]):
            raise DataError(
                f"split: must name each ROI of the table exactly once, got {len(split)} rows for {len(table)} ROIs; "
                "run `dvc repro` to split again"
            )
        return Rois(table.merge(split, on="roi_id", how="left", validate="one_to_one"), self.images)

    def only(self, which: Iterable[str] | npt.NDArray[np.bool_]) -> "Rois":
        """Some of the ROIs in their order, by their ids or by a mask of the rows."""
        if not isinstance(which, np.ndarray):
            which = self.table["roi_id"].isin(set(which)).to_numpy(dtype=bool)
        return Rois(self.table[which].reset_index(drop=True), self.images[which])

    def part(self, name: str) -> "Rois":
        """One part of the split: `train`, `val` or `test`."""
        return self.only((self.table["split"] == name).to_numpy(dtype=bool))

    @property
    def n_patients(self) -> int | None:
        """How many patients there are; None where that of a ROI is unknown."""
        patients = self.table["patient_id"]
        return None if patients.isna().any() else int(patients.nunique())

    @property
    def name_of_data(self) -> str:
        """Whose ROIs these are, and whether their patients are known, for people."""
        whose = PHANTOM if self.synthetic else DATA_NAMES[str(self.table["source"].iloc[0])]
        return f"{whose} ROIs, patients {'unknown' if self.n_patients is None else 'known'}"

    @property
    def counts(self) -> str:
        """How many ROIs, films and patients there are, for people."""
        tumor, n_films, n_patients = self.labels.sum(), *self.table[["film_id", "patient_id"]].nunique()
        of = [f"{n} {what}" for n, what in ((n_films, "films"), (n_patients, "patients")) if n]
        return f"{len(self.labels)} ROIs, {tumor} Tumor and {len(self.labels) - tumor} Normal" + (
            f", of {' and '.join(of)}" if of else "; the source names no patients"
        )

    def describe(self) -> dict[str, Any]:
        """Source, counts and whether the ROIs are synthetic."""
        return {
            "name": self.name_of_data,
            "source": str(self.table["source"].iloc[0]),
            "synthetic": self.synthetic,
            "n_rois": len(self.table),
            "n_tumor": int((self.labels == Label.TUMOR).sum()),
            "n_normal": int((self.labels == Label.NORMAL).sum()),
            "n_groups": len(set(self.groups)),
            "n_patients": self.n_patients,
        }


def load_rois(config: IngestConfig, root: Path) -> Rois:
    """Every ROI of the raw data that `config` names, relative to the project's `root`, in natural order.

    Raises:
        DataError: the raw data is missing or breaks its source's contract.
    """
    from mammo.data.archive import ROIS_ARCHIVE, load_mias_rois  # these modules import this one
    from mammo.data.film_rois import load_films
    from mammo.data.own import TABLE, load_own

    place = Workspace(root).raw(config.source)
    match config.source:
        case "mias_rois":
            return load_mias_rois(place / ROIS_ARCHIVE)
        case "mini_mias" | "phantom":
            return load_films(place, config)
        case "own":
            return load_own(place / TABLE, config)


def make_roi_set(rows: Sequence[Mapping[str, Any]], images: Sequence[npt.NDArray[np.uint8]]) -> Rois:
    """Join rows (values of `ROI_SCHEMA`, null where a key is missing) and their images, uint8 `(120, 120)`.

    Raises:
        DataError: there is no ROI, or a value does not fit the schema.
    """
    if not rows:
        raise DataError("a source must give at least one ROI, got none; check that its raw data is complete")
    stacked = np.stack(images)
    table = pd.DataFrame(list(rows), columns=list(ROI_SCHEMA))
    table["sha256"] = pixel_hashes(stacked)
    return Rois(conform(table, ROI_SCHEMA, "ROI table"), stacked)


def pixel_hashes(images: npt.NDArray[Any]) -> list[str]:
    """SHA-256 of each image's pixels, row by row, as lower-case hex."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def write_rois(rois: Rois, out_dir: Path) -> None:
    """Write `rois.parquet` and `images.npy` into a folder (or `DataError`); neither appears before both are whole."""
    table_path, images_path = out_dir / TABLE_FILE, out_dir / IMAGES_FILE
    with atomic_path(table_path) as table_file, atomic_path(images_path) as images_file:
        rois.table.to_parquet(table_file, index=False)
        with images_file.open("wb") as file:
            np.save(file, rois.images, allow_pickle=False)


def read_rois(out_dir: Path) -> Rois:
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
    return Rois(table, images)
