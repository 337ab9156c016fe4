"""A pair of ROIs that show the same tissue, and where in each of them it lies."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.core.errors import DataError
from mammo.data.audit_exact import exact_candidates
from mammo.data.audit_texture import (
    BLOCK,
    Candidate,
    FloatArray,
    OverlapLimits,
    best_shifts,
    similarity,
    spectra_of_a,
    spectra_of_b,
    strength,
    stretched_candidates,
    texture,
    without_straight_edges,
)

ByteImages = npt.NDArray[np.uint8]
Turn = Literal["mirrored", "flipped"]
Kind = Literal["identical", "altered", "shifted", "stretched"] | Turn

TURNS: Final[dict[Turn, tuple[slice, slice]]] = {
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
        a: ROI id.
        b: ROI id.
        kind: `identical` (every pixel equal), `altered` (same frame, other grey values), `shifted`,
            `stretched` (shifted, and resampled along one axis), `mirrored` (left to right, shifted or not),
            `flipped` (top to bottom).
        dx_px: shift to the right.
        dy_px: shift downwards.
        stretch_x: width of a pixel of `b` in pixels of `a`, 1 or less.
        stretch_y: likewise its height.
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


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels from the top-left corner of a picture; edges may lie between pixels."""

    left: float
    top: float
    right: float
    bottom: float


def overlap_boxes(shape_a: tuple[int, int], shape_b: tuple[int, int], overlap: Overlap) -> tuple[Box, Box]:
    """Where the shared tissue lies in `a` and in `b`, each as it is stored.

    Args:
        shape_a: height and width of `overlap.a`.
        shape_b: height and width of `overlap.b`.
        overlap: how they lie.
    """
    in_a, turned = _boxes(shape_a, shape_b, overlap)
    left, top, right, bottom = turned.left, turned.top, turned.right, turned.bottom
    if overlap.kind == "mirrored":
        left, right = shape_b[1] - right, shape_b[1] - left
    if overlap.kind == "flipped":
        top, bottom = shape_b[0] - bottom, shape_b[0] - top
    return in_a, Box(left, top, right, bottom)


def aligned_crops(
    image_a: ByteImages, image_b: ByteImages, overlap: Overlap
) -> tuple[ByteImages, ByteImages]:
    """Cut what both ROIs show, pixel on pixel, in the frame of `b` (the more stretched one).

    Args:
        image_a: pixels of `overlap.a`, uint8 `(h, w)`.
        image_b: pixels of `overlap.b`; one that was turned over is turned back here.
        overlap: how they lie.
    """
    if overlap.kind == "mirrored" or overlap.kind == "flipped":
        image_b = image_b[TURNS[overlap.kind]]
    box_a, box_b = _boxes(_shape(image_a), _shape(image_b), overlap)
    crop_b = image_b[int(box_b.top) : int(box_b.bottom), int(box_b.left) : int(box_b.right)]
    if overlap.stretch_x == overlap.stretch_y == 1.0:
        return image_a[int(box_a.top) : int(box_a.bottom), int(box_a.left) : int(box_a.right)], crop_b
    edges = (box_a.left, box_a.top, box_a.right, box_a.bottom)
    size = (crop_b.shape[1], crop_b.shape[0])
    return np.asarray(Image.fromarray(image_a).resize(size, Image.Resampling.BICUBIC, box=edges)), crop_b


def _boxes(shape_a: tuple[int, int], shape_b: tuple[int, int], overlap: Overlap) -> tuple[Box, Box]:
    """The shared tissue in `a` and in `b`, the latter turned back and in whole pixels."""
    top, bottom = _common_range(shape_a[0], shape_b[0], overlap.dy_px, overlap.stretch_y)
    left, right = _common_range(shape_a[1], shape_b[1], overlap.dx_px, overlap.stretch_x)
    in_a = Box(
        left * overlap.stretch_x + overlap.dx_px,
        top * overlap.stretch_y + overlap.dy_px,
        right * overlap.stretch_x + overlap.dx_px,
        bottom * overlap.stretch_y + overlap.dy_px,
    )
    return in_a, Box(left, top, right, bottom)


def _common_range(side_a: int, side_b: int, shift: int, stretch: float) -> tuple[int, int]:
    """First and last-plus-one pixel of b that lies wholly inside a."""
    start = max(0, math.ceil(-shift / stretch - 1e-9))
    return start, max(start, min(side_b, math.floor((side_a - shift) / stretch + 1e-9)))


def _shape(image: npt.NDArray[Any]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


Progress = Callable[[int, int], None]
"""Told how many steps of the search are done, and how many there are."""

LIMITS: Final = OverlapLimits(side_px=15, area_px=400)
"""Overlaps narrower or smaller than this are found only if they are equal pixel by pixel: a match needs about
60 textured pixels to stand above chance (see `MATCH_STRENGTH`), and 400 pixels of tissue hold 50 to 180."""

CANDIDATE_STRENGTH: Final = 1.6
"""Pairs below this are not verified. It lies well below `MATCH_STRENGTH`, which decides, because overlaps
that are equal pixel by pixel count however faint their texture is."""

EQUAL_GREY_LEVELS: Final = 8
"""Grey levels that an overlap needs to count by equality alone: fewer are flat tissue or a film's edge."""

MATCH_STRENGTH: Final = 2.8
"""Of the 52,975 pairs of the paper's archive the unrelated ones reach 2.31, the true ones begin at 5.6."""

MATCH_CORRELATION: Final = 0.5
"""JPEG compression at quality 75 leaves 0.55 or more in 99% of overlaps of 25×25 pixels and more."""

TILE_PX: Final = 20
TILE_CORRELATION: Final = 0.2
TILE_SHARE: Final = 0.85
"""A match has to hold all over: at least this share of the textured tiles must correlate."""


def find_overlaps(
    images: ByteImages, roi_ids: Sequence[str], n_threads: int = 2, progress: Progress | None = None
) -> list[Overlap]:
    """Find every pair of ROIs that shows overlapping tissue, in the order of their rows.

    Args:
        images: uint8 `(n, h, w)`.
        roi_ids: one id for each image.
        n_threads: threads; the result does not depend on them.
        progress: told of each finished step.

    Raises:
        DataError: the images are not uint8 `(n, h, w)`, or their number differs from that of the ids.
    """
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(roi_ids):
        raise DataError(
            f"audit: images must be uint8 (n, height, width) with one id each, got {images.dtype} "
            f"{images.shape} and {len(roi_ids)} ids; rebuild the ROI table"
        )
    if len(images) < 2:
        return []
    with ThreadPoolExecutor(n_threads) as threads:
        searches: list[Callable[[], list[Candidate]]] = [
            lambda: list(_identical(images)),
            lambda: exact_candidates(images),
            lambda: _shifted_candidates(images, threads),
            *(lambda turn=turn: _shifted_candidates(images, threads, turn) for turn in TURNS),
            lambda: stretched_candidates(images, threads),
        ]
        candidates: list[Candidate] = []
        for done, search in enumerate(searches, start=1):
            candidates += search()
            if progress:
                progress(done, len(searches))
    return _best_of_each_pair(images, roi_ids, candidates)


def _best_of_each_pair(
    images: ByteImages, roi_ids: Sequence[str], candidates: Sequence[Candidate]
) -> list[Overlap]:
    """Of the candidates of a pair that hold, the one with the smallest grey difference, the larger if equal."""
    best: dict[frozenset[int], Overlap] = {}
    for candidate in candidates:
        overlap = _verified(images, roi_ids, candidate)
        pair = frozenset((candidate.a, candidate.b))
        if overlap and (pair not in best or _rank(overlap) < _rank(best[pair])):
            best[pair] = overlap
    return [best[pair] for pair in sorted(best, key=sorted)]


def _rank(overlap: Overlap) -> tuple[float, int]:
    return overlap.mad, -overlap.overlap_px


def _identical(images: ByteImages) -> Iterator[Candidate]:
    """Pairs of equal images, which have no texture that the search would find if they are smooth."""
    rows: dict[bytes, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(hashlib.sha256(image.tobytes()).digest(), []).append(row)
    for equal in rows.values():
        for a, b in combinations(equal, 2):
            yield Candidate(a, b, dy=0, dx=0)


def _shifted_candidates(
    images: ByteImages, threads: ThreadPoolExecutor, turn: Turn | None = None
) -> list[Candidate]:
    """The best shift of each pair, `b` turned over or not, where it stands out enough to be verified."""
    textures = texture(images)
    shape = (images.shape[1], images.shape[2])
    fixed = spectra_of_a(textures, shape, LIMITS)
    turned = textures if turn is None else np.ascontiguousarray(textures[:, *TURNS[turn]])
    moving = spectra_of_b(turned, shape, LIMITS)

    def of_row(a: int) -> list[Candidate]:
        found = []
        for start in range(a + 1, len(images), BLOCK):
            peaks = best_shifts(fixed, a, moving, slice(start, start + BLOCK), shape)
            for b, (value, dy, dx) in enumerate(zip(*peaks, strict=True), start):
                if value >= CANDIDATE_STRENGTH:
                    found.append(Candidate(a, b, dy=int(dy), dx=int(dx), turn=turn))
        return found

    return [candidate for row in threads.map(of_row, range(len(images) - 1)) for candidate in row]


def _verified(images: ByteImages, roi_ids: Sequence[str], candidate: Candidate) -> Overlap | None:
    """Measure a candidate on the whole overlap; None where the match does not hold."""
    overlap = Overlap(
        a=roi_ids[candidate.a],
        b=roi_ids[candidate.b],
        kind=_kind(images, candidate),
        dx_px=candidate.dx,
        dy_px=candidate.dy,
        stretch_x=candidate.stretch_x,
        stretch_y=candidate.stretch_y,
        overlap_px=0,
        mad=0.0,
        correlation=1.0,
    )
    crop_a, crop_b = aligned_crops(images[candidate.a], images[candidate.b], overlap)
    pair = without_straight_edges(texture(np.stack([crop_a, crop_b])))
    correlation, textured_px = similarity(pair[0], pair[1])
    equal = np.array_equal(crop_a, crop_b) and len(np.unique(crop_a)) >= EQUAL_GREY_LEVELS
    convincing = equal or (
        correlation >= MATCH_CORRELATION
        and strength(correlation, textured_px) >= MATCH_STRENGTH
        and share_of_matching_tiles(pair[0], pair[1]) >= TILE_SHARE
    )
    if not convincing:
        return None
    mad = float(np.mean(np.abs(crop_a.astype(np.int16) - crop_b)))
    return replace(overlap, overlap_px=crop_b.size, mad=mad, correlation=correlation)


def _kind(images: ByteImages, candidate: Candidate) -> Kind:
    if candidate.turn is not None:
        return candidate.turn
    if (candidate.stretch_y, candidate.stretch_x) != (1.0, 1.0):
        return "stretched"
    if (candidate.dy, candidate.dx) != (0, 0):
        return "shifted"
    return "identical" if np.array_equal(images[candidate.a], images[candidate.b]) else "altered"


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
