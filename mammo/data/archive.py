"""The authors' archive of 326 ROIs, read in place."""

import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import Final

from mammo.core.errors import DataError
from mammo.core.records import SPLITS, Label
from mammo.data.decode import decode_roi
from mammo.data.rois import Rois, make_roi_set

ROIS_ARCHIVE: Final = "MIAS_ROIs.zip"
"""What the ROIs are published as."""

_BROKEN: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)
"""What zipfile raises for a damaged archive, whatever method packed its members."""

_MEMBER: Final = re.compile(r"(?:MIAS_ROIs/)?(train|val|test)/((Normal|Tumor) \((\d+)\))\.png")
"""The folder `trainval` repeats train and val."""


def load_mias_rois(raw: Path) -> Rois:
    """Read the published ROIs from `MIAS_ROIs.zip`: train, val, test; in each Normal, Tumor; in each by number.

    Raises:
        DataError: the archive is missing, damaged or without ROIs.
    """
    rows, images = [], []
    try:
        with zipfile.ZipFile(raw) as archive:
            members = [found for name in archive.namelist() if (found := _MEMBER.fullmatch(name))]
            for member in sorted(members, key=lambda of: (SPLITS.index(of[1]), of[3], int(of[4]))):
                name, split, title, label, _ = member.group(0, 1, 2, 3, 4)
                images.append(decode_roi(archive.read(name), f"{raw}: {name}"))
                row = {"roi_id": f"{split}/{title}", "source": "mias_rois", "synthetic": False}
                rows.append({**row, "label": int(Label[label.upper()]), "published_split": split})
    except FileNotFoundError as error:
        raise DataError(f"{raw}: does not exist; run `mammo fetch` to get the ROI archive") from error
    except IsADirectoryError as error:
        raise DataError(f"{raw}: must be MIAS_ROIs.zip, got a folder; do not unpack the archive") from error
    except _BROKEN as error:
        raise DataError(f"{raw}: is not a whole zip archive ({error}); run `mammo fetch` again") from error
    return make_roi_set(rows, images)
