"""Where in which film a ROI may lie: templates correlated with whole films at a quarter of their scale.

A ROI is a template of its own size; one that was stretched from a bounding box is squeezed back to each size
that the box may have had.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.data.audit_texture import (
    BLOCK,
    FloatArray,
    IntArray,
    OverlapLimits,
    best_shifts,
    spectra_of_a,
    spectra_of_b,
    texture,
)
from mammo.records import ROI_SIDE_PX

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
