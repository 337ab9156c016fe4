"""The authors' archive of 326 ROIs, read in place."""

import hashlib
import lzma
import re
import zipfile
import zlib
from collections import Counter
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

_FOLDERS: Final = (*SPLITS, "trainval")
_MEMBER: Final = re.compile(
    r"(?:MIAS_ROIs/)?(?P<folder>train|val|test|trainval)/"
    r"(?P<label>Normal|Tumor) \((?P<number>[1-9]\d{0,4})\)\.png"
)
_FOLDER: Final = re.compile(r"(?:MIAS_ROIs/)?(?:(?:train|val|test|trainval)/)?")
_AS_PUBLISHED: Final = "use the archive as its authors published it (`mammo fetch`)"


class _Member(NamedTuple):
    """A picture in the archive; members sort in natural order."""

    folder: int
    label: Label
    number: int
    name: str

    @property
    def roi_id(self) -> str:
        return f"{_FOLDERS[self.folder]}/{self.label.title} ({self.number})"


def load_mias_rois(raw: Path) -> Rois:
    """Read the published ROIs from `MIAS_ROIs.zip`: train, val, test; in each Normal, Tumor; in each by number.

    Raises:
        DataError: the archive is missing, damaged, unsafe to open, incomplete, or holds what it should not.
    """
    try:
        with zipfile.ZipFile(raw) as archive:
            total = sum(info.file_size for info in archive.infolist())
            # A zip bomb: zipfile reads no more of a member than the directory announces.
            if total > MAX_TOTAL_BYTES:
                raise DataError(
                    f"{raw}: must unpack to at most {MAX_TOTAL_BYTES} bytes, got {total}; {_AS_PUBLISHED}"
                )
            pictures = {member: archive.read(member.name) for member in _members(archive.namelist(), raw)}
    except FileNotFoundError as error:
        raise DataError(f"{raw}: does not exist; run `mammo fetch` to get the ROI archive") from error
    except IsADirectoryError as error:
        raise DataError(f"{raw}: must be MIAS_ROIs.zip, got a folder; do not unpack the archive") from error
    except _BROKEN as error:
        raise DataError(f"{raw}: is not a whole zip archive ({error}); run `mammo fetch` again") from error
    _check_trainval_repeats(pictures, raw)
    rows, images = [], []
    for member, content in pictures.items():
        split = _FOLDERS[member.folder]
        if split not in SPLITS:
            continue
        images.append(decode_roi(content, f"{raw}: {member.name}"))
        row = {"roi_id": member.roi_id, "source": "mias_rois", "synthetic": False}
        rows.append({**row, "label": int(member.label), "published_split": split})
    return make_roi_set(rows, images)


def _members(names: list[str], raw: Path) -> list[_Member]:
    """Check the names in the archive and return its pictures in natural order."""
    members = []
    for name in names:
        if _FOLDER.fullmatch(name):
            continue
        match = _MEMBER.fullmatch(name)
        if match is None:
            raise DataError(
                f"{raw}: members must be named like 'MIAS_ROIs/train/Tumor (1).png', got {name!r}; {_AS_PUBLISHED}"
            )
        folder = _FOLDERS.index(match["folder"])
        members.append(_Member(folder, Label[match["label"].upper()], int(match["number"]), name))
    (roi_id, count), *_ = Counter(member.roi_id for member in members).most_common(1) or [("", 0)]
    if count > 1:
        raise DataError(f"{raw}: each ROI must appear once, got {roi_id!r} twice; run `mammo fetch` again")
    for folder, split in enumerate(SPLITS):
        present = {member.label for member in members if member.folder == folder}
        if len(present) < len(Label):
            raise DataError(
                f"{raw}: the folder {split} must hold Normal and Tumor ROIs, got "
                f"{sorted(label.title for label in present) or 'none'}; run `mammo fetch` again"
            )
    return sorted(members)


def _check_trainval_repeats(pictures: dict[_Member, bytes], raw: Path) -> None:
    """Check that `trainval`, where there is one, holds train and val and nothing else."""
    counts: dict[bool, Counter[tuple[Label, str]]] = {True: Counter(), False: Counter()}
    for member, content in pictures.items():
        folder = _FOLDERS[member.folder]
        if folder != "test":
            counts[folder == "trainval"][member.label, hashlib.sha256(content).hexdigest()] += 1
    if counts[True] and counts[True] != counts[False]:
        foreign, missing = (counts[True] - counts[False]).total(), (counts[False] - counts[True]).total()
        raise DataError(
            f"{raw}: the folder trainval must repeat train and val, got {foreign} ROIs that are not theirs and "
            f"{missing} missing; run `mammo fetch` again"
        )
