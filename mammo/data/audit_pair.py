"""A pair of ROIs that show the same tissue, and where in each of them it lies."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

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
