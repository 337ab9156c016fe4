"""ROIs out of films, as the paper cuts them: its MATLAB code to the last bit."""

from math import ceil, floor
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.core.errors import DataError
from mammo.core.records import ROI_SIDE_PX
from mammo.data.decode import PIXEL_MM, GreyImage, Picture, check_image_size, decode_picture

IntArray = npt.NDArray[np.int64]

FOREGROUND_LEVEL: Final = 20
"""Grey levels above this are tissue, after preprocessing."""
MIN_REGION_PX: Final = 1500
"""Smaller regions of foreground are specks."""

_TILES: Final = 8
_BINS: Final = 256
_CLIP_LIMIT: Final = 0.01


def preprocess_film(film: GreyImage) -> GreyImage:
    """Median of 3 × 3 pixels, then MATLAB's `adapthisteq`, as Yu et al. 2020: `(height, width)` in and out."""
    return adapthisteq(_median(film))


def _median(film: GreyImage) -> GreyImage:
    """Median of the 3 × 3 pixels around each, zeros beyond the border, as MATLAB's `medfilt2`.

    By comparisons of whole pictures, ten times as fast as a library's filter: the median of nine is that of the largest
    of the columns' minima, the median of their medians and the smallest of their maxima (Smith 1996).
    """
    padded = np.pad(film, 1)
    low, middle, high = _sorted(padded[:-2], padded[1:-1], padded[2:])
    smallest, medians, largest = (_sorted(of[:, :-2], of[:, 1:-1], of[:, 2:]) for of in (low, middle, high))
    return _sorted(smallest[2], medians[1], largest[0])[1]


def _sorted(*three: GreyImage) -> tuple[GreyImage, GreyImage, GreyImage]:
    """Three pictures → the smallest, the median and the largest of each pixel."""
    first, second, third = three
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.minimum(low, third), np.maximum(low, np.minimum(high, third)), np.maximum(high, third)


def adapthisteq(image: GreyImage) -> GreyImage:
    """Contrast-limited adaptive histogram equalisation with MATLAB's defaults, to the same bit.

    8 × 8 tiles, 256 bins, clip limit 0.01, uniform distribution over the full range. Other implementations clip, round
    or blend in another order, and differ by several grey levels. Shape (height, width) in and out; sides that 16 does
    not divide are padded by reflection.
    """
    pads = [-side % (2 * _TILES) for side in image.shape]
    padded = np.pad(image, [(pad // 2, pad - pad // 2) for pad in pads], mode="symmetric")
    height, width = (side // _TILES for side in padded.shape)
    maps = _tile_maps(padded.reshape(_TILES, height, _TILES, width).swapaxes(1, 2).reshape(_TILES**2, -1))
    above, below, down = _neighbours(padded.shape[0], height)
    before, after, right = _neighbours(padded.shape[1], width)

    def mapped(rows: IntArray, columns: IntArray) -> IntArray:
        tile = rows[:, None] * _TILES + columns[None, :]
        levels: IntArray = maps[tile * _BINS + padded].astype(np.int64)
        return levels

    down, right = down[:, None], right[None, :]
    upper = (width - right) * mapped(above, before) + right * mapped(above, after)
    lower = (width - right) * mapped(below, before) + right * mapped(below, after)
    area = height * width
    blended = ((height - down) * upper + down * lower + area // 2) // area
    inside = tuple(slice(pad // 2, pad // 2 + side) for pad, side in zip(pads, image.shape, strict=True))
    grey: GreyImage = blended[inside].astype(np.uint8)
    return grey


def _tile_maps(tiles: GreyImage) -> npt.NDArray[np.uint8]:
    """The grey level that each tile gives to each grey level: `(tiles · 256,)`."""
    n_tiles, n_pixels = tiles.shape
    flat = ceil(n_pixels / _BINS)
    limit = flat + floor(_CLIP_LIMIT * (n_pixels - flat) + 0.5)
    bins = tiles + np.arange(n_tiles)[:, None] * _BINS
    counts = np.bincount(bins.ravel(), minlength=n_tiles * _BINS).reshape(n_tiles, _BINS)
    excess = np.maximum(counts - limit, 0).sum(axis=1)
    room = np.minimum(np.maximum(limit - counts, 0), (excess // _BINS)[:, None])
    counts = np.minimum(counts, limit) + room
    # What is left of the excess goes one by one to bins under the limit, spread evenly: MATLAB's order.
    for histogram, left in zip(counts, (excess - room.sum(axis=1)).tolist(), strict=True):
        first = 0
        while left:
            bins = np.arange(first, _BINS, max(_BINS // left, 1))
            bins = bins[histogram[bins] < limit][:left]
            histogram[bins] += 1
            left -= len(bins)
            first = (first + 1) % _BINS
    levels = np.minimum(counts.cumsum(axis=1) * (255 / n_pixels), 255)
    maps: npt.NDArray[np.uint8] = np.floor(levels + 0.5).astype(np.uint8).ravel()
    return maps


def _neighbours(side: int, tile: int) -> tuple[IntArray, IntArray, IntArray]:
    """Of each row: the tiles whose centres lie before and after it, and its distance from the former."""
    position = np.arange(side) - tile // 2
    before = position // tile
    return before.clip(0, _TILES - 1), (before + 1).clip(0, _TILES - 1), position % tile


class Film(NamedTuple):
    """A film ready to be cut: `grey` is preprocessed and has `scale` times as many pixels a side as its file."""

    grey: GreyImage
    scale: float = 1.0

    def roi(self, x: float, y: float, name: str, bounding_box: bool = True) -> tuple[GreyImage, int, int]:
        """Cut the ROI around a place of the file, counted in its pixels from 1, and say where that is in `grey`.

        Raises:
            DataError: the place lies outside.
        """
        x_px, y_px = (round((value - 0.5) * self.scale + 0.5) for value in (x, y))
        height, width = self.grey.shape
        if not (1 <= x_px <= width and 1 <= y_px <= height):
            raise DataError(
                f"{name}: x and y must lie inside the film of {round(width / self.scale)} x "
                f"{round(height / self.scale)} pixels, got {x:g},{y:g}; count from 1 at the top-left corner"
            )
        return extract_roi(self.grey, x_px, y_px, bounding_box), x_px, y_px


def read_film(content: bytes, name: str) -> Film:
    """Decode a film of any size (`decode_picture`) and prepare it."""
    return prepare_film(decode_picture(content, name), name)


def prepare_film(picture: Picture, name: str) -> Film:
    """Bring a film's pixels to 0.2 mm where their size is known, and preprocess it.

    Raises:
        DataError: it would have fewer or more pixels then than `decode_picture` allows.
    """
    grey, spacing_mm = picture
    scale = 1.0 if spacing_mm is None else spacing_mm / PIXEL_MM
    if scale != 1:
        height, width = (round(side * scale) for side in grey.shape)
        check_image_size(width, height, f"{name}, brought from {spacing_mm:g} to {PIXEL_MM} mm a pixel")
        grey = np.array(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))
    return Film(preprocess_film(grey), scale)


def extract_roi(preprocessed: GreyImage, x_px: int, y_px: int, bounding_box: bool = True) -> GreyImage:
    """Cut the ROI around a centre out of a preprocessed film, as MATLAB's `imcrop` and `regionprops` do.

    Args:
        preprocessed: result of `preprocess_film`.
        x_px, y_px: centre as `Info.txt` counts, from 1 and from the top-left corner; row y_px - 1 and column x_px - 1
            of the array become row and column 60.
        bounding_box: crop to the first region of tissue and stretch it back to 120 × 120, as the paper
            does; False keeps the crop as it is. What lies outside the film is then background (0).

    Returns:
        Grey levels of shape (120, 120).
    """
    top, left = y_px - 1 - ROI_SIDE_PX // 2, x_px - 1 - ROI_SIDE_PX // 2
    rows, columns = (
        slice(min(max(start, 0), side), min(max(start + ROI_SIDE_PX, 0), side))
        for start, side in zip((top, left), preprocessed.shape, strict=True)
    )
    crop = preprocessed[rows, columns]
    region = first_region(crop) if bounding_box else None
    if region is not None:
        return resize_bicubic(crop[region])
    whole = np.zeros((ROI_SIDE_PX, ROI_SIDE_PX), dtype=np.uint8)
    whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = crop
    return whole


def resize_bicubic(image: GreyImage, side: int = ROI_SIDE_PX) -> GreyImage:
    """Enlarge to (side, side) as MATLAB's `imresize` does: bicubic (a = -0.5), the border repeated."""
    # MATLAB begins with the axis that grows least, and keeps 8 bits in between.
    for axis in sorted((0, 1), key=lambda axis: -image.shape[axis]):
        if image.shape[axis] == side:
            continue
        weights, taps = cubic_taps(image.shape[axis], side)
        moved = np.moveaxis(image, axis, 0)
        enlarged = np.zeros((side, moved.shape[1]))
        # The sum's order decides how exact halves are rounded.
        for weight, tap in zip(weights.T, taps.T, strict=True):
            enlarged = enlarged + weight[:, None] * moved[tap]
        image = np.moveaxis(np.floor(enlarged + 0.5).clip(0, 255).astype(np.uint8), 0, axis)
    return np.ascontiguousarray(image)


def cubic_taps(length: int, side: int) -> tuple[npt.NDArray[np.float64], IntArray]:
    """The weights and the source pixels of each pixel of a row that grows from `length` to `side`: `(side, 6)` both."""
    scale = side / length
    centre = np.arange(1, side + 1) / scale + 0.5 * (1 - 1 / scale)
    taps = np.floor(centre - 2)[:, None] + np.arange(6)
    x = np.abs(centre[:, None] - taps)
    weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * (x <= 2)
    return weights / weights.sum(axis=1, keepdims=True), taps.clip(1, length).astype(np.int64) - 1


def first_region(crop: GreyImage) -> tuple[slice, slice] | None:
    """Rows and columns of the first region of tissue, and one more of each up to the crop's border; None without one.

    The first region is MATLAB's: 8-connected, found column by column. Its bounding box begins half a pixel early, so
    `imcrop` takes one row and one column more.
    """
    from scipy.ndimage import find_objects, label

    # Transposed, SciPy's row by row is MATLAB's column by column.
    regions, _ = label((crop > FOREGROUND_LEVEL).T, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())
    large = np.flatnonzero(sizes[1:] >= MIN_REGION_PX) + 1
    if not large.size:
        return None
    columns, rows = find_objects(regions)[large[0] - 1]
    return slice(rows.start, rows.stop + 1), slice(columns.start, columns.stop + 1)
