"""The published archive is read in memory, completely, and only if it is what it claims to be."""

import hashlib
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.data.archive import load_mias_rois
from mammo.data.rois import Rois
from tests.data.pictures import encoded, noise
from tests.settings import section


def small_archive() -> dict[str, bytes]:
    """Seven ROIs in the published layout; `trainval` repeats train and val under other numbers."""
    return {
        "MIAS_ROIs/train/Normal (1).png": encoded(noise(1)),
        "MIAS_ROIs/train/Normal (2).png": encoded(noise(2)),
        "MIAS_ROIs/train/Normal (10).png": encoded(noise(10)),
        "MIAS_ROIs/train/Tumor (1).png": encoded(noise(3)),
        "MIAS_ROIs/val/Normal (1).png": encoded(noise(4)),
        "MIAS_ROIs/val/Tumor (1).png": encoded(noise(5)),
        "MIAS_ROIs/test/Tumor (1).png": encoded(noise(6)),
        "MIAS_ROIs/test/Normal (1).png": encoded(noise(7)),
        "MIAS_ROIs/trainval/Normal (1).png": encoded(noise(4)),
        "MIAS_ROIs/trainval/Normal (2).png": encoded(noise(10)),
        "MIAS_ROIs/trainval/Normal (3).png": encoded(noise(1)),
        "MIAS_ROIs/trainval/Normal (4).png": encoded(noise(2)),
        "MIAS_ROIs/trainval/Tumor (1).png": encoded(noise(5)),
        "MIAS_ROIs/trainval/Tumor (2).png": encoded(noise(3)),
    }


def write(path: Path, members: Mapping[str, bytes], link: zipfile.ZipInfo | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            archive.writestr(link, "/etc/passwd")
    return path


def load(path: Path) -> Rois:
    return load_mias_rois(path, section(IngestConfig))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "MIAS_ROIs.zip"


def test_rois_come_in_natural_order_with_folder_label_and_pixels(archive: Path) -> None:
    rois = load(write(archive, small_archive()))

    assert rois.table["roi_id"].to_list() == [
        "train/Normal (1)",
        "train/Normal (2)",
        "train/Normal (10)",
        "train/Tumor (1)",
        "val/Normal (1)",
        "val/Tumor (1)",
        "test/Normal (1)",
        "test/Tumor (1)",
    ]
    assert rois.table["label"].to_list() == [0, 0, 0, 1, 0, 1, 0, 1]
    assert rois.table["published_split"].to_list() == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert np.array_equal(rois.images, np.stack([noise(seed) for seed in (1, 2, 10, 3, 4, 5, 7, 6)]))
    assert rois.table["sha256"][2] == hashlib.sha256(noise(10).tobytes()).hexdigest()


def test_what_the_archive_does_not_know_is_null(archive: Path) -> None:
    table = load(write(archive, small_archive())).table

    unknown = ["film_id", "patient_id", "abnormality", "severity", "tissue", "x_px", "y_px", "radius_px"]
    assert table[unknown].isna().all(axis=None)
    assert set(table["source"]) == {"mias_rois"}
    assert not table["synthetic"].any()


def test_an_archive_without_its_top_folder_or_trainval_is_read(archive: Path) -> None:
    members = {
        name.removeprefix("MIAS_ROIs/"): content
        for name, content in small_archive().items()
        if "trainval" not in name
    }

    assert len(load(write(archive, members)).table) == 8


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "MIAS_ROIs/../../evil.png", "/etc/evil.png", "C:/evil.png", "MIAS_ROIs/train/notes.txt"],
)
def test_a_member_that_no_published_archive_holds_is_refused(archive: Path, name: str) -> None:
    with pytest.raises(
        DataError, match=r"must be named like .*; use the archive as its authors published it"
    ):
        load(write(archive, {**small_archive(), name: encoded(noise(8))}))
    assert sorted(archive.parent.iterdir()) == [archive]


def test_a_link_is_refused(archive: Path) -> None:
    link = zipfile.ZipInfo("MIAS_ROIs/test/Tumor (2).png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DataError, match=r"Tumor \(2\)\.png: an image must be PNG"):
        load(write(archive, small_archive(), link))


def test_a_zip_bomb_is_refused_by_its_directory(archive: Path) -> None:
    bomb = write(archive, {**small_archive(), "MIAS_ROIs/train/Tumor (2).png": bytes(65 * 2**20)})
    with pytest.raises(DataError, match="must unpack to at most 67108864 bytes, got 68"):
        load(bomb)


def test_a_directory_that_understates_a_size_is_found_while_reading(archive: Path) -> None:
    """The lie: the directory says 1,000 bytes, the packed stream holds a megabyte."""
    name = "MIAS_ROIs/train/Tumor (2).png"
    write(archive, {**small_archive(), name: bytes(1_000_000)})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        header = content.rindex(name.encode()) if signature == b"PK\x01\x02" else content.index(name.encode())
        start = content.rindex(signature, 0, header)
        content[start + offset : start + offset + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(content)

    with pytest.raises(DataError, match="not a whole zip archive"):
        load(archive)


def test_a_missing_folder_is_named(archive: Path) -> None:
    members = {name: content for name, content in small_archive().items() if "/val/" not in name}
    with pytest.raises(DataError, match="the folder val must hold Normal and Tumor ROIs, got none"):
        load(write(archive, members))


def test_a_trainval_with_other_pictures_is_refused(archive: Path) -> None:
    with pytest.raises(DataError, match="trainval must repeat train and val, got 1"):
        load(write(archive, {**small_archive(), "MIAS_ROIs/trainval/Tumor (2).png": encoded(noise(99))}))


def test_a_picture_of_another_size_is_named(archive: Path) -> None:
    with pytest.raises(DataError, match=r"Tumor \(2\)\.png: a ROI must be 120 x 120 pixels, got 64 x 64"):
        load(write(archive, {**small_archive(), "MIAS_ROIs/test/Tumor (2).png": encoded(noise(8, 64))}))


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]
)
def test_a_damaged_member_is_refused_whatever_packed_it(archive: Path, method: int) -> None:
    with zipfile.ZipFile(archive, "w", method) as packed:
        for name, picture in small_archive().items():
            packed.writestr(name, picture)
    content = bytearray(archive.read_bytes())
    content[60:400] = bytes(340)
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is not a whole zip archive"):
        load(archive)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_archive_is_refused(archive: Path, share: float) -> None:
    content = write(archive, small_archive()).read_bytes()
    archive.write_bytes(content[: int(share * len(content))] or b"<html>rate limit</html>")
    with pytest.raises(DataError, match="is not a whole zip archive"):
        load(archive)


def test_a_missing_archive_says_how_to_get_it(archive: Path) -> None:
    with pytest.raises(DataError, match="does not exist; run `mammo fetch`"):
        load(archive)


def test_an_unpacked_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got a folder; do not unpack"):
        load(tmp_path)


@pytest.mark.real
def test_the_real_archive_holds_326_rois_in_the_published_counts(real_rois: Rois) -> None:
    counts = real_rois.table.groupby(["published_split", "label"]).size().to_dict()
    assert counts == {
        ("train", 0): 125,
        ("train", 1): 72,
        ("val", 0): 41,
        ("val", 1): 24,
        ("test", 0): 41,
        ("test", 1): 23,
    }
    assert real_rois.images.shape == (326, 120, 120)
    assert real_rois.table["sha256"].is_unique
