"""The published archive is read in memory, completely, and only if it is what it claims to be."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from mammo.core.errors import DataError
from mammo.data.archive import load_mias_rois
from mammo.data.rois import Rois
from tests.data.pictures import encoded, noise


def small_archive() -> dict[str, bytes]:
    """Eight ROIs in the published layout; `trainval` repeats train and val under other numbers."""
    seeds = {
        "train/Normal (1)": 1,
        "train/Normal (2)": 2,
        "train/Normal (10)": 10,
        "train/Tumor (1)": 3,
        "val/Normal (1)": 4,
        "val/Tumor (1)": 5,
        "test/Tumor (1)": 6,
        "test/Normal (1)": 7,
        "trainval/Normal (1)": 4,
        "trainval/Normal (2)": 10,
        "trainval/Normal (3)": 1,
        "trainval/Normal (4)": 2,
        "trainval/Tumor (1)": 5,
        "trainval/Tumor (2)": 3,
    }
    return {f"MIAS_ROIs/{name}.png": encoded(noise(seed)) for name, seed in seeds.items()}


def write(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "MIAS_ROIs.zip"


def test_rois_come_in_natural_order_with_folder_label_and_pixels_and_the_rest_is_null(archive: Path) -> None:
    rois = load_mias_rois(write(archive, small_archive()))
    table = rois.table
    assert table[["roi_id", "label", "published_split"]].to_numpy().tolist() == [
        ["train/Normal (1)", 0, "train"],
        ["train/Normal (2)", 0, "train"],
        ["train/Normal (10)", 0, "train"],
        ["train/Tumor (1)", 1, "train"],
        ["val/Normal (1)", 0, "val"],
        ["val/Tumor (1)", 1, "val"],
        ["test/Normal (1)", 0, "test"],
        ["test/Tumor (1)", 1, "test"],
    ]
    assert np.array_equal(rois.images, np.stack([noise(seed) for seed in (1, 2, 10, 3, 4, 5, 7, 6)]))
    assert table["sha256"][2] == hashlib.sha256(noise(10).tobytes()).hexdigest()
    unknown = ["film_id", "patient_id", "abnormality", "severity", "tissue", "x_px", "y_px", "radius_px"]
    assert table[unknown].isna().all(axis=None)
    assert set(table["source"]) == {"mias_rois"}
    assert not table["synthetic"].any()

    bare = {name[len("MIAS_ROIs/") :]: png for name, png in small_archive().items() if "trainval" not in name}
    assert load_mias_rois(write(archive, bare)).table.equals(table)


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ({"MIAS_ROIs/test/Tumor (2).png": b"/etc/passwd"}, r"Tumor \(2\)\.png: an image must be PNG"),
        ({"MIAS_ROIs/test/Tumor.png": encoded(noise(8))}, "must give at least one ROI, got none"),
    ],
)
def test_an_archive_of_other_things_is_refused(archive: Path, members: dict[str, bytes], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        load_mias_rois(write(archive, members))


def blotted(content: bytes) -> bytes:
    return content[:60] + bytes(340) + content[400:]


def understated(content: bytes) -> bytes:
    """The directory says that the first member unpacks to 1,000 bytes."""
    header = content.index(b"PK\x01\x02")
    return content[: header + 24] + (1000).to_bytes(4, "little") + content[header + 28 :]


@pytest.mark.parametrize(
    ("method", "damage"),
    [
        pytest.param(zipfile.ZIP_DEFLATED, blotted, id="a damaged member"),
        pytest.param(zipfile.ZIP_LZMA, blotted, id="a damaged member that LZMA packed"),
        pytest.param(zipfile.ZIP_DEFLATED, understated, id="a member larger than the directory says"),
        pytest.param(zipfile.ZIP_DEFLATED, lambda _: b"PK\x03\x04 and no more", id="cut off"),
        pytest.param(zipfile.ZIP_DEFLATED, lambda _: b"<html>rate limit</html>", id="a web page"),
    ],
)
def test_what_is_no_whole_archive_is_refused(archive: Path, method: int, damage: Callable[[bytes], bytes]) -> None:
    write(archive, small_archive(), method)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match="is not a whole zip archive"):
        load_mias_rois(archive)


def test_a_missing_archive_says_how_to_get_it_and_a_folder_is_none(archive: Path) -> None:
    with pytest.raises(DataError, match="does not exist; run `mammo fetch`"):
        load_mias_rois(archive)
    with pytest.raises(DataError, match="got a folder; do not unpack"):
        load_mias_rois(archive.parent)


@pytest.mark.real
def test_the_real_archive_holds_326_rois_in_the_published_counts(real_rois: Rois) -> None:
    counts = real_rois.table.groupby(["published_split", "label"], sort=False).size()
    assert counts.index.tolist() == [(part, label) for part in ("train", "val", "test") for label in (0, 1)]
    assert counts.tolist() == [125, 72, 41, 24, 41, 23]
    assert real_rois.images.shape == (326, 120, 120)
    assert real_rois.table["sha256"].is_unique
