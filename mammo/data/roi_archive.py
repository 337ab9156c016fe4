"""The ROIs that the paper's authors published: `MIAS_ROIs.zip`, read in memory.

    MIAS_ROIs/train/Normal (1).png … MIAS_ROIs/train/Tumor (72).png, likewise val and test

`trainval` repeats train and val. The files are renumbered, so film, patient and lesion are unknown here.
"""

import hashlib
import lzma
import re
import stat
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mammo.config import IngestConfig
from mammo.data.sources import Progress, RoiSet, make_roi_set
from mammo.errors import DataError
from mammo.images import decode_roi
from mammo.records import SPLITS, Label

MAX_MEMBERS: Final = 5_000
MAX_MEMBER_BYTES: Final = 256 * 1024
"""A 120 × 120 grey picture has 14,400 bytes before compression."""
MAX_TOTAL_BYTES: Final = 64 * 2**20
MAX_RATIO: Final = 100
"""The published pictures do not shrink at all in the archive."""

_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    OSError,
)
"""What zipfile raises for a damaged archive, whatever method packed its members."""

_MEMBER: Final = re.compile(
    r"(?:MIAS_ROIs/)?(?P<folder>train|val|test|trainval)/"
    r"(?P<label>Normal|Tumor) \((?P<number>[1-9]\d{0,4})\)\.png"
)
_FOLDER: Final = re.compile(r"(?:MIAS_ROIs/)?(?:(?:train|val|test|trainval)/)?")


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    folder: str
    label: Label
    number: int

    @property
    def roi_id(self) -> str:
        return f"{self.folder}/{self.label.title} ({self.number})"


def load_mias_rois(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Read the published ROIs: train, val, test; in each Normal, Tumor; in each by number.

    Raises:
        DataError: the archive is missing, damaged, unsafe to open, incomplete, or holds what it should not.
    """
    try:
        with zipfile.ZipFile(raw) as archive:
            members = _members(archive, raw)
            contents = [_read(archive, member.info, raw) for member in members]
    except FileNotFoundError as error:
        raise DataError(f"{raw}: does not exist; run `mammo fetch` to get the ROI archive") from error
    except IsADirectoryError as error:
        raise DataError(f"{raw}: must be MIAS_ROIs.zip, got a folder; do not unpack the archive") from error
    except _BROKEN as error:
        raise DataError(f"{raw}: is not a whole zip archive ({error}); run `mammo fetch` again") from error
    _check_trainval_repeats(members, contents, raw)
    rows, images = [], []
    for member, content in zip(members, contents, strict=True):
        if member.folder not in SPLITS:
            continue
        images.append(decode_roi(content, f"{raw}: {member.info.filename}"))
        rows.append(
            {
                "roi_id": member.roi_id,
                "source": "mias_rois",
                "label": int(member.label),
                "published_split": member.folder,
                "synthetic": False,
            }
        )
        if progress:
            progress(len(rows), len(members))
    return make_roi_set(rows, images)


def _members(archive: zipfile.ZipFile, raw: Path) -> list[_Member]:
    """Check the archive's directory and return its pictures in natural order."""
    infos = archive.infolist()
    _check_sizes(infos, raw)
    members: dict[str, _Member] = {}
    for info in infos:
        _check_safe(info, raw)
        if _FOLDER.fullmatch(info.filename):
            continue
        match = _MEMBER.fullmatch(info.filename)
        if match is None:
            raise DataError(
                f"{raw}: members must be named like 'MIAS_ROIs/train/Tumor (1).png', got {info.filename!r}; "
                "use the archive as its authors published it (`mammo fetch`)"
            )
        member = _Member(info, match["folder"], Label[match["label"].upper()], int(match["number"]))
        if member.roi_id in members:
            raise DataError(
                f"{raw}: each ROI must appear once, got {member.roi_id!r} twice; run `mammo fetch` again"
            )
        members[member.roi_id] = member
    for split in SPLITS:
        present = {member.label for member in members.values() if member.folder == split}
        if len(present) < len(Label):
            raise DataError(
                f"{raw}: the folder {split} must hold Normal and Tumor ROIs, got "
                f"{sorted(label.title for label in present) or 'none'}; run `mammo fetch` again"
            )
    folders = (*SPLITS, "trainval")
    return sorted(
        members.values(), key=lambda member: (folders.index(member.folder), member.label, member.number)
    )


def _check_sizes(infos: list[zipfile.ZipInfo], raw: Path) -> None:
    """Refuse a zip bomb by what the directory says; `_read` holds each member to it."""
    remedy = "use the archive as its authors published it (`mammo fetch`)"
    if len(infos) > MAX_MEMBERS:
        raise DataError(f"{raw}: must have at most {MAX_MEMBERS} members, got {len(infos)}; {remedy}")
    total = sum(info.file_size for info in infos)
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{raw}: must unpack to at most {MAX_TOTAL_BYTES} bytes, got {total}; {remedy}")
    for info in infos:
        if info.file_size > min(MAX_MEMBER_BYTES, MAX_RATIO * max(info.compress_size, 1)):
            raise DataError(
                f"{raw}: a member must unpack to at most {MAX_MEMBER_BYTES} bytes and {MAX_RATIO} times its "
                f"packed size, got {info.filename!r} with {info.file_size} from {info.compress_size}; {remedy}"
            )


def _check_safe(info: zipfile.ZipInfo, raw: Path) -> None:
    """Refuse names that lead out of a folder, and links.

    Nothing is unpacked here, but an archive that holds them is hostile.
    """
    name = info.filename
    outside = name.startswith(("/", "\\")) or ":" in name or ".." in re.split(r"[/\\]", name)
    if outside or stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(
            f"{raw}: members must be plain files inside the archive, got {name!r}; the archive is not to be "
            "trusted, delete it and run `mammo fetch`"
        )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: Path) -> bytes:
    with archive.open(info) as member:
        content = member.read(MAX_MEMBER_BYTES + 1)
    if len(content) != info.file_size:
        raise DataError(
            f"{raw}: {info.filename!r} must unpack to the {info.file_size} bytes that the directory names, "
            f"got {len(content)}; run `mammo fetch` again"
        )
    return content


def _check_trainval_repeats(members: list[_Member], contents: list[bytes], raw: Path) -> None:
    """Check that `trainval`, where there is one, holds train and val and nothing else."""
    counts: dict[bool, Counter[tuple[Label, str]]] = {True: Counter(), False: Counter()}
    for member, content in zip(members, contents, strict=True):
        if member.folder != "test":
            counts[member.folder == "trainval"][member.label, hashlib.sha256(content).hexdigest()] += 1
    if counts[True] and counts[True] != counts[False]:
        foreign, missing = (counts[True] - counts[False]).total(), (counts[False] - counts[True]).total()
        raise DataError(
            f"{raw}: the folder trainval must repeat train and val, got {foreign} ROIs that are not theirs and "
            f"{missing} missing; run `mammo fetch` again"
        )
