"""From a film to a ROI, as the paper's authors cut theirs (their MATLAB scripts, in scikit-image and SciPy)."""

from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

from mammo.records import ROI_SIDE_PX

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
    crop = np.zeros((ROI_SIDE_PX, ROI_SIDE_PX), dtype=np.uint8)
    top, left = y_px - half, x_px - half
    rows = slice(max(top, 0), max(min(top + ROI_SIDE_PX, film.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + ROI_SIDE_PX, film.shape[1]), 0))
    inside = film[rows, columns]
    row, column = rows.start - top, columns.start - left
    crop[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return crop


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
