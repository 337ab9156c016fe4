"""Films and patients that `mammo locate` gave back to ROIs whose source does not know them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import dist
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from mammo.core.errors import DataError
from mammo.core.files import read_table
from mammo.core.records import ROI_SCHEMA, conform
from mammo.data.audit_search import MATCH_CORRELATION, MATCH_STRENGTH, TILE_SHARE
from mammo.data.extraction import preprocess_film
from mammo.data.films import Annotation, open_films, patient_of, read_annotations, read_films
from mammo.data.locate_search import (
    BOTH_AXES,
    ONE_AXIS,
    WHOLE,
    ByteImages,
    Fit,
    Places,
    Size,
    crop_centre,
    fit_place,
    fit_size,
    search_films,
    small_texture,
)
from mammo.data.rois import Progress, RoiSet

LOCATED_SCHEMA: Final[dict[str, str]] = {
    "roi_id": "string",
    "sha256": "string",
    "film_id": "string",
    "patient_id": "string",
    "x_px": "Int32",
    "y_px": "Int32",
    "width_px": "Int32",
    "height_px": "Int32",
    "score": "float64",
    "second_score": "float64",
    "margin": "float64",
    "lesion_px": "float64",
    "verdict": "string",
}
"""One row for each ROI, in the order of the ROI table.

`sha256`: of the ROI's pixels. `x_px`, `y_px`: centre of the 120 × 120 crop in the film, top-left origin.
`width_px`, `height_px`: what the crop kept before it was stretched; 120 where nothing was. `score`: correlation
of the ROI's texture with that of the film there; `second_score`: the best in any other film; `margin`: their
difference. `lesion_px`: distance to the nearest lesion that `Info.txt` places in that film. `verdict`: `located`
or `uncertain`; an uncertain row says where the best match lies, which may be wrong.
"""

LOCATED: Final = "located"
UNCERTAIN: Final = "uncertain"


def known_owners(table: pd.DataFrame, located: Path) -> pd.DataFrame:
    """The ROI table with the films and patients of located ROIs where its source knows none.

    Args:
        table: ROI table (`ROI_SCHEMA`).
        located: what `mammo locate` wrote (`LOCATED_SCHEMA`); without the file, and where the
            source knows every film, the table comes back as it is.

    Raises:
        DataError: the file is damaged, or was made from other ROIs.
    """
    if not located.is_file() or table["film_id"].notna().all():
        return table
    rows = conform(read_table(located), LOCATED_SCHEMA, str(located)).set_index("roi_id")
    pixels = table["roi_id"].map(rows["sha256"])
    if not (pixels == table["sha256"]).fillna(False).all():
        raise DataError(
            f"{located}: must locate exactly the ROIs of the table, got others; run `mammo locate FILMS` again or "
            "delete the file"
        )
    certain = rows[rows["verdict"] == LOCATED]
    return table.assign(
        **{
            column: table[column].where(table[column].notna(), table["roi_id"].map(certain[column].to_dict()))
            for column in ("film_id", "patient_id")
        }
    ).astype(ROI_SCHEMA)


N_FITTED: Final = 6
"""Films whose best place is fitted at full resolution."""

MIN_MARGIN: Final = 0.2
"""A ROI is located where its correlation is above that in any other film by this much or more. ROIs in the
wrong film reach 0.3 (measured on phantoms); those in their own begin at 0.9."""

PASSES: Final[tuple[tuple[Size, ...], ...]] = ((WHOLE,), ONE_AXIS, BOTH_AXES)
"""Sizes to look for; each pass takes only the ROIs that the one before has not located."""


def locate_rois(
    rois: RoiSet, films: Path, n_threads: int = 2, progress: Progress | None = None
) -> pd.DataFrame:
    """Look for each ROI in each film.

    All films are kept in memory, 1 MiB each.

    Args:
        rois: ROI table and images; of the table only ids and hashes are read.
        films: mini-MIAS archive or folder, with its `Info.txt`.
        n_threads: threads; the result does not depend on them.
        progress: told how many steps are done of those known so far.

    Returns:
        `LOCATED_SCHEMA`, in the order of the ROI table.

    Raises:
        DataError: the films are missing, incomplete or damaged.
    """
    with ThreadPoolExecutor(n_threads) as threads, open_films(films) as store:
        annotations = read_annotations(store)
        steps = _Steps(progress, len(store.films) + sum(len(sizes) for sizes in PASSES))
        prepared: dict[str, ByteImages] = {}
        read = ((film_id, film) for film_id, film in read_films(store, store.films))
        for film_id, film in threads.map(lambda named: (named[0], preprocess_film(named[1])), read):
            prepared[film_id] = film
            steps.done()
        film_ids = sorted(prepared)
        fits = _fit_all(rois.images, [prepared[film_id] for film_id in film_ids], threads, steps.done)
    lesions = _lesions(annotations)
    rows = [
        _row(roi_id, sha256, found, film_ids, prepared, lesions)
        for roi_id, sha256, found in zip(rois.table["roi_id"], rois.table["sha256"], fits, strict=True)
    ]
    return conform(pd.DataFrame(rows, columns=list(LOCATED_SCHEMA)), LOCATED_SCHEMA, "located ROIs")


class _Steps:
    """Counts what is done for a progress observer."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def done(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


Fitted = list[tuple[int, Fit]]
"""Films (by number) and the fit in each, the best first."""


def _fit_all(
    images: ByteImages, films: Sequence[ByteImages], threads: ThreadPoolExecutor, step: Callable[[], None]
) -> list[Fitted]:
    """The fits of each ROI, by as many passes as it needs."""
    small = np.stack([small_texture(film) for film in films])
    fits: list[Fitted] = [[] for _ in images]
    for sizes in PASSES:
        rows = [row for row, found in enumerate(fits) if not _certain(found)]
        if not rows:
            break
        places = search_films(small, images[rows], sizes, threads, step)

        def fitted(index: int, rows: list[int] = rows, places: Places = places) -> Fitted:
            return _fit_roi(films, images[rows[index]], places, index)

        for row, found in zip(rows, threads.map(fitted, range(len(rows))), strict=True):
            if not fits[row] or found[0][1].strength > fits[row][0][1].strength:
                fits[row] = found
    return fits


def _fit_roi(films: Sequence[ByteImages], image: ByteImages, places: Places, roi: int) -> Fitted:
    found = []
    for film in places.best_films(roi, N_FITTED):
        top, left, height, width = (
            int(values[roi, film]) for values in (places.top, places.left, places.height, places.width)
        )
        rough = Fit(top, left, height, width, strength=0.0)
        fit = fit_place if (height, width) == WHOLE else fit_size
        found.append((film, fit(films[film], image, rough)))
    return sorted(found, key=lambda one: -one[1].correlation)


def _certain(found: Fitted) -> bool:
    """Whether the best fit holds all over its box and leaves the other films far behind."""
    if not found:
        return False
    best = found[0][1]
    return (
        best.correlation >= MATCH_CORRELATION
        and best.strength >= MATCH_STRENGTH
        and best.tile_share >= TILE_SHARE
        and best.correlation - _second(found) >= MIN_MARGIN
    )


def _second(found: Fitted) -> float:
    return found[1][1].correlation if len(found) > 1 else 0.0


def _lesions(annotations: Sequence[Annotation]) -> dict[str, list[tuple[int, int]]]:
    """Places of the lesions by film."""
    places: dict[str, list[tuple[int, int]]] = {}
    for one in annotations:
        if one.x_px is not None and one.y_px is not None:
            places.setdefault(one.film_id, []).append((one.x_px, one.y_px))
    return places


def _row(
    roi_id: str,
    sha256: str,
    found: Fitted,
    film_ids: Sequence[str],
    films: dict[str, ByteImages],
    lesions: dict[str, list[tuple[int, int]]],
) -> dict[str, Any]:
    film, best = found[0]
    film_id = film_ids[film]
    x_px, y_px = crop_centre(films[film_id], best)
    return {
        "roi_id": roi_id,
        "sha256": sha256,
        "film_id": film_id,
        "patient_id": patient_of(film_id),
        "x_px": x_px,
        "y_px": y_px,
        "width_px": best.width,
        "height_px": best.height,
        "score": best.correlation,
        "second_score": _second(found),
        "margin": best.correlation - _second(found),
        "lesion_px": min((dist((x_px, y_px), place) for place in lesions.get(film_id, [])), default=np.nan),
        "verdict": LOCATED if _certain(found) else UNCERTAIN,
    }
