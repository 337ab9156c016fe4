"""The paper's extraction of ROIs from films: preprocessing, crops around lesions and places of normal tissue."""

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
from mammo.data.films import (
    PHANTOM_MARK,
    Annotation,
    film_number,
    is_phantom,
    open_films,
    patient_of,
    read_annotations,
    read_films,
)
from mammo.data.rois import Progress, RoiSet, make_roi_set

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


def load_mini_mias(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
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
    return _load_films(raw, config, "mini_mias", progress)


def load_phantom(raw: Path, config: IngestConfig, progress: Progress | None = None) -> RoiSet:
    """Cut the ROIs of a phantom folder as `load_mini_mias` does; every row is marked as synthetic.

    Raises:
        DataError: the folder is missing, incomplete, damaged, or not a phantom.
    """
    if not is_phantom(raw):
        raise DataError(
            f"{raw}: ingest.source phantom needs a folder that `mammo phantom` wrote, got none with {PHANTOM_MARK}; "
            "run `mammo phantom` to write it, or set ingest.source to mini_mias if the films are real"
        )
    return _load_films(raw, config, "phantom", progress)


def _load_films(raw: Path, config: IngestConfig, source: str, progress: Progress | None) -> RoiSet:
    found: dict[str, list[tuple[dict[str, Any], GreyImage]]] = {}
    with open_films(raw) as store:
        annotations = read_annotations(store)
        placed = [one for one in annotations if one.x_px is not None]
        normals = {one.film_id: one for one in annotations if one.abnormality == "NORM"}
        tissues = {film_id: normal.tissue for film_id, normal in normals.items()}
        chosen = choose_normal_films(tissues, [one.tissue for one in placed], config.seed)
        wanted = {one.film_id for one in placed} | set(chosen)
        for done, (film_id, film) in enumerate(read_films(store, wanted), start=1):
            sites = [one for one in placed if one.film_id == film_id]
            if film_id in normals:
                centre = draw_normal_centre(film, film_number(film_id), config.seed)
                if centre is None:
                    logger.warning("%s gives no normal ROI: no crop fits inside its breast", film_id)
                else:
                    sites = [replace(normals[film_id], x_px=centre[0], y_px=centre[1])]
            if sites:
                found[film_id] = _cut_rois(film, sites, source, config)
            if progress:
                progress(done, len(wanted))
    cuts = [cut for film_id in sorted(found) for cut in found[film_id]]
    return make_roi_set([row for row, _ in cuts], [image for _, image in cuts])


def _cut_rois(
    film: GreyImage, sites: list[Annotation], source: str, config: IngestConfig
) -> list[tuple[dict[str, Any], GreyImage]]:
    """The row and the image of a ROI at each site of one film."""
    preprocessed = preprocess_film(film)
    rois = []
    for number, site in enumerate(sites, start=1):
        assert site.x_px is not None
        assert site.y_px is not None
        normal = site.abnormality == "NORM"
        row = {
            "roi_id": f"{site.film_id}/{'normal' if normal else f'lesion {number}'}",
            "source": source,
            "synthetic": source == "phantom",
            "patient_id": patient_of(site.film_id),
            "label": int(Label.NORMAL if normal else Label.TUMOR),
            **vars(site),
        }
        rois.append((row, extract_roi(preprocessed, site.x_px, site.y_px, config.bounding_box)))
    return rois


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
    tile_px = tile[0] * tile[1]
    # MATLAB counts its clip limit from the flat histogram upwards, scikit-image from zero.
    flat = ceil(tile_px / _BINS)
    clip_limit = (flat + round(_CLIP_LIMIT * (tile_px - flat))) / tile_px
    equalized = equalize_adapthist(medfilt2d(film, 3), kernel_size=tile, clip_limit=clip_limit, nbins=_BINS)
    grey: GreyImage = np.rint(equalized * 255).astype(np.uint8)
    return grey


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


def draw_normal_centre(film: GreyImage, film_number: int, seed: int) -> tuple[int, int] | None:
    """Draw the centre of a normal ROI, evenly over the places where its whole crop is breast tissue.

    The corner of the pectoral muscle is left out if anything else remains.

    Args:
        film: raw grey levels, shape (height, width).
        film_number: with `seed` it seeds the draw, so that the order of films does not matter.

    Returns:
        (x_px, y_px) from the top-left corner, or None if the crop fits nowhere.
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
