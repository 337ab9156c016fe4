"""Overlaps in which one ROI was stretched along one axis.

The paper crops a ROI at the film's edge to the breast's bounding box and stretches what is left back to
a square (`extraction`), so two ROIs of one film can differ in scale. Upsampling leaves few
fine details along its axis; only ROIs that show such a lack are searched, squeezed step by step.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.data.audit_texture import (
    BLOCK,
    Candidate,
    OverlapLimits,
    best_shifts,
    spectra_of_a,
    spectra_of_b,
    texture,
)

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
