"""ROIs of the films of mini-MIAS and of phantoms: a Tumor ROI at each lesion, Normal ROIs at drawn places."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.records import ROI_SIDE_PX, TISSUES, Label
from mammo.data.decode import GreyImage
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.films import (
    PHANTOM_MARK,
    film_number,
    is_phantom,
    open_films,
    patient_of,
    read_annotations,
    read_films,
)
from mammo.data.rois import Rois, make_roi_set

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]

BACKGROUND_LEVEL: Final = 20
"""Raw grey levels up to this are the unexposed background of a film."""

_MARGIN_PX: Final = 8
"""Distance of a crop from the breast's edge."""
_COARSE: Final = 4
"""The outline is found on every fourth pixel."""
_MUSCLE_HEIGHT, _MUSCLE_WIDTH = 0.45, 0.5
"""Legs of the triangle that is taken for the pectoral muscle, as shares of the breast's height and width."""


def choose_normal_films(normal_tissues: Mapping[str, str], lesion_tissues: Sequence[str], seed: int) -> list[str]:
    """Choose normal films so that their tissues are distributed as the lesions' are.

    Each tissue gets its share of the normal films, rounded, or all it has if that is less; ids come back sorted.

    Args:
        normal_tissues: film id → F, G or D of every normal film.
        lesion_tissues: the tissue around each lesion that gives a ROI.
    """
    rng = np.random.default_rng([seed, 0])
    counts = Counter(lesion_tissues)
    chosen: list[str] = []
    for tissue in TISSUES:
        films = sorted(film for film, own in normal_tissues.items() if own == tissue)
        share = counts[tissue] / max(counts.total(), 1)
        wanted = min(len(films), round(len(normal_tissues) * share))
        chosen += [films[index] for index in rng.permutation(len(films))[:wanted]]
    return sorted(chosen)


def draw_normal_centre(film: GreyImage, film_number: int, seed: int) -> tuple[int, int] | None:
    """Draw the centre of a normal ROI, (x_px, y_px), evenly over the places where its whole crop is breast tissue.

    The corner of the pectoral muscle is left out if anything else remains; None if the crop fits nowhere.

    Args:
        film: raw grey levels, shape (height, width).
        film_number: with `seed` it seeds the draw, so that the order of films does not matter.
    """
    from scipy.ndimage import minimum_filter

    breast = breast_mask(film)
    side = 2 * ceil((ROI_SIDE_PX / 2 + _MARGIN_PX) / _COARSE) + 1
    for tissue in (breast & ~_pectoral_corner(breast), breast):
        # Centres whose crop, with a margin, lies on tissue and inside the film.
        rows, columns = np.nonzero(minimum_filter(tissue, side, mode="constant", cval=False))
        if rows.size:
            pick = np.random.default_rng([seed, film_number]).integers(rows.size)
            return int(columns[pick]) * _COARSE, int(rows[pick]) * _COARSE
    return None


def breast_mask(film: GreyImage) -> Mask:
    """The breast with muscle: the largest bright region without its holes, on every fourth row and column."""
    from scipy.ndimage import binary_fill_holes, binary_opening, label

    bright = binary_opening(film[::_COARSE, ::_COARSE] > BACKGROUND_LEVEL, iterations=2)
    regions, count = label(bright)
    if not count:
        return np.zeros(bright.shape, dtype=bool)
    sizes = np.bincount(regions.ravel())
    largest: Mask = binary_fill_holes(regions == 1 + np.argmax(sizes[1:]))
    return largest


def _pectoral_corner(breast: Mask) -> Mask:
    """A triangle in the upper corner at the chest wall, the side on which the breast is tallest."""
    if not breast.any():
        return breast
    rows, columns = np.flatnonzero(breast.any(axis=1)), np.flatnonzero(breast.any(axis=0))
    top, height, width = rows[0], np.ptp(rows) + 1, np.ptp(columns) + 1
    middle = (columns[0] + columns[-1]) // 2
    chest_is_left = breast[:, : middle + 1].sum() > breast[:, middle + 1 :].sum()
    down = (np.arange(breast.shape[0]) - top) / (height * _MUSCLE_HEIGHT)
    across = np.arange(breast.shape[1])
    chest = across - columns[0] if chest_is_left else columns[-1] - across
    triangle: Mask = np.add.outer(down, chest / (width * _MUSCLE_WIDTH)) < 1
    return triangle


def load_films(raw: Path, config: IngestConfig) -> Rois:
    """Cut the ROIs of the films in `all-mias.tar.gz` or its unpacked folder, or of a phantom, as `config.source` says.

    Every lesion with a place gives a Tumor ROI; normal films, chosen by `config.seed` to match the lesions'
    tissues, give one Normal ROI each. Ordered by film, then by the rows of `Info.txt`.

    Raises:
        DataError: the raw data is missing, incomplete or damaged, or a phantom stands for real films or they for it.
    """
    synthetic = config.source == "phantom"
    if not synthetic and is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source {config.source} needs real films, got a phantom ({PHANTOM_MARK} is there); "
            "set ingest.source to phantom"
        )
    if synthetic and not is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source phantom needs a folder that `mammo phantom` wrote, got none with {PHANTOM_MARK}; "
            "run `mammo phantom` to write it, or set ingest.source to mini_mias if the films are real"
        )
    cuts: list[tuple[dict[str, Any], GreyImage]] = []
    with open_films(raw) as store:
        annotations = read_annotations(store)
        normals = {one.film_id: one for one in annotations if one.abnormality == "NORM"}
        lesions = [one for one in annotations if one.x_px is not None]
        lost = [one.film_id for one in annotations if one.x_px is None and one.film_id not in normals]
        logger.info("%d films; rows without a place give no ROI: %s", len(store.films), ", ".join(lost) or "none")
        tissues = {film_id: normal.tissue for film_id, normal in normals.items()}
        chosen = choose_normal_films(tissues, [one.tissue for one in lesions], config.seed)
        for film_id, film in read_films(store, {one.film_id for one in lesions} | set(chosen)):
            if normal := normals.get(film_id):
                centre = draw_normal_centre(film, film_number(film_id), config.seed)
                if centre is None:
                    logger.warning("%s gives no normal ROI: no crop fits inside its breast", film_id)
                    continue
                sites = [replace(normal, x_px=centre[0], y_px=centre[1])]
            else:
                sites = [one for one in lesions if one.film_id == film_id]
            preprocessed = preprocess_film(film)
            for number, site in enumerate(sites, start=1):
                assert site.x_px is not None
                assert site.y_px is not None
                row = {
                    "roi_id": f"{film_id}/{'normal' if normal else f'lesion {number}'}",
                    "source": config.source,
                    "synthetic": synthetic,
                    "patient_id": patient_of(film_id),
                    "label": int(Label.NORMAL if normal else Label.TUMOR),
                    **vars(site),
                }
                cuts.append((row, extract_roi(preprocessed, site.x_px, site.y_px, config.bounding_box)))
    cuts.sort(key=lambda cut: str(cut[0]["film_id"]))
    return make_roi_set([row for row, _ in cuts], [image for _, image in cuts])
