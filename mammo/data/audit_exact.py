"""Overlaps that are equal pixel by pixel, however small and at whatever shift.

Windows of 64 pixels in several shapes are hashed at every place of every ROI; where two ROIs hold the same
window, one may lie on the other. So even a strip one pixel wide is found, which correlation cannot tell
from chance. The candidates are verified on the whole overlap afterwards.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mammo.data.audit_texture import Candidate

ByteImages = npt.NDArray[np.uint8]

WINDOWS: Final = ((8, 8), (4, 16), (16, 4), (1, 64), (64, 1))
"""Heights and widths: an equal overlap that holds one of them is found."""

MIN_GREY_LEVELS: Final = 16
"""Different grey levels that a window needs: two films share flat windows and clipped ones by chance."""

MAX_COPIES: Final = 64
"""A window that occurs more often than this is a pattern; not all of its pairs are followed."""


def exact_candidates(images: ByteImages) -> list[Candidate]:
    """Pairs of ROIs, rows `a` < `b`, that hold an equal textured window, with the shift that it implies.

    Args:
        images: uint8 `(n, h, w)`.
    """
    found: set[tuple[int, int, int, int]] = set()
    for height, width in WINDOWS:
        if height <= images.shape[1] and width <= images.shape[2]:
            found |= _same_windows(images, height, width)
    return [Candidate(a, b, dy=dy, dx=dx) for a, b, dy, dx in sorted(found)]


def _same_windows(images: ByteImages, height: int, width: int) -> set[tuple[int, int, int, int]]:
    places = np.argwhere(_ranges(images, height, width) >= MIN_GREY_LEVELS)
    if not len(places):
        return set()
    hashes = _hashes(images, height, width)[tuple(places.T)]
    order = np.argsort(hashes, kind="stable")
    hashes, places = hashes[order], places[order]
    found: set[tuple[int, int, int, int]] = set()
    first = np.arange(len(hashes))
    for lag in range(1, MAX_COPIES):
        first = first[first + lag < len(hashes)]
        first = first[hashes[first] == hashes[first + lag]]
        if not len(first):
            break
        # A stable sort keeps rows in order, so the earlier ROI is `a`.
        pairs = np.column_stack([places[first], places[first + lag]])
        pairs = pairs[pairs[:, 0] < pairs[:, 3]]
        shifts = np.column_stack(
            [pairs[:, 0], pairs[:, 3], pairs[:, 1] - pairs[:, 4], pairs[:, 2] - pairs[:, 5]]
        )
        _, one_of_each = np.unique(shifts, axis=0, return_index=True)
        for index in one_of_each:
            row, top, left = pairs[index, :3]
            if len(np.unique(images[row, top : top + height, left : left + width])) >= MIN_GREY_LEVELS:
                a, b, dy, dx = shifts[index].tolist()
                found.add((a, b, dy, dx))
    return found


def _hashes(images: ByteImages, height: int, width: int) -> npt.NDArray[np.uint64]:
    """A number for each window, `(n, h − height + 1, w − width + 1)`; equal windows have equal numbers."""
    keys = np.random.default_rng(0).integers(1, 2**63, (height, width), dtype=np.uint64)
    grey = images.astype(np.uint64)
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    hashes = np.zeros((len(images), rows, columns), np.uint64)
    for top in range(height):
        for left in range(width):
            hashes += keys[top, left] * grey[:, top : top + rows, left : left + columns]
    return hashes


def _ranges(images: ByteImages, height: int, width: int) -> ByteImages:
    """Brightest minus darkest pixel of each window, in the order of `_hashes`."""
    size = (1, height, width)
    ranges = ndimage.maximum_filter(images, size) - ndimage.minimum_filter(images, size)
    top, left = height // 2, width // 2
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    return np.asarray(ranges[:, top : top + rows, left : left + columns], dtype=np.uint8)
