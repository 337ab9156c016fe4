"""The place of a ROI in a film at full resolution, and the centre of the crop that it was cut from."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from mammo.data.audit_overlap import share_of_matching_tiles
from mammo.data.audit_texture import (
    OverlapLimits,
    best_shifts,
    similarity,
    spectra_of_a,
    spectra_of_b,
    texture,
)
from mammo.data.extraction import crop_around, first_region
from mammo.data.locate_search import SCALE, ByteImages, squeezed
from mammo.records import ROI_SIDE_PX

REACH_PX: Final = 2 * SCALE
"""How far a place from the coarse search may be off."""


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

    An axis of 120 pixels was not stretched and stays. A box has whole pixels: it was cut from the film.
    """
    best = _moved(film, image, rough)
    axes = [axis for axis in ("width", "height") if getattr(rough, axis) < ROI_SIDE_PX]
    for axis in axes * len(axes):
        start = getattr(best, axis)
        for side in range(start - SCALE, min(start + SCALE, ROI_SIDE_PX - 1) + 1):
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
    rows = slice(max(top, 0), min(top + shape[0], film.shape[0]))
    columns = slice(max(left, 0), min(left + shape[1], film.shape[1]))
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
