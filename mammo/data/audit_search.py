"""The search for pairs of ROIs that show the same tissue, and where in each of them it lies."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Final, Literal, NamedTuple

import numpy as np

from mammo.data.rois import Progress, pixel_hashes
from mammo.data.texture import (
    ByteImages,
    FloatArray,
    IntArray,
    OverlapLimits,
    Shape,
    best_shifts,
    resized,
    share_of_matching_tiles,
    similarity,
    spectra,
    strength,
    texture,
    without_straight_edges,
)

Kind = Literal["identical", "altered", "shifted", "stretched", "mirrored", "flipped"]

TURNS: Final[dict[Kind, tuple[slice, slice]]] = {
    "mirrored": (slice(None), slice(None, None, -1)),
    "flipped": (slice(None, None, -1), slice(None)),
}
"""Rows and columns of a picture that was turned over left to right, or top to bottom."""


@dataclass(frozen=True)
class Overlap:
    """Two ROIs that show the same tissue.

    Pixel (r, c) of `b` lies at (r · stretch_y + dy_px, c · stretch_x + dx_px) of `a`, both measured
    from the top-left corner of the pixels; if `kind` is `mirrored` or `flipped`, after `b` was turned over
    so. Of two ROIs, `b` is the more stretched one, else the later row.

    Attributes:
        a, b: ROI ids.
        kind: `identical` (every pixel equal), `altered` (same frame, other grey values), `shifted`,
            `stretched` (shifted, and resampled along one axis), `mirrored` (left to right, shifted or not),
            `flipped` (top to bottom).
        dx_px, dy_px: shift to the right and downwards.
        stretch_x, stretch_y: width and height of a pixel of `b` in pixels of `a`, 1 or less.
        overlap_px: pixels of `b` that `a` shows too.
        mad: mean absolute grey difference over the overlap.
        correlation: of the textures over the overlap, −1 to 1.
    """

    a: str
    b: str
    kind: Kind
    dx_px: int
    dy_px: int
    stretch_x: float
    stretch_y: float
    overlap_px: int
    mad: float
    correlation: float


class Box(NamedTuple):
    """A rectangle in pixels from a picture's top-left corner; edges may lie between pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Placing(NamedTuple):
    """How ROI `b` may lie on ROI `a`, as in `Overlap`."""

    kind: Kind
    dy_px: int
    dx_px: int
    stretch_y: float = 1.0
    stretch_x: float = 1.0


Candidate = tuple[int, int, Placing]
"""Rows of the images `a` and `b`, and how the second may lie on the first."""


def overlap_boxes(shape_a: Shape, shape_b: Shape, overlap: Overlap) -> tuple[Box, Box]:
    """Where the shared tissue lies in `a` and in `b`, each as it is stored; shapes are heights and widths."""
    in_a, (left, top, right, bottom) = _boxes(shape_a, shape_b, overlap)
    if overlap.kind == "mirrored":
        left, right = shape_b[1] - right, shape_b[1] - left
    if overlap.kind == "flipped":
        top, bottom = shape_b[0] - bottom, shape_b[0] - top
    return in_a, Box(left, top, right, bottom)


def aligned_crops(
    image_a: ByteImages, image_b: ByteImages, placing: Overlap | Placing
) -> tuple[ByteImages, ByteImages]:
    """What both ROIs (uint8 `(h, w)`) show, pixel on pixel in the frame of `b`, which is turned back if need be."""
    if placing.kind in TURNS:
        image_b = image_b[TURNS[placing.kind]]
    in_a, (left, top, right, bottom) = _boxes(image_a.shape, image_b.shape, placing)
    crop_b = image_b[int(top) : int(bottom), int(left) : int(right)]
    if placing.stretch_x == placing.stretch_y == 1.0:
        return image_a[int(in_a.top) : int(in_a.bottom), int(in_a.left) : int(in_a.right)], crop_b
    return resized(image_a, crop_b.shape, in_a), crop_b


def _boxes(shape_a: tuple[int, ...], shape_b: tuple[int, ...], placing: Overlap | Placing) -> tuple[Box, Box]:
    """The shared tissue in `a` and in `b`, the latter turned back and in whole pixels."""
    top, bottom = _common_range(shape_a[0], shape_b[0], placing.dy_px, placing.stretch_y)
    left, right = _common_range(shape_a[1], shape_b[1], placing.dx_px, placing.stretch_x)
    across = [x * placing.stretch_x + placing.dx_px for x in (left, right)]
    down = [y * placing.stretch_y + placing.dy_px for y in (top, bottom)]
    return Box(across[0], down[0], across[1], down[1]), Box(left, top, right, bottom)


def _common_range(side_a: int, side_b: int, shift: int, stretch: float) -> tuple[int, int]:
    """First and last-plus-one pixel of b that lies wholly inside a."""
    start = max(0, math.ceil(-shift / stretch - 1e-9))
    return start, max(start, min(side_b, math.floor((side_a - shift) / stretch + 1e-9)))


N_THREADS: Final = 2
LIMITS: Final = OverlapLimits(side_px=15, area_px=400)
"""Narrower or smaller overlaps are not looked for: a match needs about 60 textured pixels to stand above chance
(see `MATCH_STRENGTH`), and 400 pixels of tissue hold 50 to 180."""

CANDIDATE_STRENGTH: Final = 1.6
"""Pairs below this are not verified. It lies well below `MATCH_STRENGTH`, which decides, because overlaps
that are equal pixel by pixel count however faint their texture is."""

EQUAL_GREY_LEVELS: Final = 8
"""Grey levels that an overlap needs to count by equality alone: fewer are flat tissue or a film's edge."""

MATCH_STRENGTH: Final = 2.8
"""Of the 52,975 pairs of the paper's archive the unrelated ones reach 2.31, the true ones begin at 5.6."""

MATCH_CORRELATION: Final = 0.5
"""JPEG compression at quality 75 leaves 0.55 or more in 99% of overlaps of 25×25 pixels and more."""

TILE_SHARE: Final = 0.85
"""A match has to hold all over: at least this share of the textured tiles must correlate."""


def find_overlaps(images: ByteImages, roi_ids: Sequence[str], progress: Progress | None = None) -> list[Overlap]:
    """Find every pair of ROIs that shows overlapping tissue, in the order of their rows.

    `images` is uint8 `(n, h, w)`, one for each id.
    """
    textures = texture(images)
    found: dict[frozenset[int], list[Overlap]] = {}
    with ThreadPoolExecutor(N_THREADS) as threads:
        searches: list[Callable[[], list[Candidate]]] = [
            partial(_identical, images),
            *(partial(_shifted, textures, turn, threads) for turn in (None, *TURNS)),
            partial(_stretched, images, threads),
        ]
        for done, search in enumerate(searches, start=1):
            for a, b, placing in search():
                if overlap := _verified(images, roi_ids, a, b, placing):
                    found.setdefault(frozenset((a, b)), []).append(overlap)
            if progress:
                progress(done, len(searches))
    # Of what holds for a pair: the smallest grey difference, then the largest overlap.
    return [
        min(found[pair], key=lambda overlap: (overlap.mad, -overlap.overlap_px)) for pair in sorted(found, key=sorted)
    ]


def _identical(images: ByteImages) -> list[Candidate]:
    """Pairs of equal images, which have no texture that the search would find if they are smooth."""
    rows: dict[str, list[int]] = {}
    for row, pixels in enumerate(pixel_hashes(images)):
        rows.setdefault(pixels, []).append(row)
    return [(a, b, Placing("identical", 0, 0)) for equal in rows.values() for a, b in combinations(equal, 2)]


def _shifted(textures: FloatArray, turn: Kind | None, threads: ThreadPoolExecutor) -> list[Candidate]:
    """The best shift of each pair, `b` turned over or not, where it stands out enough to be verified."""
    shape = (textures.shape[1], textures.shape[2])
    turned = textures[:, *TURNS[turn]] if turn else textures
    fixed = spectra(textures, shape, LIMITS, moving=False)
    moving = spectra(np.ascontiguousarray(turned), shape, LIMITS, moving=True)

    def of_row(a: int) -> list[Candidate]:
        matches = zip(*best_shifts(fixed, a, moving, first=a + 1), strict=True)
        return [
            (a, b, Placing(turn or "shifted", int(dy), int(dx)))
            for b, (value, dy, dx) in enumerate(matches, start=a + 1)
            if value >= CANDIDATE_STRENGTH
        ]

    return [candidate for row in threads.map(of_row, range(len(textures) - 1)) for candidate in row]


def _verified(images: ByteImages, roi_ids: Sequence[str], a: int, b: int, placing: Placing) -> Overlap | None:
    """Measure a candidate on the whole overlap; None where the match does not hold."""
    crop_a, crop_b = aligned_crops(images[a], images[b], placing)
    texture_a, texture_b = without_straight_edges(texture(np.stack([crop_a, crop_b])))
    correlation, textured_px = similarity(texture_a, texture_b)
    equal = np.array_equal(crop_a, crop_b)
    if not (equal and len(np.unique(crop_a)) >= EQUAL_GREY_LEVELS) and (
        correlation < MATCH_CORRELATION
        or strength(correlation, textured_px) < MATCH_STRENGTH
        or share_of_matching_tiles(texture_a, texture_b) < TILE_SHARE
    ):
        return None
    kind = placing.kind
    if kind not in TURNS and placing[1:] == (0, 0, 1.0, 1.0):
        kind = "identical" if equal else "altered"
    mad = float(np.mean(np.abs(crop_a.astype(np.int16) - crop_b)))
    where = (placing.dx_px, placing.dy_px, placing.stretch_x, placing.stretch_y)
    return Overlap(roi_ids[a], roi_ids[b], kind, *where, crop_b.size, mad, correlation)


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

    def fine_detail(lines: ByteImages) -> float:
        steps = np.diff(lines.astype(np.float64), axis=1)
        power = np.abs(np.fft.rfft(steps * np.hanning(steps.shape[1]), axis=1)) ** 2
        frequency = np.fft.rfftfreq(steps.shape[1])
        inside = (frequency >= FINE_BAND[0]) & (frequency <= FINE_BAND[1])
        return float(power[:, inside].mean()) + 1e-3

    return float(np.log(fine_detail(image) / fine_detail(image.T)))


def _stretched(images: ByteImages, threads: ThreadPoolExecutor) -> list[Candidate]:
    """Pairs in which `b` lies on `a` after being squeezed along the axis in which it lacks detail."""
    ratios = np.array([detail_ratio(image) for image in images])
    turned = np.ascontiguousarray(images.transpose(0, 2, 1))
    along_x = _stretched_along_x(images, np.flatnonzero(ratios < -LACK_OF_DETAIL), threads)
    along_y = _stretched_along_x(turned, np.flatnonzero(ratios > LACK_OF_DETAIL), threads)
    return [
        *((a, b, Placing("stretched", dy, dx, stretch_x=share)) for a, b, dy, dx, share in along_x),
        *((a, b, Placing("stretched", dy, dx, stretch_y=share)) for a, b, dx, dy, share in along_y),
    ]


def _stretched_along_x(
    images: ByteImages, stretched: IntArray, threads: ThreadPoolExecutor
) -> list[tuple[int, int, int, int, float]]:
    """Rows `a` and `b`, shifts dy and dx, and stretch of the pairs of which `b` is one of `stretched`."""
    if not len(stretched):
        return []
    height, width = images.shape[1:]
    half = (height // 2, width // 2)
    n_steps = int(np.log(LARGEST_STRETCH) / np.log(STEP))
    widths = sorted({round(width / STEP**step) for step in range(1, n_steps + 1)}, reverse=True)
    halves = texture(np.stack([resized(image, half) for image in images]))
    rough: dict[tuple[int, int], tuple[float, int]] = {}
    for squeezed_width in widths:
        small = (half[0], round(squeezed_width / 2))
        fixed = spectra(halves, small, COARSE_LIMITS, moving=False)
        squeezed = texture(np.stack([resized(images[b], small) for b in stretched]))
        moving = spectra(squeezed, half, COARSE_LIMITS, moving=True)
        matches = threads.map(lambda a, x=fixed, y=moving: best_shifts(x, a, y)[0], range(len(images)))
        for a, values in enumerate(matches):
            for b, value in zip(stretched.tolist(), values.tolist(), strict=True):
                if value >= COARSE_STRENGTH and a != b:
                    rough[a, b] = max(rough.get((a, b), (0.0, 0)), (value, squeezed_width))
    return [(a, b, *_refined(images[a], images[b], around)) for (a, b), (_, around) in rough.items()]


def _refined(image_a: ByteImages, image_b: ByteImages, rough_width: int) -> tuple[int, int, float]:
    """Shifts dy and dx and the stretch at which squeezed b fits a best, at full resolution.

    Its width is whole: it is that of the bounding box before it was stretched.
    """
    height, width = image_a.shape
    fixed_texture = texture(image_a[None])
    margin = round(rough_width * (STEP - 1))
    fits = []
    for squeezed_width in range(rough_width - margin, min(rough_width + margin, width - 1) + 1):
        squeezed = texture(resized(image_b, (height, squeezed_width))[None])
        fixed = spectra(fixed_texture, (height, squeezed_width), FINE_LIMITS, moving=False)
        moving = spectra(squeezed, (height, width), FINE_LIMITS, moving=True)
        value, dy, dx = (float(found[0]) for found in best_shifts(fixed, 0, moving))
        fits.append((value, squeezed_width, int(dy), int(dx)))
    _, best_width, dy_px, dx_px = max(fits)
    return dy_px, dx_px, best_width / width
