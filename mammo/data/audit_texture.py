"""Texture of ROIs and its cross-correlation at every shift, the core of the leakage audit.

Grey values say little about whether two ROIs show the same tissue: bright tissue resembles bright
tissue, and the straight edge of one film resembles that of any other. So the audit compares the
texture alone, normalised locally, to which no edge and no flat area contributes more than its share.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import fft, ndimage

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

DETAIL_SIGMA_PX: Final = 2.0
"""Structures larger than this are removed. Smaller values let JPEG compression hide a match
(correlation 0.5 at 1.5 px, 0.6 at 2 px), larger ones let unrelated tissue look alike."""

FLOOR_GREY: Final = 2.0
"""Local contrast below this many grey levels counts as flat."""

WEIGHT_POWER: Final = -0.375
"""Two energies E to this power turn a sum of products into correlation × (√(E·E))^¼, see `strength`."""

BLOCK: Final = 8
"""ROIs correlated in one go: what fits the processor's cache."""


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


@dataclass(frozen=True)
class Candidate:
    """Where ROI `b` may lie on ROI `a` (rows of the images); see `audit_pair.Overlap`."""

    a: int
    b: int
    dy: int
    dx: int
    turn: Literal["mirrored", "flipped"] | None = None
    stretch_y: float = 1.0
    stretch_x: float = 1.0


@dataclass(frozen=True)
class OverlapLimits:
    """Which overlaps are looked for.

    Attributes:
        side_px: smallest height and width.
        area_px: smallest area.
    """

    side_px: int
    area_px: int


@dataclass(frozen=True)
class Spectra:
    """Textures ready to be correlated with those of another shape.

    Attributes:
        values: spectra, complex64 `(n, m, m // 2 + 1)`.
        weights: energy of the overlapping part to the power −3/8 for each shift, float32 `(n, m, m)`;
            0 where the overlap is too small.
    """

    values: npt.NDArray[np.complex64]
    weights: FloatArray


Shape = tuple[int, int]


def transform_size(shape_a: Shape, shape_b: Shape, limits: OverlapLimits) -> int:
    """Side of the transform in which no admissible shift is touched by wrap-around."""
    sides = (a + b - limits.side_px for a, b in zip(shape_a, shape_b, strict=True))
    return int(fft.next_fast_len(max(sides), real=True))


def axis_shifts(side_a: int, n_transform: int) -> IntArray:
    """Shifts of b against a, in pixels, in the order in which the transform returns them."""
    index = np.arange(n_transform)
    return np.where(index < side_a, index, index - n_transform)


def spectra_of_a(textures: FloatArray, shape_b: Shape, limits: OverlapLimits) -> Spectra:
    """Prepare the textures that stay in place: `(n, h, w)`."""
    return _spectra(textures, textures.shape[1:], shape_b, limits, moving=False)


def spectra_of_b(textures: FloatArray, shape_a: Shape, limits: OverlapLimits) -> Spectra:
    """Prepare the textures that are shifted: `(n, h, w)`."""
    return _spectra(textures, shape_a, textures.shape[1:], limits, moving=True)


def _spectra(
    textures: FloatArray,
    shape_a: tuple[int, ...],
    shape_b: tuple[int, ...],
    limits: OverlapLimits,
    *,
    moving: bool,
) -> Spectra:
    size = transform_size((shape_a[0], shape_a[1]), (shape_b[0], shape_b[1]), limits)
    starts, stops = [], []
    for side_a, side_b in zip(shape_a, shape_b, strict=True):
        shifts = axis_shifts(side_a, size)
        start, stop = np.maximum(shifts, 0), np.minimum(shifts + side_b, side_a)
        stop = np.where(stop - start >= limits.side_px, stop, start)
        starts.append(np.where(stop > start, start - shifts * moving, 0))
        stops.append(np.where(stop > start, stop - shifts * moving, 0))
    area = np.outer(stops[0] - starts[0], stops[1] - starts[1])
    energy = _rectangle_sums(textures, starts, stops)
    admissible = (area >= limits.area_px) & (energy > 0)
    weights = np.zeros(energy.shape, np.float32)
    weights[admissible] = energy[admissible] ** WEIGHT_POWER
    values = fft.rfft2(textures, (size, size))
    return Spectra(np.conj(values) if moving else values, weights)


def _rectangle_sums(
    textures: FloatArray, starts: list[IntArray], stops: list[IntArray]
) -> npt.NDArray[np.float64]:
    """Energy of `textures[:, top:bottom, left:right]` for all starts and stops, by summed areas."""
    n, height, width = textures.shape
    sums = np.zeros((n, height + 1, width + 1))
    np.cumsum(np.square(textures, dtype=np.float64), axis=1, out=sums[:, 1:, 1:])
    np.cumsum(sums[:, 1:, 1:], axis=2, out=sums[:, 1:, 1:])
    (top, left), (bottom, right) = starts, stops
    rows = sums[:, bottom] - sums[:, top]
    energy: npt.NDArray[np.float64] = rows[:, :, right] - rows[:, :, left]
    return energy


def best_shifts(
    a: Spectra, index: int, b: Spectra, members: slice, side_a: Shape
) -> tuple[FloatArray, IntArray, IntArray]:
    """Strongest match of one texture of `a` with each of `b`'s `members`: strengths, dy, dx (pixels)."""
    correlation = fft.irfft2(a.values[index] * b.values[members], a.weights.shape[1:])
    correlation *= a.weights[index]
    correlation *= b.weights[members]
    flat = correlation.reshape(len(correlation), -1)
    peak = flat.argmax(axis=1)
    rows, columns = np.divmod(peak, a.weights.shape[2])
    dy = axis_shifts(side_a[0], a.weights.shape[1])[rows]
    dx = axis_shifts(side_a[1], a.weights.shape[2])[columns]
    return flat[np.arange(len(flat)), peak], dy, dx


ByteImages = npt.NDArray[np.uint8]

FINE_BAND: Final = (0.4, 0.5)
"""Spatial frequencies, in cycles a pixel, that upsampling empties."""

LACK_OF_DETAIL: Final = 0.5
"""Natural logarithm of the ratio of fine detail between the axes above which a ROI counts as stretched.
Bicubic upsampling by 1.2 exceeds it in all ROIs tried, by 1.1 in 95%; 4% of the archive do."""

STEP: Final = 1.05
LARGEST_STRETCH: Final = 2.5
COARSE_LIMITS: Final = OverlapLimits(side_px=10, area_px=400)
FINE_LIMITS: Final = OverlapLimits(side_px=15, area_px=800)
COARSE_STRENGTH: Final = 2.4
"""At half resolution; looser than the final threshold because the stretch is only roughly undone."""


def detail_ratio(image: ByteImages) -> float:
    """Logarithm of the fine detail along the rows over that along the columns; `(h, w)` grey levels."""
    return float(np.log(_fine_detail(image) / _fine_detail(image.T)))


def _fine_detail(image: ByteImages) -> float:
    steps = np.diff(image.astype(np.float64), axis=1)
    power = np.abs(np.fft.rfft(steps * np.hanning(steps.shape[1]), axis=1)) ** 2
    frequency = np.fft.rfftfreq(steps.shape[1])
    inside = (frequency >= FINE_BAND[0]) & (frequency <= FINE_BAND[1])
    return float(power[:, inside].mean()) + 1e-3


def stretched_candidates(images: ByteImages, threads: ThreadPoolExecutor) -> list[Candidate]:
    """Pairs in which `b` lies on `a` after being squeezed along the axis in which it lacks detail."""
    ratios = np.array([detail_ratio(image) for image in images])
    along_x = _along_rows(images, np.flatnonzero(ratios < -LACK_OF_DETAIL), threads)
    turned = np.ascontiguousarray(images.transpose(0, 2, 1))
    along_y = _along_rows(turned, np.flatnonzero(ratios > LACK_OF_DETAIL), threads)
    return along_x + [
        Candidate(found.a, found.b, dy=found.dx, dx=found.dy, stretch_y=found.stretch_x) for found in along_y
    ]


def _along_rows(
    images: ByteImages, stretched: npt.NDArray[np.int64], threads: ThreadPoolExecutor
) -> list[Candidate]:
    if not len(stretched):
        return []
    height, width = images.shape[1:]
    n_steps = int(np.log(LARGEST_STRETCH) / np.log(STEP))
    widths = sorted({round(width / STEP**step) for step in range(1, n_steps + 1)}, reverse=True)
    halves = texture(_resized(images, width // 2, height // 2))
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for squeezed_width in widths:
        squeezed = texture(_resized(images[stretched], round(squeezed_width / 2), height // 2))
        for (a, b), value in _strengths(halves, squeezed, stretched, threads).items():
            best[a, b] = max(best.get((a, b), (0.0, 0)), (value, squeezed_width))
    return [_refined(images, a, b, squeezed_width) for (a, b), (_, squeezed_width) in best.items()]


def _strengths(
    halves: npt.NDArray[np.float32],
    squeezed: npt.NDArray[np.float32],
    stretched: npt.NDArray[np.int64],
    threads: ThreadPoolExecutor,
) -> dict[tuple[int, int], float]:
    """Strength of each pair (a, b) that stands out, b being squeezed."""
    shape = (halves.shape[1], halves.shape[2])
    fixed = spectra_of_a(halves, (squeezed.shape[1], squeezed.shape[2]), COARSE_LIMITS)
    moving = spectra_of_b(squeezed, shape, COARSE_LIMITS)

    def of_row(a: int) -> dict[tuple[int, int], float]:
        found = {}
        for start in range(0, len(stretched), BLOCK):
            values, _, _ = best_shifts(fixed, a, moving, slice(start, start + BLOCK), shape)
            for b, value in zip(stretched[start : start + BLOCK], values, strict=True):
                if value >= COARSE_STRENGTH and a != b:
                    found[a, int(b)] = float(value)
        return found

    rows = threads.map(of_row, range(len(halves)))
    return {pair: value for row in rows for pair, value in row.items()}


def _refined(images: ByteImages, a: int, b: int, rough_width: int) -> Candidate:
    """The whole-pixel width and shift at which squeezed b fits a best, at full resolution.

    The true width is whole: it is that of the bounding box before it was stretched.
    """
    height, width = images.shape[1:]
    fixed_texture = texture(images[a : a + 1])
    margin = round(rough_width * (STEP - 1))
    fits = []
    for squeezed_width in range(rough_width - margin, min(rough_width + margin, width - 1) + 1):
        squeezed = texture(_resized(images[b : b + 1], squeezed_width, height))
        fixed = spectra_of_a(fixed_texture, (height, squeezed_width), FINE_LIMITS)
        moving = spectra_of_b(squeezed, (height, width), FINE_LIMITS)
        value, dy, dx = best_shifts(fixed, 0, moving, slice(0, 1), (height, width))
        fits.append((float(value[0]), squeezed_width, int(dy[0]), int(dx[0])))
    _, squeezed_width, dy_px, dx_px = max(fits)
    return Candidate(a, b, dy=dy_px, dx=dx_px, stretch_x=squeezed_width / width)


def _resized(images: ByteImages, width: int, height: int) -> ByteImages:
    """Resample each image with a filter that widens as the picture shrinks, so nothing aliases."""
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
            for image in images
        ]
    )
