"""The films, patients and places of ROIs whose source does not know them, as `mammo locate` gives them back."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import dist
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from mammo.core.errors import DataError
from mammo.core.files import read_table
from mammo.core.records import ROI_SCHEMA, ROI_SIDE_PX, conform
from mammo.data.audit_search import MATCH_CORRELATION, MATCH_STRENGTH, TILE_SHARE
from mammo.data.extraction import crop_around, first_region, preprocess_film, window
from mammo.data.films import open_films, patient_of, read_annotations, read_films
from mammo.data.rois import Progress, RoiSet
from mammo.data.texture import (
    ByteImages,
    FloatArray,
    IntArray,
    OverlapLimits,
    Shape,
    Spectra,
    best_shifts,
    resized,
    share_of_matching_tiles,
    similarity,
    spectra,
    texture,
)

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
"""One row for each ROI, in the order of the ROI table. `sha256`: of the ROI's pixels. `x_px`, `y_px`: centre of
the 120 × 120 crop in the film, top-left origin. `width_px`, `height_px`: what the crop kept before it was stretched;
120 where nothing was. `score`: correlation of the ROI's texture with that of the film there; `second_score`: the best
in any other film; `margin`: their difference. `lesion_px`: distance to the nearest lesion that `Info.txt` places in
that film. `verdict`: `located` or `uncertain`; an uncertain row says where the best match lies, which may be wrong."""

LOCATED: Final = "located"
UNCERTAIN: Final = "uncertain"


def known_owners(table: pd.DataFrame, located: Path) -> pd.DataFrame:
    """The ROI table with the films and patients of located ROIs where its source knows none.

    Args:
        table: ROI table (`ROI_SCHEMA`).
        located: what `mammo locate` wrote (`LOCATED_SCHEMA`); without the file, and where the source knows
            every film, the table comes back as it is.

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
    known = {}
    for name in ("film_id", "patient_id"):
        owners = table["roi_id"].map(certain[name].to_dict())
        known[name] = table[name].where(table[name].notna(), owners)
    return table.assign(**known).astype(ROI_SCHEMA)


WHOLE: Final = (ROI_SIDE_PX, ROI_SIDE_PX)
"""Height and width, in film pixels, of what a ROI shows where it was not stretched."""

SCALE: Final = 4
"""Films are searched at 1/4 of their scale: 16 times faster, and small errors of a size do not matter."""

_SIDES: Final = range(48, ROI_SIDE_PX, SCALE)
PASSES: Final[tuple[tuple[Shape, ...], ...]] = (
    (WHOLE,),
    tuple(size for side in _SIDES for size in ((ROI_SIDE_PX, side), (side, ROI_SIDE_PX))),
    tuple((height, width) for height in _SIDES[::2] for width in _SIDES[::2]),
)
"""Sizes to look for: not stretched, stretched along one axis, along both at every other size. Each pass takes
only the ROIs that the one before has not located."""

INSIDE_SHARE: Final = 0.75
"""Share of a template's side that must lie inside the film."""

N_FITTED: Final = 6
"""Films whose best place is fitted at full resolution."""

REACH_PX: Final = 2 * SCALE
"""How far a place from the coarse search may be off."""

MIN_SIDE_PX: Final = 40
"""Smallest side of a box; a smaller region of tissue has too little texture to be told from chance."""

MIN_MARGIN: Final = 0.2
"""A ROI is located where its correlation is above that in any other film by this much or more. ROIs in the
wrong film reach 0.3 (measured on phantoms); those in their own begin at 0.9."""


@dataclass(frozen=True)
class Fit:
    """A box in a film and how well a ROI, squeezed to its size, fits it.

    Attributes:
        film: number of the film.
        top, left: upper left corner in the film, in pixels.
        height, width: size of the box; 120 along an axis that was not stretched.
        strength: of the match, see `texture.strength`.
        correlation: of the textures in the box, −1 to 1.
        tile_share: share of the box's tiles that match.
    """

    film: int
    top: int
    left: int
    height: int
    width: int
    strength: float = 0.0
    correlation: float = 0.0
    tile_share: float = 0.0


Fits = list[Fit]
"""Fits of one ROI in several films, the best first."""


def locate_rois(
    rois: RoiSet, films: Path, n_threads: int = 2, progress: Progress | None = None
) -> pd.DataFrame:
    """Look for each ROI in each film; all films are kept in memory, 1 MiB each.

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
    steps = count(1)
    prepared: dict[str, ByteImages] = {}
    with ThreadPoolExecutor(n_threads) as threads, open_films(films) as store:
        lesions = [(one.film_id, one.x_px, one.y_px) for one in read_annotations(store)]
        n_steps = len(store.films) + sum(map(len, PASSES))

        def step() -> None:
            if progress:
                progress(next(steps), n_steps)

        films_read = read_films(store, store.films)
        for film_id, film in threads.map(lambda read: (read[0], preprocess_film(read[1])), films_read):
            prepared[film_id] = film
            step()
        film_ids = sorted(prepared)
        fits = _fit_all(rois.images, [prepared[film_id] for film_id in film_ids], threads, step)
    rows = []
    for roi_id, sha256, found in zip(rois.table["roi_id"], rois.table["sha256"], fits, strict=True):
        best, second = found[0], _second(found)
        film_id = film_ids[best.film]
        centre = crop_centre(prepared[film_id], best)
        places = [(x, y) for film, x, y in lesions if film == film_id and x is not None and y is not None]
        lesion_px = min((dist(centre, place) for place in places), default=np.nan)
        scores = (best.correlation, second, best.correlation - second)
        owners, box = (film_id, patient_of(film_id)), (best.width, best.height)
        verdict = LOCATED if _certain(found) else UNCERTAIN
        rows.append((roi_id, sha256, *owners, *centre, *box, *scores, lesion_px, verdict))
    return conform(pd.DataFrame(rows, columns=list(LOCATED_SCHEMA)), LOCATED_SCHEMA, "located ROIs")


def _fit_all(
    images: ByteImages, films: Sequence[ByteImages], threads: ThreadPoolExecutor, step: Callable[[], None]
) -> list[Fits]:
    """The fits of each ROI, by as many passes as it needs."""
    small = np.stack([_small_texture(film) for film in films])
    fits: list[Fits] = [[] for _ in images]
    for sizes in PASSES:
        rows = [row for row, found in enumerate(fits) if not _certain(found)]
        if not rows:
            break
        places = _search(small, images[rows], sizes, threads, step)
        for row, found in zip(rows, threads.map(partial(_fit, films), images[rows], *places), strict=True):
            if not fits[row] or found[0].strength > fits[row][0].strength:
                fits[row] = found
    return fits


def _small_texture(film: ByteImages) -> FloatArray:
    """Texture of a film `(h, w)` at a quarter of its scale, by means of 4 × 4 pixels."""
    height, width = (side // SCALE for side in film.shape)
    blocks = film[: height * SCALE, : width * SCALE].reshape(height, SCALE, width, SCALE)
    small: FloatArray = texture(blocks.mean(axis=(1, 3), dtype=np.float32)[None])[0]
    return small


def _search(
    small_films: FloatArray,
    images: ByteImages,
    sizes: Sequence[Shape],
    threads: ThreadPoolExecutor,
    step: Callable[[], None],
) -> tuple[FloatArray, IntArray]:
    """The best place of each ROI in each film over all sizes of its box.

    Returns:
        Strengths, `(n_rois, n_films)`, and boxes in film pixels, `(n_rois, n_films, 4)`: top, left, height, width.
    """
    strengths = np.full((len(images), len(small_films)), -1, np.float32)
    boxes = np.zeros((*strengths.shape, 4), np.int64)
    film_shape = (small_films.shape[1], small_films.shape[2])
    for height, width in sizes:
        small = (height // SCALE, width // SCALE)
        limits = OverlapLimits(round(INSIDE_SHARE * min(small)), round(INSIDE_SHARE * small[0] * small[1]))
        templates = texture(np.stack([resized(image, small) for image in images]))
        moving = spectra(templates, film_shape, limits, moving=True)
        search = partial(_search_film, moving, small, limits)
        for film, (found, top, left) in enumerate(threads.map(search, small_films)):
            better = np.flatnonzero(found > strengths[:, film])
            strengths[better, film] = found[better]
            corners = np.column_stack([top[better], left[better]]) * SCALE
            boxes[better, film] = np.insert(corners, [2, 2], [height, width], axis=1)
        step()
    return strengths, boxes


def _search_film(
    templates: Spectra, size: Shape, limits: OverlapLimits, film: FloatArray
) -> tuple[FloatArray, IntArray, IntArray]:
    return best_shifts(spectra(film[None], size, limits, moving=False), 0, templates)


def _fit(films: Sequence[ByteImages], image: ByteImages, strengths: FloatArray, boxes: IntArray) -> Fits:
    """Fit a ROI `(120, 120)` in the films that hold its best places, `strengths` `(n_films,)`.

    A box's size is adjusted to whole pixels, one axis after the other, and its place with it, until no size within
    `SCALE` pixels fits better. An axis of 120 pixels was not stretched and stays.
    """
    found = []
    for film in np.argsort(-strengths, kind="stable")[:N_FITTED].tolist():
        rough = Fit(film, *boxes[film].tolist())
        best, before = _moved(films[film], image, rough), 0.0
        axes = [axis for axis in ("width", "height") if getattr(rough, axis) < ROI_SIDE_PX]
        while best.strength > before:
            before = best.strength
            for axis in axes:
                start = getattr(best, axis)
                for side in range(max(start - SCALE, MIN_SIDE_PX), min(start + SCALE, ROI_SIDE_PX - 1) + 1):
                    moved = _moved(films[film], image, replace(best, **{axis: side}))
                    best = max(best, moved, key=lambda fit: fit.strength)
        size = (best.height, best.width)
        pair = np.stack([window(films[film], best.top, best.left, size), resized(image, size)])
        of_film, of_roi = texture(pair)
        correlation, _ = similarity(of_film, of_roi)
        share = share_of_matching_tiles(of_film, of_roi)
        found.append(replace(best, correlation=correlation, tile_share=share))
    return sorted(found, key=lambda fit: -fit.correlation)


def _moved(film: ByteImages, image: ByteImages, rough: Fit) -> Fit:
    """Move a box to where the ROI fits best within `REACH_PX`."""
    size = (rough.height, rough.width)
    top, left = rough.top - REACH_PX, rough.left - REACH_PX
    shape = (rough.height + 2 * REACH_PX, rough.width + 2 * REACH_PX)
    limits = OverlapLimits(min(size), rough.height * rough.width)
    fixed = spectra(texture(window(film, top, left, shape)[None]), size, limits, moving=False)
    moving = spectra(texture(resized(image, size)[None]), shape, limits, moving=True)
    strengths, dy, dx = best_shifts(fixed, 0, moving)
    return replace(rough, top=top + int(dy[0]), left=left + int(dx[0]), strength=float(strengths[0]))


def _certain(found: Fits) -> bool:
    """Whether the best fit holds all over its box and leaves the other films far behind."""
    return bool(found) and (
        found[0].correlation >= MATCH_CORRELATION
        and found[0].strength >= MATCH_STRENGTH
        and found[0].tile_share >= TILE_SHARE
        and found[0].correlation - _second(found) >= MIN_MARGIN
    )


def _second(found: Fits) -> float:
    return found[1].correlation if len(found) > 1 else 0.0


def crop_centre(film: ByteImages, fit: Fit) -> tuple[int, int]:
    """Centre (x_px, y_px) of the crop whose bounding box of tissue is the fitted box.

    A box of the crop's own size has its centre in the middle. A smaller one lies anywhere in its crop; the
    film tells where, because what the crop lost is background. Where several centres give the same box, the
    middle one is returned.
    """
    half = ROI_SIDE_PX // 2
    if (fit.height, fit.width) == WHOLE:
        return fit.left + half, fit.top + half
    wanted = np.array([fit.top, fit.top + fit.height, fit.left, fit.left + fit.width])
    found: list[tuple[int, int, int]] = []
    for y in range(fit.top + fit.height - half, fit.top + half + 1):
        for x in range(fit.left + fit.width - half, fit.left + half + 1):
            rows, columns = first_region(crop_around(film, x, y))
            edges = np.array([rows.start, rows.stop, columns.start, columns.stop])
            edges += np.repeat([y - half, x - half], 2)
            found.append((int(np.abs(edges - wanted).sum()), x, y))
    least = min(found)[0]
    nearest = [(x, y) for distance, x, y in found if distance == least]
    return nearest[len(nearest) // 2]
