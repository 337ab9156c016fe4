"""ROIs cut from films: the paper's extraction to the last bit of its MATLAB code, at lesions and normal sites."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, floor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.config import IngestConfig
from mammo.core.errors import DataError
from mammo.core.records import ROI_SIDE_PX, TISSUES, Label
from mammo.data.decode import GreyImage
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

IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FOREGROUND_LEVEL: Final = 20
"""Grey levels above this are tissue, after preprocessing."""
MIN_REGION_PX: Final = 1500
"""Smaller regions of foreground are specks."""

_TILES: Final = 8
_BINS: Final = 256
_CLIP_LIMIT: Final = 0.01


def preprocess_film(film: GreyImage) -> GreyImage:
    """Median of 3 × 3 pixels, then MATLAB's `adapthisteq`, as Yu et al. 2020: `(height, width)` in and out."""
    from scipy.ndimage import median_filter

    return adapthisteq(median_filter(film, 3, mode="constant"))


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


def load_mini_mias(raw: Path, config: IngestConfig) -> Rois:
    """Cut the ROIs of the mini-MIAS films in `all-mias.tar.gz` or its unpacked folder.

    Every lesion with a place gives a Tumor ROI; normal films, chosen by `config.seed` to match the lesions'
    tissues, give one Normal ROI each. Ordered by film, then by the rows of `Info.txt`.

    Raises:
        DataError: the raw data is missing, incomplete, damaged, or a phantom.
    """
    if is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source mini_mias needs real films, got a phantom ({PHANTOM_MARK} is there); "
            "set ingest.source to phantom"
        )
    return _load_films(raw, config, "mini_mias")


def load_phantom(raw: Path, config: IngestConfig) -> Rois:
    """Cut the ROIs of a phantom folder as `load_mini_mias` does; every row is marked as synthetic.

    Raises:
        DataError: the folder is missing, incomplete, damaged, or not a phantom.
    """
    if not is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source phantom needs a folder that `mammo phantom` wrote, got none with {PHANTOM_MARK}; "
            "run `mammo phantom` to write it, or set ingest.source to mini_mias if the films are real"
        )
    return _load_films(raw, config, "phantom")


def _load_films(raw: Path, config: IngestConfig, source: str) -> Rois:
    cuts: dict[str, tuple[dict[str, Any], GreyImage]] = {}
    with open_films(raw) as store:
        annotations = read_annotations(store)
        placed = [one for one in annotations if one.x_px is not None]
        normals = {one.film_id: one for one in annotations if one.abnormality == "NORM"}
        tissues = {film_id: normal.tissue for film_id, normal in normals.items()}
        chosen = choose_normal_films(tissues, [one.tissue for one in placed], config.seed)
        for film_id, film in read_films(store, {one.film_id for one in placed} | set(chosen)):
            sites = [one for one in placed if one.film_id == film_id]
            if film_id in normals:
                centre = draw_normal_centre(film, film_number(film_id), config.seed)
                if centre is None:
                    logger.warning("%s gives no normal ROI: no crop fits inside its breast", film_id)
                    continue
                sites = [replace(normals[film_id], x_px=centre[0], y_px=centre[1])]
            normal, preprocessed = film_id in normals, preprocess_film(film)
            for number, site in enumerate(sites, start=1):
                assert site.x_px is not None
                assert site.y_px is not None
                row = {
                    "roi_id": f"{film_id}/{'normal' if normal else f'lesion {number}'}",
                    "source": source,
                    "synthetic": source == "phantom",
                    "patient_id": patient_of(film_id),
                    "label": int(Label.NORMAL if normal else Label.TUMOR),
                    **vars(site),
                }
                image = extract_roi(preprocessed, site.x_px, site.y_px, config.bounding_box)
                cuts[f"{film_id} {number:04d}"] = row, image
    ordered = [cuts[place] for place in sorted(cuts)]
    return make_roi_set([row for row, _ in ordered], [image for _, image in ordered])
