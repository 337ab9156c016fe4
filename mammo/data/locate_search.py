"""The film and the place that a ROI was cut from: coarse search and exact fit."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.core.records import ROI_SIDE_PX
from mammo.data.audit_search import share_of_matching_tiles
from mammo.data.audit_texture import (
    BLOCK,
    FloatArray,
    IntArray,
    OverlapLimits,
    best_shifts,
    similarity,
    spectra_of_a,
    spectra_of_b,
    texture,
)
from mammo.data.extraction import crop_around, first_region

ByteImages = npt.NDArray[np.uint8]

SCALE: Final = 4
"""Films are searched at 1/4 of their scale: 16 times faster, and small errors of a size do not matter."""

INSIDE_SHARE: Final = 0.75
"""Share of a template's side that must lie inside the film."""

Size = tuple[int, int]
"""Height and width of the box that a ROI shows, in film pixels."""

WHOLE: Final[Size] = (ROI_SIDE_PX, ROI_SIDE_PX)
_SIDES: Final = range(48, ROI_SIDE_PX, SCALE)
ONE_AXIS: Final[tuple[Size, ...]] = tuple(
    size for side in _SIDES for size in ((ROI_SIDE_PX, side), (side, ROI_SIDE_PX))
)
"""Boxes that were stretched along one axis."""
BOTH_AXES: Final[tuple[Size, ...]] = tuple((height, width) for height in _SIDES[::2] for width in _SIDES[::2])
"""Boxes that were stretched along both axes, at every other size."""


@dataclass(frozen=True)
class Places:
    """The best place of each ROI in each film, arrays `(n_rois, n_films)`.

    Attributes:
        strength: of the match, see `audit_texture.strength`.
        top, left: upper left corner of the box in film pixels.
        height, width: size of the box.
    """

    strength: FloatArray
    top: IntArray
    left: IntArray
    height: IntArray
    width: IntArray

    def best_films(self, roi: int, count: int) -> list[int]:
        """Films in which a ROI matches best, the best first."""
        order = np.argsort(-self.strength[roi], kind="stable")
        return [int(film) for film in order[:count]]


def small_texture(film: ByteImages) -> FloatArray:
    """Texture of a film `(h, w)` at a quarter of its scale, by means of 4 × 4 pixels."""
    height, width = (side // SCALE for side in film.shape)
    blocks = film[: height * SCALE, : width * SCALE].reshape(height, SCALE, width, SCALE)
    small: FloatArray = texture(blocks.mean(axis=(1, 3), dtype=np.float32)[None])[0]
    return small


def search_films(
    small_films: FloatArray,
    images: ByteImages,
    sizes: Sequence[Size],
    threads: ThreadPoolExecutor,
    step: Callable[[], None] = lambda: None,
) -> Places:
    """Find the best place of each ROI in each film over all given sizes of its box.

    Args:
        small_films: results of `small_texture`, `(n_films, h, w)`.
        images: ROIs, uint8 `(n_rois, 120, 120)`.
        sizes: of the box that a ROI may show.
        threads: the result does not depend on them.
        step: called after each size.
    """
    shape = (len(images), len(small_films))
    best = np.full(shape, -1, np.float32)
    boxes = np.zeros((4, *shape), np.int64)
    for height, width in sizes:
        strength, top, left = _search_size(small_films, images, (height, width), threads)
        better = strength > best
        best[better] = strength[better]
        found = (top, left, np.full(shape, height), np.full(shape, width))
        for known, new in zip(boxes, found, strict=True):
            known[better] = new[better]
        step()
    return Places(best, *boxes)


def _search_size(
    small_films: FloatArray, images: ByteImages, size: Size, threads: ThreadPoolExecutor
) -> tuple[FloatArray, IntArray, IntArray]:
    """Strength, and top and left in film pixels, each `(n_rois, n_films)`, for one size of the box."""
    small = (size[0] // SCALE, size[1] // SCALE)
    limits = OverlapLimits(round(INSIDE_SHARE * min(small)), round(INSIDE_SHARE * small[0] * small[1]))
    templates = texture(np.stack([squeezed(image, small) for image in images]))
    film_shape = (small_films.shape[1], small_films.shape[2])
    moving = spectra_of_b(templates, film_shape, limits)

    def of_film(film: FloatArray) -> tuple[npt.NDArray[Any], ...]:
        fixed = spectra_of_a(film[None], small, limits)
        blocks = [
            best_shifts(fixed, 0, moving, slice(start, start + BLOCK), film_shape)
            for start in range(0, len(images), BLOCK)
        ]
        return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))

    strength, top, left = (
        np.stack(parts, axis=1) for parts in zip(*threads.map(of_film, small_films), strict=True)
    )
    return strength, SCALE * top, SCALE * left


def squeezed(image: ByteImages, size: Size) -> ByteImages:
    """Resample a ROI `(h, w)` to a size with a filter that widens as the picture shrinks."""
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized)


REACH_PX: Final = 2 * SCALE
"""How far a place from the coarse search may be off."""


MIN_SIDE_PX: Final = 40
"""Smallest side of a box; a smaller region of tissue has too little texture to be told from chance."""


@dataclass(frozen=True)
class Fit:
    """A box in a film and how well a ROI, squeezed to its size, fits it.

    Attributes:
        top, left: upper left corner in the film, in pixels.
        height, width: size of the box; 120 along an axis that was not stretched.
        strength: of the match, see `audit_texture.strength`.
        correlation: of the textures in the box, −1 to 1.
        tile_share: share of the box's tiles that match.
    """

    top: int
    left: int
    height: int
    width: int
    strength: float
    correlation: float = 0.0
    tile_share: float = 0.0


def fit_place(film: ByteImages, image: ByteImages, rough: Fit) -> Fit:
    """Move a box to where the ROI fits best within `REACH_PX`, and measure the fit there.

    Args:
        film: preprocessed film, uint8 `(h, w)`.
        image: the ROI, uint8 `(120, 120)`.
        rough: place and size to start from.
    """
    return _measured(film, image, _moved(film, image, rough))


def fit_size(film: ByteImages, image: ByteImages, rough: Fit) -> Fit:
    """Adjust the size of a box to whole pixels, one axis after the other, and its place with it.

    It climbs until no size within `SCALE` pixels fits better. An axis of 120 pixels was not stretched and stays.
    """
    best, before = _moved(film, image, rough), 0.0
    axes = [axis for axis in ("width", "height") if getattr(rough, axis) < ROI_SIDE_PX]
    while best.strength > before:
        before = best.strength
        for axis in axes:
            start = getattr(best, axis)
            for side in range(max(start - SCALE, MIN_SIDE_PX), min(start + SCALE, ROI_SIDE_PX - 1) + 1):
                moved = _moved(film, image, _resized(best, axis, side))
                best = max(best, moved, key=lambda fit: fit.strength)
    return _measured(film, image, best)


def _resized(fit: Fit, axis: str, side: int) -> Fit:
    return replace(fit, width=side) if axis == "width" else replace(fit, height=side)


def _moved(film: ByteImages, image: ByteImages, rough: Fit) -> Fit:
    size = (rough.height, rough.width)
    top, left = rough.top - REACH_PX, rough.left - REACH_PX
    shape = (rough.height + 2 * REACH_PX, rough.width + 2 * REACH_PX)
    limits = OverlapLimits(min(size), rough.height * rough.width)
    fixed = spectra_of_a(texture(_window(film, top, left, shape)[None]), size, limits)
    moving = spectra_of_b(texture(squeezed(image, size)[None]), shape, limits)
    strength, dy, dx = best_shifts(fixed, 0, moving, slice(0, 1), shape)
    return replace(rough, top=top + int(dy[0]), left=left + int(dx[0]), strength=float(strength[0]))


def _measured(film: ByteImages, image: ByteImages, fit: Fit) -> Fit:
    size = (fit.height, fit.width)
    of_film, of_roi = texture(np.stack([_window(film, fit.top, fit.left, size), squeezed(image, size)]))
    correlation, _ = similarity(of_film, of_roi)
    return replace(fit, correlation=correlation, tile_share=share_of_matching_tiles(of_film, of_roi))


def _window(film: ByteImages, top: int, left: int, shape: tuple[int, int]) -> ByteImages:
    """A window of a film; beyond the film's border lies background."""
    window = np.zeros(shape, np.uint8)
    rows, columns = (
        slice(*np.clip([start, start + length], 0, side))
        for start, length, side in zip((top, left), shape, film.shape, strict=True)
    )
    if rows.start == rows.stop or columns.start == columns.stop:
        return window
    window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = film[
        rows, columns
    ]
    return window


def crop_centre(film: ByteImages, fit: Fit) -> tuple[int, int]:
    """Centre (x_px, y_px) of the crop whose bounding box of tissue is the fitted box.

    A box of the crop's own size has its centre in the middle. A smaller one lies anywhere in its crop; the
    film tells where, because what the crop lost is background. Where several centres give the same box, the
    middle one is returned.
    """
    half = ROI_SIDE_PX // 2
    if fit.height == fit.width == ROI_SIDE_PX:
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
