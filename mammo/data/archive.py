"""The authors' archive of 326 ROIs, read in place."""

import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from mammo.core.errors import DataError
from mammo.core.records import SPLITS, Label
from mammo.data.decode import decode_roi
from mammo.data.rois import Rois, make_roi_set

ROIS_ARCHIVE: Final = "MIAS_ROIs.zip"
"""What the ROIs are published as."""
MAX_TOTAL_BYTES: Final = 64 * 2**20
"""The published archive unpacks to 4 MB."""

_BROKEN: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)
"""What zipfile raises for a damaged archive, whatever method packed its members."""

_MEMBER: Final = re.compile(
    r"(?:MIAS_ROIs/)?(?P<folder>train|val|test|trainval)/"
    r"(?P<label>Normal|Tumor) \((?P<number>[1-9]\d{0,4})\)\.png"
)
_FOLDER: Final = re.compile(r"(?:MIAS_ROIs/)?(?:(?:train|val|test|trainval)/)?")


class _Picture(NamedTuple):
    """A ROI in the archive; they sort in natural order."""

    folder: int
    label: Label
    number: int
    name: str


def load_mias_rois(raw: Path) -> Rois:
    """Read the published ROIs from `MIAS_ROIs.zip`: train, val, test; in each Normal, Tumor; in each by number.

    Raises:
        DataError: the archive is missing, damaged, unsafe to open, incomplete, or holds what it should not.
    """
    rows, images = [], []
    try:
        with zipfile.ZipFile(raw) as archive:
            total = sum(info.file_size for info in archive.infolist())
            # A zip bomb: zipfile reads no more of a member than the directory announces.
            if total > MAX_TOTAL_BYTES:
                raise DataError(
                    f"{raw}: must unpack to at most {MAX_TOTAL_BYTES} bytes, got {total}; use the archive as its "
                    "authors published it (`mammo fetch`)"
                )
            for folder, label, number, name in _pictures(archive.namelist(), raw):
                images.append(decode_roi(archive.read(name), f"{raw}: {name}"))
                split = SPLITS[folder]
                row = {
                    "roi_id": f"{split}/{label.title} ({number})",
                    "source": "mias_rois",
                    "synthetic": False,
                }
                rows.append({**row, "label": int(label), "published_split": split})
    except FileNotFoundError as error:
        raise DataError(f"{raw}: does not exist; run `mammo fetch` to get the ROI archive") from error
    except IsADirectoryError as error:
        raise DataError(f"{raw}: must be MIAS_ROIs.zip, got a folder; do not unpack the archive") from error
    except _BROKEN as error:
        raise DataError(f"{raw}: is not a whole zip archive ({error}); run `mammo fetch` again") from error
    return make_roi_set(rows, images)


def _pictures(names: list[str], raw: Path) -> list[_Picture]:
    """The ROIs of the three parts in natural order; the folder `trainval` repeats train and val."""
    pictures = []
    for name in names:
        if _FOLDER.fullmatch(name):
            continue
        match = _MEMBER.fullmatch(name)
        if match is None:
            raise DataError(
                f"{raw}: members must be named like 'MIAS_ROIs/train/Tumor (1).png', got {name!r}; use the archive as "
                "its authors published it (`mammo fetch`)"
            )
        if match["folder"] != "trainval":
            folder, label = SPLITS.index(match["folder"]), Label[match["label"].upper()]
            pictures.append(_Picture(folder, label, int(match["number"]), name))
    for folder, split in enumerate(SPLITS):
        present = {picture.label for picture in pictures if picture.folder == folder}
        if len(present) < len(Label):
            raise DataError(
                f"{raw}: the folder {split} must hold Normal and Tumor ROIs, got "
                f"{sorted(label.title for label in present) or 'none'}; run `mammo fetch` again"
            )
    return sorted(pictures)
