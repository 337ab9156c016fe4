"""Where to cut normal ROIs: drawn by a seed instead of picked by hand, as the paper's were.

Lesions decide how many normal films of each tissue are used, and each of those gives one ROI whose whole
crop lies inside the breast.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

from mammo.records import ROI_SIDE_PX, TISSUES

BACKGROUND_LEVEL: Final = 20
"""Raw grey levels up to this are the unexposed background of a film."""

_MARGIN_PX: Final = 8
"""Distance of a crop from the breast's edge."""
_COARSE: Final = 4
"""The outline is found on every fourth pixel."""
_MUSCLE_HEIGHT, _MUSCLE_WIDTH = 0.45, 0.5
"""Legs of the triangle that is taken for the pectoral muscle, as shares of the breast's height and width."""


def choose_normal_films(
    normal_tissues: Mapping[str, str], lesion_tissues: Sequence[str], seed: int
) -> list[str]:
    """Choose normal films so that their tissues are distributed as the lesions' are.

    Each tissue gets its share of the normal films, rounded, or all it has if that is less.

    Args:
        normal_tissues: film id → F, G or D of every normal film.
        lesion_tissues: the tissue around each lesion that gives a ROI.

    Returns:
        Chosen film ids, sorted.
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


def draw_normal_centre(film: npt.NDArray[np.uint8], film_number: int, seed: int) -> tuple[int, int] | None:
    """Draw the centre of a normal ROI, evenly over the places where its whole crop is breast tissue.

    The corner of the pectoral muscle is left out if anything else remains.

    Args:
        film: raw grey levels, shape (height, width).
        film_number: with `seed` it seeds the draw, so that the order of films does not matter.

    Returns:
        (x_px, y_px) from the top-left corner, or None if the crop fits nowhere.
    """
    breast = breast_mask(film)
    for tissue in (breast & ~_pectoral_corner(breast), breast):
        rows, columns = np.nonzero(_places(tissue))
        if rows.size:
            pick = np.random.default_rng([seed, film_number]).integers(rows.size)
            return int(columns[pick]) * _COARSE, int(rows[pick]) * _COARSE
    return None


def breast_mask(film: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The breast with muscle, as the largest bright region without its holes, on every fourth pixel.

    Labels and tape are smaller regions and fall away.

    Returns:
        Mask of shape (ceil(height / 4), ceil(width / 4)).
    """
    from scipy.ndimage import binary_fill_holes, binary_opening, label

    bright = binary_opening(film[::_COARSE, ::_COARSE] > BACKGROUND_LEVEL, iterations=2)
    regions, count = label(bright)
    if not count:
        return np.zeros(bright.shape, dtype=bool)
    sizes = np.bincount(regions.ravel())
    largest: npt.NDArray[np.bool_] = binary_fill_holes(regions == 1 + np.argmax(sizes[1:]))
    return largest


def _places(tissue: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Centres whose crop, with a margin, lies on tissue and inside the film."""
    from scipy.ndimage import minimum_filter

    side = 2 * ceil((ROI_SIDE_PX / 2 + _MARGIN_PX) / _COARSE) + 1
    places: npt.NDArray[np.bool_] = minimum_filter(tissue, side, mode="constant", cval=False)
    return places


def _pectoral_corner(breast: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A triangle in the upper corner at the chest wall, the side on which the breast is tallest."""
    if not breast.any():
        return breast
    rows, columns = np.flatnonzero(breast.any(axis=1)), np.flatnonzero(breast.any(axis=0))
    top, height, width = rows[0], np.ptp(rows) + 1, np.ptp(columns) + 1
    middle = (columns[0] + columns[-1]) // 2
    chest_is_left = breast[:, : middle + 1].sum() > breast[:, middle + 1 :].sum()
    down = (np.arange(breast.shape[0]) - top) / (height * _MUSCLE_HEIGHT)
    chest = (
        np.arange(breast.shape[1]) - columns[0] if chest_is_left else columns[-1] - np.arange(breast.shape[1])
    )
    triangle: npt.NDArray[np.bool_] = np.add.outer(down, chest / (width * _MUSCLE_WIDTH)) < 1
    return triangle
