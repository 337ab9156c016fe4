"""A synthetic film without lesions: breast, muscle, texture, vessels and label.

Mammographic texture has a power spectrum close to 1/f³ (Burgess, Jacobson and Judy, Medical Physics 28, 2001);
the rest is drawn to look roughly like a mini-MIAS film after its reduction to 200 µm and 8 bits.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from mammo.data.info_txt import FILM_SIDE_PX, Laterality

FloatImage = npt.NDArray[np.floating]

TEXTURE_STD: Final = 9.0
"""Standard deviation of the tissue's texture in grey levels; lesions are painted relative to it."""

_TEXTURE_BETA: Final = 3.0
_GLAND_BETA: Final = 5.0
"""Glandular tissue has large, soft forms."""
_LARGEST_PX: Final = 260
"""Structures larger than this have no more power than these."""
_NOISE_STD: Final = 1.6
_BACKGROUND_LEVEL: Final = 4.0
_FAT_LEVEL: Final = 92.0
_GLAND_LEVELS: Final = 42.0
_GLAND_OFFSETS: Final = {"F": -1.6, "G": -0.6, "D": 0.3}
"""Where the structure field turns into glandular tissue, by tissue class."""
_MUSCLE_LEVELS: Final = 48.0
_LABEL_LEVEL: Final = 235


@dataclass(frozen=True)
class Breast:
    """Tissue of one film in grey levels, before lesions and quantisation.

    Attributes:
        grey: shape (1024, 1024).
        depth: 0 on the breast's outline, rising to 1 at the chest wall's middle, negative outside.
        muscle: 1 inside the pectoral muscle, 0 elsewhere, soft in between.
    """

    grey: FloatImage
    depth: FloatImage
    muscle: FloatImage


def draw_breast(tissue: str, laterality: Laterality, rng: np.random.Generator) -> Breast:
    """Draw a breast; the chest wall is on the right of a right film and on the left of a left one."""
    depth, muscle = _anatomy(rng)
    if laterality == "right":
        depth, muscle = depth[:, ::-1], muscle[:, ::-1]
    structure, fine = power_law(_GLAND_BETA, rng), power_law(_TEXTURE_BETA, rng)
    gland = _rise(structure + 1.5 * np.minimum(depth, 0.6) + _GLAND_OFFSETS[tissue], 0.8)
    thickness = 1 - np.exp(np.minimum(-depth, 0) / 0.07)
    grey = _FAT_LEVEL + _GLAND_LEVELS * gland * (1 - muscle) + _MUSCLE_LEVELS * muscle
    grey += TEXTURE_STD * (1 + 0.4 * gland) * fine * (1 - 0.6 * muscle)
    grey += _vessels(depth, rng)
    return Breast((grey * thickness * (depth > 0)).astype(np.float32), depth, muscle)


def develop(breast: Breast, grey: FloatImage, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Add the background, film noise and the label to tissue with lesions, and quantise to 8 bits."""
    noise = rng.standard_normal(grey.shape, dtype=np.float32) * _NOISE_STD
    levels = np.where(breast.depth > 0, grey, _BACKGROUND_LEVEL) + noise
    film: npt.NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    _stamp_label(film, breast.depth, rng)
    return film


@lru_cache(maxsize=2)
def _amplitudes(beta: float) -> FloatImage:
    """Fourier amplitudes of a field with unit variance, for `rfft2`."""
    rows, columns = np.fft.fftfreq(FILM_SIDE_PX)[:, None], np.fft.rfftfreq(FILM_SIDE_PX)[None, :]
    amplitudes = (rows**2 + columns**2 + 1 / _LARGEST_PX**2) ** (-beta / 4)
    amplitudes[0, 0] = 0
    weights = np.full(amplitudes.shape, 2.0)  # all but the first and last column stand for two frequencies
    weights[:, [0, -1]] = 1
    power = (weights * amplitudes**2).sum() / FILM_SIDE_PX**2
    scaled: FloatImage = (amplitudes / np.sqrt(power)).astype(np.float32)
    return scaled


def power_law(beta: float, rng: np.random.Generator) -> FloatImage:
    """A random field of shape (1024, 1024) with mean 0, variance near 1 and a power spectrum of 1/f^beta."""
    from scipy.fft import irfft2, rfft2

    white = rng.standard_normal((FILM_SIDE_PX, FILM_SIDE_PX), dtype=np.float32)
    field: FloatImage = irfft2(rfft2(white) * _amplitudes(beta), s=white.shape).astype(np.float32, copy=False)
    return field


def _anatomy(rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """Depth and muscle with the chest wall on the left: a half superellipse and a wedge at its top."""
    margin, middle = rng.uniform(20, 110), rng.uniform(470, 560)
    width, above, below = rng.uniform(380, 540), rng.uniform(430, 520), rng.uniform(380, 450)
    across = np.arange(FILM_SIDE_PX, dtype=np.float32) - margin
    down = np.arange(FILM_SIDE_PX, dtype=np.float32) - middle
    vertical = np.abs(down) / np.where(down < 0, above, below)
    horizontal = np.maximum(across, 0) / width
    depth = 1 - np.sqrt(np.add.outer(vertical**2.4, horizontal**2.0))
    depth[:, across < 0] = -1
    depth = depth.astype(np.float32)
    wedge_width, wedge_height = rng.uniform(0.25, 0.42) * width, rng.uniform(0.5, 0.8) * above
    wedge = 1 - np.add.outer((down + above) / wedge_height, across / wedge_width)
    return depth, _rise(wedge, 0.07)


def _rise(field: FloatImage, softness: float) -> FloatImage:
    """0 where the field is negative, 1 where it is positive, smooth over `softness`."""
    ramp = np.clip(field / (2 * softness) + 0.5, 0, 1)
    rise: FloatImage = ramp * ramp * (3 - 2 * ramp)
    return rise


def _vessels(depth: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Bright curved lines through the breast, which no lesion explains."""
    from scipy.ndimage import gaussian_filter

    lines = np.zeros(depth.shape, dtype=np.float32)
    along = np.linspace(0, 1, 900)[:, None]
    for brightness in rng.uniform(3, 14, size=rng.integers(18, 30)).tolist():
        start, bend, end = rng.uniform(0, FILM_SIDE_PX - 1, (3, 2))
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        rows, columns = np.rint(curve).astype(int).T
        lines[rows, columns] = brightness
    blurred: FloatImage = gaussian_filter(lines, 1.3, truncate=3) * 2.5
    return blurred


def _stamp_label(film: npt.NDArray[np.uint8], depth: FloatImage, rng: np.random.Generator) -> None:
    """Write a bright tag with dark strokes into the upper corner away from the chest wall."""
    height, width = int(rng.integers(50, 90)), int(rng.integers(60, 120))
    top, inset = int(rng.integers(20, 60)), int(rng.integers(15, 50))
    at_left = depth[:, : FILM_SIDE_PX // 2].mean() < depth[:, FILM_SIDE_PX // 2 :].mean()
    left = inset if at_left else FILM_SIDE_PX - inset - width
    tag = film[top : top + height, left : left + width]
    free = depth[top : top + height, left : left + width] <= 0
    strokes = np.zeros(tag.shape, dtype=bool)
    for column in range(10, width - 10, 14):
        strokes[10 : height - 10, column : column + int(rng.integers(3, 8))] = True
    tag[free & ~strokes] = _LABEL_LEVEL
