"""The ROI set lies on disk as one: table and images agree, or reading fails."""

import errno
import hashlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from mammo.core.config import IngestConfig, SourceName
from mammo.core.errors import DataError
from mammo.core.records import ROI_SCHEMA
from mammo.data.rois import Rois, load_rois, make_roi_set, read_rois, source_named, write_rois


def small_set(seed: int = 0, count: int = 3) -> Rois:
    images = np.random.default_rng(seed).integers(0, 256, (count, 120, 120), dtype=np.uint8)
    rows = [
        {"roi_id": f"roi {number}", "source": "mias_rois", "label": number % 2, "synthetic": False}
        for number in range(count)
    ]
    return make_roi_set(rows, list(images))


def test_a_roi_set_has_the_schema_and_the_hash_of_each_rois_pixels() -> None:
    rois = small_set()

    assert {name: str(kind) for name, kind in rois.table.dtypes.items()} == ROI_SCHEMA
    assert rois.table["sha256"].to_list() == [
        hashlib.sha256(image.tobytes()).hexdigest() for image in rois.images
    ]
    assert rois.table[["film_id", "x_px", "published_split"]].isna().all(axis=None)


def test_a_source_without_rois_is_refused() -> None:
    with pytest.raises(DataError, match="at least one ROI, got none"):
        make_roi_set([], [])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rois = small_set()
    write_rois(rois, tmp_path / "rois")

    read = read_rois(tmp_path / "rois")

    assert read.table.equals(rois.table)
    assert np.array_equal(read.images, rois.images)
    assert {path.name for path in (tmp_path / "rois").iterdir()} == {"rois.parquet", "images.npy"}


def test_the_same_rois_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_rois(small_set(), tmp_path / name)

    for file in ("rois.parquet", "images.npy"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_images_of_another_run_are_refused(tmp_path: Path) -> None:
    write_rois(small_set(), tmp_path)
    np.save(tmp_path / "images.npy", small_set(seed=1).images)
    with pytest.raises(DataError, match="must come from one run"):
        read_rois(tmp_path)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 120, 120), np.uint8), np.zeros((3, 120, 120)), np.zeros((3, 72, 72), np.uint8)]
)
def test_images_of_another_shape_are_refused(tmp_path: Path, images: Any) -> None:
    write_rois(small_set(), tmp_path)
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(DataError, match=r"must be uint8 of shape \(3, 120, 120\)"):
        read_rois(tmp_path)


def test_a_full_disk_leaves_the_old_rois_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rois(small_set(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_rois(small_set(seed=1), tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", get_args(SourceName))
def test_every_source_of_the_configuration_exists(name: str) -> None:
    assert callable(source_named(name))


def test_the_raw_path_counts_from_the_projects_root(phantom_folder: Path) -> None:
    config = IngestConfig(source="phantom", raw=phantom_folder.name)

    rois = load_rois(config, phantom_folder.parent)

    assert rois.table["film_id"].str.startswith("mdb").all()


def test_missing_raw_data_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MIAS_ROIs\.zip: does not exist; run `mammo fetch`"):
        load_rois(IngestConfig(), tmp_path)
