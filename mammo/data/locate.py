"""Films and patients of ROIs whose source does not know them, proved by cutting the same ROI again."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import dist
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from mammo.core.errors import DataError
from mammo.core.files import Workspace, read_table
from mammo.core.records import ROI_SIDE_PX, conform
from mammo.data.decode import GreyImage
from mammo.data.extraction import cubic_taps, extract_roi, preprocess_film
from mammo.data.films import (
    Annotation,
    holds_films,
    open_films,
    patient_of,
    read_annotations,
    read_films,
)
from mammo.data.rois import Rois

LOCATED_SCHEMA: Final[dict[str, str]] = {
    **dict.fromkeys(("roi_id", "sha256", "film_id", "patient_id"), "string"),
    **dict.fromkeys(("x_px", "y_px"), "Int32"),
    "lesion_px": "float64",
    **dict.fromkeys(("tissue", "abnormality", "severity"), "string"),
    "radius_px": "Int32",
}
"""One row for each ROI, in the order of the ROI table; all but id and hash are null where it was not found.

`sha256`: of the ROI's pixels. `x_px`, `y_px`: a centre at which the extraction gives these pixels, counted as in
`Info.txt`. `lesion_px`: distance to the nearest lesion that `Info.txt` places in that film. The last four are what
`Info.txt` says of the film and of the lesion whose centre is the ROI's; null where it has no lesion there.
"""
FROM_FILMS: Final = ("film_id", "patient_id", "tissue", "abnormality", "severity", "radius_px")
"""Columns of the ROI table that a source without films leaves null."""

N_THREADS: Final = 2
_KEY_PX: Final = 8
"""Pixels side by side that a search looks for: 64 bits."""
_HASH_BITS: Final = 22
"""A table of so many bits tells most of a film's pixels from all keys."""
_MIN_LEVELS: Final = 4
"""Fewer grey levels in a key occur all over a film."""
_SIDES: Final = range(30, ROI_SIDE_PX)
"""Sides of a bounding box that a ROI may have been stretched from; a smaller one has no region of 1,500 pixels."""
_LIKELY_SIDES: Final = 6
"""How many of them are searched, the likeliest first."""


def with_films(table: pd.DataFrame, located: Path) -> pd.DataFrame:
    """The ROI table with films, patients and lesions of located ROIs where its source knows none.

    Without the file `located` (`LOCATED_SCHEMA`, of the stage `locate`), and where the source knows every film, the
    table comes back as it is.

    Raises:
        DataError: the file is damaged, or was made from other ROIs.
    """
    if not located.is_file() or table["film_id"].notna().all():
        return table
    found = _rows_of(table, located)[list(FROM_FILMS)]
    return table.assign(**{column: table[column].fillna(found[column]) for column in FROM_FILMS})


def _rows_of(table: pd.DataFrame, located: Path) -> pd.DataFrame:
    rows = conform(read_table(located), LOCATED_SCHEMA, str(located)).set_index("roi_id")
    pixels = table["roi_id"].map(rows["sha256"])
    if not (pixels == table["sha256"]).fillna(False).all():
        raise DataError(f"{located}: must locate exactly the ROIs of the table, got others; run `dvc repro locate`")
    return rows.loc[table["roi_id"]].set_axis(table.index)


def can_be_cut_again(table: pd.DataFrame, workspace: Workspace) -> bool:
    """Whether the workspace has films in which every ROI of the table (`ROI_SCHEMA`) is located."""
    return holds_films(workspace.films) and bool(with_films(table, workspace.located)["film_id"].notna().all())


def cut_again(table: pd.DataFrame, workspace: Workspace, *, bounding_box: bool) -> npt.NDArray[np.uint8]:
    """Located ROIs as another setting of `ingest.bounding_box` cuts them, `(N, 120, 120)`.

    Several crops may be stretched to the same ROI; without the stretch it is the one around the place that was found.

    Raises:
        DataError: a ROI is not located, or the films are missing, incomplete or damaged.
    """
    if not can_be_cut_again(table, workspace):
        raise DataError(
            f"{workspace.films}: must hold films in which every ROI is located, so that they can be cut again; run "
            "`mammo fetch --source mini_mias` and `dvc repro locate`"
        )
    rows, images = _rows_of(table, workspace.located), np.zeros((len(table), *2 * (ROI_SIDE_PX,)), np.uint8)
    with open_films(workspace.films) as store:
        for film_id, film in read_films(store, set(rows["film_id"])):
            prepared = preprocess_film(film)
            for index in np.flatnonzero(rows["film_id"] == film_id):
                place = rows["x_px"].iloc[index], rows["y_px"].iloc[index]
                images[index] = extract_roi(prepared, *place, bounding_box)
    return images


def locate_rois(rois: Rois, films: Path) -> pd.DataFrame:
    """Look for each ROI in each film; a ROI is located where the extraction gives its very pixels.

    Places are tried where `Info.txt` has a lesion and where a film holds the same 8 pixels in a row as a ROI, or as
    what it was before its stretch. Raw films wait in memory until they are preprocessed, which stay there: 1 MiB each.

    Args:
        rois: ROI table and images; of the table only ids and hashes are read.
        films: mini-MIAS archive or folder, with its `Info.txt`.

    Returns:
        `LOCATED_SCHEMA`, in the order of the ROI table.

    Raises:
        DataError: the films are missing, incomplete or damaged.
    """
    wanted = {image.tobytes(): row for row, image in enumerate(rois.images)}
    found: dict[int, tuple[str, int, int]] = {}
    known: dict[str, list[Annotation]] = {}
    with ThreadPoolExecutor(N_THREADS) as threads, open_films(films) as store:
        for one in read_annotations(store):
            known.setdefault(one.film_id, []).append(one)
        lesions = {film_id: [*_centres(rows)] for film_id, rows in known.items()}
        prepared = dict(
            threads.map(lambda named: (named[0], preprocess_film(named[1])), read_films(store, store.films))
        )

        def look(boxes: Iterable[GreyImage], places: Mapping[str, list[tuple[int, int]]]) -> None:
            search = _Search(boxes)

            def matches_in(film_id: str) -> dict[int, tuple[int, int]]:
                film = prepared[film_id]
                return _matches(film, [*places.get(film_id, []), *search.places(film)], wanted)

            for film_id, matches in zip(prepared, threads.map(matches_in, prepared), strict=True):
                found.update((row, (film_id, *place)) for row, place in matches.items())

        look(rois.images, lesions)
        rest = [image for row, image in enumerate(rois.images) if row not in found]
        look([box for image in rest for box in _unstretched(image)], {})
    return _located(rois, found, known)


def locate_where_films(rois: Rois, workspace: Workspace) -> pd.DataFrame:
    """As `locate_rois` with the workspace's films; nothing where there are none, or for ROIs not the authors'."""
    if (rois.table["source"] == "mias_rois").all() and holds_films(workspace.films):
        return locate_rois(rois, workspace.films)
    return _located(rois, {}, {})


def _centres(annotations: Iterable[Annotation]) -> dict[tuple[int, int], Annotation]:
    """The lesions of a film by their places, those that have one."""
    return {(one.x_px, one.y_px): one for one in annotations if one.x_px is not None and one.y_px is not None}


def _located(
    rois: Rois, found: Mapping[int, tuple[str, int, int]], known: Mapping[str, Sequence[Annotation]]
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for row, (roi_id, sha256) in enumerate(zip(rois.table["roi_id"], rois.table["sha256"], strict=True)):
        rows.append({"roi_id": roi_id, "sha256": sha256})
        if row in found:
            film_id, *place = found[row]
            x_px, y_px = place
            rows[-1] |= {"film_id": film_id, "patient_id": patient_of(film_id), "x_px": x_px, "y_px": y_px}
            of_film = known[film_id]
            centres = _centres(of_film)
            rows[-1]["lesion_px"] = min((dist(place, centre) for centre in centres), default=np.nan)
            rows[-1]["tissue"] = of_film[0].tissue
            normal = of_film[0] if of_film[0].abnormality == "NORM" else None
            if lesion := centres.get((x_px, y_px), normal):
                facts = ("abnormality", "severity", "radius_px")
                rows[-1] |= {fact: getattr(lesion, fact) for fact in facts}
    return conform(pd.DataFrame(rows, columns=list(LOCATED_SCHEMA)), LOCATED_SCHEMA, "located ROIs")


def _matches(
    film: GreyImage, places: Sequence[tuple[int, int]], wanted: dict[bytes, int]
) -> dict[int, tuple[int, int]]:
    """The rows of the ROIs that the extraction gives at one of the places, with the first such place."""
    matches: dict[int, tuple[int, int]] = {}
    for place in dict.fromkeys(places):
        if (row := wanted.get(extract_roi(film, *place).tobytes())) is not None:
            matches.setdefault(row, place)
    return matches


def _unstretched(image: GreyImage) -> list[GreyImage]:
    """The boxes from which the bicubic stretch would give the ROI best, one axis at a time."""
    boxes = []
    for axis in (0, 1):
        stretched = np.moveaxis(image, axis, 0).astype(np.float64)
        for side in _SIDES:
            stretch, back = _stretch(side)
            box = np.rint(back @ stretched)
            error = float(np.abs(np.rint(stretch @ box) - stretched).mean())
            boxes.append((error, np.moveaxis(box.clip(0, 255).astype(np.uint8), 0, axis)))
    return [np.ascontiguousarray(box) for _, box in sorted(boxes, key=lambda one: one[0])[:_LIKELY_SIDES]]


@cache
def _stretch(side: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The stretch from `side` pixels to a ROI's as a matrix, and its least-squares inverse."""
    weights, taps = cubic_taps(side, ROI_SIDE_PX)
    stretch = np.zeros((ROI_SIDE_PX, side))
    np.add.at(stretch, (np.arange(ROI_SIDE_PX)[:, None], taps), weights)
    back = np.asarray(np.linalg.pinv(stretch), dtype=np.float64)
    return stretch, back


def _hashed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _HASH_BITS)


class _Search:
    """Boxes by short rows of their pixels.

    A box that was stretched comes back with some pixels off by one, so that many rows of each are kept.
    """

    def __init__(self, boxes: Iterable[GreyImage]) -> None:
        self._probes: dict[int, list[tuple[GreyImage, int, int]]] = {}
        for box in boxes:
            height, width = box.shape
            for top in range(5, height, 15):
                for left in range(5, width - _KEY_PX, 15):
                    pixels = box[top, left : left + _KEY_PX]
                    if len(np.unique(pixels)) >= _MIN_LEVELS:
                        key = int(pixels.copy().view(np.uint64)[0])
                        self._probes.setdefault(key, []).append((box, top, left))
        self._may_be_key = np.zeros(2**_HASH_BITS, dtype=bool)
        self._may_be_key[_hashed(np.array([*self._probes], dtype=np.uint64))] = True

    def places(self, film: GreyImage) -> list[tuple[int, int]]:
        """Centres of the crops of a preprocessed film that hold one of the boxes."""
        found: list[tuple[int, int]] = []
        pixels = np.ascontiguousarray(film).ravel()
        for offset in range(_KEY_PX):
            words = pixels[offset : offset + (len(pixels) - offset) // _KEY_PX * _KEY_PX].view(np.uint64)
            for index in np.flatnonzero(self._may_be_key[_hashed(words)]).tolist():
                row, column = divmod(offset + _KEY_PX * index, film.shape[1])
                for box, top, left in self._probes.get(int(words[index]), ()):
                    found += _crops_around(film, box, row - top, column - left)
        return found


def _crops_around(film: GreyImage, box: GreyImage, top: int, left: int) -> list[tuple[int, int]]:
    """Centres of the crops that hold the box, if it lies at this place of the film."""
    height, width = box.shape
    inside = film[max(top, 0) : top + height, max(left, 0) : left + width]
    if inside.shape != box.shape or np.abs(inside.astype(np.int16) - box).mean() > 1:
        return []
    half = ROI_SIDE_PX // 2 + 1
    return [
        (x + half, y + half)
        for y in range(top - ROI_SIDE_PX + height, top + 1)
        for x in range(left - ROI_SIDE_PX + width, left + 1)
    ]


def located_line(located: pd.DataFrame) -> str:
    """How many ROIs were found in the films (`LOCATED_SCHEMA`), for people; empty where there are no films."""
    found = located.dropna(subset="film_id")
    if found.empty:
        return ""
    return (
        f"{len(found)} of {len(located)} ROIs located, bit by bit, in {found['film_id'].nunique()} films of "
        f"{found['patient_id'].nunique()} patients"
    )
