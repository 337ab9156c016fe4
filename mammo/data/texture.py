"""Texture of pictures and its correlation at every shift, by which the audit searches.

Grey values say little about whether two pictures show the same tissue: bright tissue resembles bright
tissue, and the straight edge of one film resembles that of any other. So texture alone is compared,
normalised locally, to which no edge and no flat area contributes more than its share.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import fft, ndimage

ByteImages = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Shape = tuple[int, int]

DETAIL_SIGMA_PX: Final = 2.0
"""Structures larger than this are removed. Smaller values let JPEG compression hide a match
(correlation 0.5 at 1.5 px, 0.6 at 2 px), larger ones let unrelated tissue look alike."""

FLOOR_GREY: Final = 2.0
"""Local contrast below this many grey levels counts as flat."""

WEIGHT_POWER: Final = -0.375
"""Two energies E to this power turn a sum of products into correlation × (√(E·E))^¼, see `strength`."""

BLOCK: Final = 8
"""Pictures correlated in one go: what fits the processor's cache."""

TILE_PX: Final = 20
TILE_CORRELATION: Final = 0.2


def resized(
    image: ByteImages, shape: tuple[int, ...], box: tuple[float, float, float, float] | None = None
) -> ByteImages:
    """Resample a picture, or the part in `box`, with a filter that widens as it shrinks, so nothing aliases."""
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=box))


def texture(images: npt.NDArray[Any]) -> FloatArray:
    """Locally normalised texture: `(n, h, w)` grey levels → `(n, h, w)` without unit, about −3 to 3.

    Brightness and contrast cancel; flat areas are near 0.
    """
    grey = images.astype(np.float32)
    sigma = (0.0, DETAIL_SIGMA_PX, DETAIL_SIGMA_PX)
    detail = grey - ndimage.gaussian_filter(grey, sigma, mode="nearest")
    power = ndimage.gaussian_filter(detail * detail, tuple(2 * value for value in sigma), mode="nearest")
    normalised: FloatArray = detail / (np.sqrt(power) + np.float32(FLOOR_GREY))
    return normalised


def without_straight_edges(textures: FloatArray) -> FloatArray:
    """Remove what whole rows or whole columns have in common from textures `(n, h, w)`.

    The straight edge of one film lies on that of any other, and a long edge between flat areas would be
    the whole texture of an overlap. Tissue keeps all but the share 1 / h + 1 / w of its texture.
    """
    rows, columns = textures.mean(axis=2, keepdims=True), textures.mean(axis=1, keepdims=True)
    rest: FloatArray = textures - rows - columns + textures.mean(axis=(1, 2), keepdims=True)
    return rest


def similarity(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Correlation of two textures of one shape, and their number of textured pixels.

    That number is the geometric mean of both sums of squares: a pixel of flat tissue counts nothing.
    """
    pixels = float(np.sqrt(np.sum(a * a, dtype=np.float64) * np.sum(b * b, dtype=np.float64)))
    return (float(np.sum(a * b, dtype=np.float64)) / pixels if pixels > 0 else 0.0), pixels


def strength(correlation: float, textured_px: float) -> float:
    """How far a match stands above chance: correlation × (textured pixels)^¼.

    The best of thousands of shifts is high by chance where the overlap is small. The square root
    would level pure noise; tissue has structure that also correlates over large areas, and the fourth
    root levels both (measured: unrelated ROIs reach 1 to 2.4 at every size of overlap).
    """
    return correlation * float(textured_px**0.25)


def share_of_matching_tiles(a: FloatArray, b: FloatArray) -> float:
    """Share of the tiles of an overlap whose textures correlate, each counted by its textured pixels."""
    matching = total = 0.0
    for rows in np.array_split(np.arange(a.shape[0]), max(1, a.shape[0] // TILE_PX)):
        for columns in np.array_split(np.arange(a.shape[1]), max(1, a.shape[1] // TILE_PX)):
            tile = np.ix_(rows, columns)
            correlation, textured_px = similarity(a[tile], b[tile])
            total += textured_px
            matching += textured_px * (correlation >= TILE_CORRELATION)
    return matching / total if total else 0.0


class OverlapLimits(NamedTuple):
    """Which overlaps are looked for: smallest height and width, and smallest area, in pixels."""

    side_px: int
    area_px: int


@dataclass(frozen=True)
class Spectra:
    """Textures ready to be correlated with those of another shape.

    Attributes:
        values: spectra, complex64 `(n, m, m // 2 + 1)`.
        weights: energy of the overlapping part to the power −3/8 for each shift, float32 `(n, m, m)`;
            0 where the overlap is too small.
        fixed_shape: height and width of the textures that stay in place.
    """

    values: npt.NDArray[np.complex64]
    weights: FloatArray
    fixed_shape: Shape


def spectra(textures: FloatArray, other: Shape, limits: OverlapLimits, *, moving: bool) -> Spectra:
    """Prepare textures `(n, h, w)`, `moving` or fixed ones, to be correlated with those of a shape `other`."""
    n, *own = textures.shape
    fixed_shape, moving_shape = (other, (own[0], own[1])) if moving else ((own[0], own[1]), other)
    sides = list(zip(fixed_shape, moving_shape, strict=True))
    # In a transform of this side no admissible shift is touched by wrap-around.
    size = int(fft.next_fast_len(max(a + b - limits.side_px for a, b in sides), real=True))
    starts, stops = [], []
    for side_a, side_b in sides:
        shifts = _axis_shifts(side_a, size)
        start, stop = np.maximum(shifts, 0), np.minimum(shifts + side_b, side_a)
        stop = np.where(stop - start >= limits.side_px, stop, start)
        starts.append(np.where(stop > start, start - shifts * moving, 0))
        stops.append(np.where(stop > start, stop - shifts * moving, 0))
    (top, left), (bottom, right) = starts, stops
    # The energy of every overlap, by summed areas.
    sums = np.zeros((n, own[0] + 1, own[1] + 1))
    np.cumsum(np.square(textures, dtype=np.float64), axis=1, out=sums[:, 1:, 1:])
    np.cumsum(sums[:, 1:, 1:], axis=2, out=sums[:, 1:, 1:])
    rows = sums[:, bottom] - sums[:, top]
    energy = rows[:, :, right] - rows[:, :, left]
    admissible = (np.outer(bottom - top, right - left) >= limits.area_px) & (energy > 0)
    weights = np.zeros(energy.shape, np.float32)
    weights[admissible] = energy[admissible] ** WEIGHT_POWER
    values = fft.rfft2(textures, (size, size))
    return Spectra(np.conj(values) if moving else values, weights, fixed_shape)


def _axis_shifts(side: int, size: int) -> IntArray:
    """Shifts along an axis of a fixed picture, in pixels, in the order in which a transform returns them."""
    index = np.arange(size)
    return np.where(index < side, index, index - size)


def best_shifts(fixed: Spectra, index: int, moving: Spectra, first: int = 0) -> tuple[FloatArray, IntArray, IntArray]:
    """Strongest match of one fixed texture with each moving one from `first` on: strengths, dy, dx (pixels)."""
    size = fixed.weights.shape[1]
    strengths, places = [], []
    for start in range(first, len(moving.values), BLOCK):
        block = slice(start, start + BLOCK)
        correlation = fft.irfft2(fixed.values[index] * moving.values[block], (size, size))
        correlation *= fixed.weights[index]
        correlation *= moving.weights[block]
        flat = correlation.reshape(len(correlation), -1)
        places.append(flat.argmax(axis=1))
        strengths.append(flat[np.arange(len(flat)), places[-1]])
    rows, columns = np.divmod(np.concatenate(places), size)
    height, width = fixed.fixed_shape
    return np.concatenate(strengths), _axis_shifts(height, size)[rows], _axis_shifts(width, size)[columns]
