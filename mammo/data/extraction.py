"""The paper's extraction of ROIs from films, and places of normal tissue."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

from mammo.core.records import ROI_SIDE_PX, TISSUES

GreyImage = npt.NDArray[np.uint8]

FOREGROUND_LEVEL: Final = 20
"""Grey levels above this are tissue, after preprocessing."""
MIN_REGION_PX: Final = 1500
"""Smaller regions of foreground are specks."""

_TILES: Final = 8
_BINS: Final = 256
_CLIP_LIMIT: Final = 0.01


def preprocess_film(film: GreyImage) -> GreyImage:
    """Median filter of 3 × 3 pixels, then CLAHE with the defaults of MATLAB's `adapthisteq`.

    Args:
        film: grey levels of shape (height, width).

    Returns:
        Grey levels of the same shape, stretched to 0..255.
    """
    from scipy.signal import medfilt2d
    from skimage.exposure import equalize_adapthist

    tile = [ceil(side / _TILES) for side in film.shape]
    equalized = equalize_adapthist(
        medfilt2d(film, 3), kernel_size=tile, clip_limit=_skimage_clip_limit(tile[0] * tile[1]), nbins=_BINS
    )
    grey: GreyImage = np.rint(equalized * 255).astype(np.uint8)
    return grey


def _skimage_clip_limit(tile_px: int) -> float:
    """MATLAB counts its clip limit from the flat histogram upwards, scikit-image from zero."""
    flat = ceil(tile_px / _BINS)
    return (flat + round(_CLIP_LIMIT * (tile_px - flat))) / tile_px


def extract_roi(preprocessed: GreyImage, x_px: int, y_px: int, bounding_box: bool = True) -> GreyImage:
    """Cut the ROI around a centre out of a preprocessed film.

    Args:
        preprocessed: result of `preprocess_film`.
        x_px, y_px: centre from the top-left corner; row y_px and column x_px become row and column 60.
        bounding_box: crop to the first region of tissue and stretch it back to 120 × 120, as the paper
            does; False keeps the crop as it is.

    Returns:
        Grey levels of shape (120, 120).
    """
    crop = crop_around(preprocessed, x_px, y_px)
    return stretch_first_region(crop) if bounding_box else crop


def crop_around(film: GreyImage, x_px: int, y_px: int) -> GreyImage:
    """Crop 120 × 120 pixels centred on a point; what lies outside the film is background (0).

    MATLAB's `imcrop` returns a smaller image there instead. With the bounding box the result is the same,
    since background is cropped away again.
    """
    half = ROI_SIDE_PX // 2
    return window(film, y_px - half, x_px - half, (ROI_SIDE_PX, ROI_SIDE_PX))


def window(film: GreyImage, top: int, left: int, shape: tuple[int, int]) -> GreyImage:
    """Cut a window of height and width `shape` out of a film; what lies outside the film is background (0)."""
    cut = np.zeros(shape, dtype=np.uint8)
    rows = slice(max(top, 0), max(min(top + shape[0], film.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + shape[1], film.shape[1]), 0))
    inside = film[rows, columns]
    row, column = rows.start - top, columns.start - left
    cut[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return cut


def stretch_first_region(crop: GreyImage) -> GreyImage:
    """Crop to the bounding box of the first region of tissue and resize that to the crop's shape.

    A crop without a region of `MIN_REGION_PX` pixels is returned unchanged.
    """
    from skimage.transform import resize

    rows, columns = first_region(crop)
    box = crop[rows, columns]
    if box.shape == crop.shape:
        return crop
    resized = resize(  # type: ignore[no-untyped-call]
        box, crop.shape, order=3, mode="edge", preserve_range=True, anti_aliasing=False
    )
    grey: GreyImage = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    return grey


def first_region(crop: GreyImage) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of the first region of tissue; the whole crop where there is none.

    The first region is MATLAB's: 8-connected, found column by column.
    """
    from scipy.ndimage import find_objects, label

    # Transposed, SciPy's row by row is MATLAB's column by column.
    regions, _ = label((crop > FOREGROUND_LEVEL).T, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())
    large = np.flatnonzero(sizes[1:] >= MIN_REGION_PX) + 1
    if not large.size:
        return slice(0, crop.shape[0]), slice(0, crop.shape[1])
    columns, rows = find_objects(regions)[large[0] - 1]
    return rows, columns


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
