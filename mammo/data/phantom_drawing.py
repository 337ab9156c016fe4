"""Drawing of synthetic breasts and lesions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mammo.data.films import FILM_SIDE_PX, Laterality

FloatImage = npt.NDArray[np.floating]

RADIUS_PX: Final = {
    "CALC": (8, 40),
    "CIRC": (18, 75),
    "SPIC": (24, 95),
    "MISC": (18, 75),
    "ARCH": (28, 100),
    "ASYM": (26, 105),
}
"""Smallest and largest radius of each kind; like in the real films, some exceed the ROI's 60 pixels."""

_CONTRAST: Final = {"CALC": 8.0, "CIRC": 3.0, "SPIC": 2.8, "MISC": 3.0, "ARCH": 2.9, "ASYM": 3.2}
"""Mean brightness of a pattern's peak, in standard deviations of the surrounding texture."""
_CONTRAST_SPREAD: Final = 0.25


class _Circle(NamedTuple):
    """The circle that encloses a lesion: distance from its centre in radii, and angle, of each pixel around it."""

    distance: FloatImage
    angle: FloatImage
    radius_px: int


def draw_lesion(kind: str, radius_px: int, rng: np.random.Generator) -> FloatImage:
    """Draw a lesion (CALC, CIRC, SPIC, MISC, ARCH, ASYM) as brightness over its surroundings.

    Shape (2 radius + 1, 2 radius + 1), in standard deviations of the texture that it is added to.
    """
    axis = np.arange(-radius_px, radius_px + 1, dtype=np.float32) / radius_px
    distance, angle = np.hypot(axis[:, None], axis[None, :]), np.arctan2(axis[:, None], axis[None, :])
    contrast = _CONTRAST[kind] * np.exp(rng.normal(0, _CONTRAST_SPREAD))
    pattern = _PATTERNS[kind](_Circle(distance, angle, radius_px), rng)
    enclosed: FloatImage = (contrast * pattern * _rise(0.95 - distance, 0.05)).astype(np.float32)
    return enclosed


def add_lesion(tissue: FloatImage, lesion: FloatImage, x_px: int, y_px: int, texture_std: float) -> None:
    """Add a drawn lesion to tissue in place, centred on (x_px, y_px) and cut off at the image's border."""
    radius = lesion.shape[0] // 2
    rows = slice(max(y_px - radius, 0), max(y_px + radius + 1, 0))
    columns = slice(max(x_px - radius, 0), max(x_px + radius + 1, 0))
    target = tissue[rows, columns]
    row, column = rows.start - (y_px - radius), columns.start - (x_px - radius)
    target += texture_std * lesion[row : row + target.shape[0], column : column + target.shape[1]]


def _outline(angle: FloatImage, mean: float, roughness: float, rng: np.random.Generator) -> FloatImage:
    """A closed outline: the distance from the centre at each angle, with five random harmonics."""
    outline = np.full(angle.shape, mean, dtype=np.float32)
    for harmonic in range(2, 7):
        outline += mean * roughness / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return outline


def _rays(at: _Circle, rng: np.random.Generator) -> FloatImage:
    """Bright thin bent lines that run outwards from near the centre and fade towards the enclosing circle."""
    rays = np.zeros(at.distance.shape, dtype=np.float32)
    count = int(rng.integers(12, 22))
    directions = 2 * np.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    for direction in directions.tolist():
        bend, aside, length = rng.normal(0, 0.3), rng.normal(0, 0.06), rng.uniform(0.55, 1.0)
        half_width_px, brightness = rng.uniform(0.9, 1.8), rng.uniform(0.5, 1.0)
        turn = at.angle - direction - bend * at.distance
        across_px = (at.distance * np.sin(turn) - aside) * at.radius_px
        ray = brightness * np.exp(-((across_px / half_width_px) ** 2))
        ray *= np.clip((length - at.distance) / 0.5, 0, 1) * (np.cos(turn) > 0)
        np.maximum(rays, ray, out=rays)
    return rays


def _calcifications(at: _Circle, rng: np.random.Generator) -> FloatImage:
    """A cluster of small bright grains."""
    grains = np.zeros(at.distance.shape, dtype=np.float32)
    rows = at.distance * np.sin(at.angle) * at.radius_px
    columns = at.distance * np.cos(at.angle) * at.radius_px
    for _ in range(int(rng.integers(10, 25))):
        from_centre, direction = 0.85 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        row = at.radius_px * from_centre * np.sin(direction)
        column = at.radius_px * from_centre * np.cos(direction)
        size, brightness = rng.uniform(0.9, 1.9), rng.uniform(0.4, 1.0)
        grain = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
        np.maximum(grains, brightness * grain, out=grains)
    return grains


def _circumscribed(at: _Circle, rng: np.random.Generator) -> FloatImage:
    """A smooth disc, brighter in its middle, with a sharp edge."""
    edge = _rise(_outline(at.angle, 0.8, 0.08, rng) - at.distance, 0.07)
    disc: FloatImage = edge * (1 - 0.3 * at.distance**2)
    return disc


def _spiculated(at: _Circle, rng: np.random.Generator) -> FloatImage:
    """A small irregular mass with spicules."""
    core = _rise(_outline(at.angle, 0.36, 0.25, rng) - at.distance, 0.14)
    return np.maximum(core, _rays(at, rng))


def _ill_defined(at: _Circle, rng: np.random.Generator) -> FloatImage:
    """Lumps that run into each other, without a clear edge."""
    mass = np.zeros(at.distance.shape, dtype=np.float32)
    rows, columns = at.distance * np.sin(at.angle), at.distance * np.cos(at.angle)
    for _ in range(int(rng.integers(4, 8))):
        row, column = rng.uniform(-0.35, 0.35), rng.uniform(-0.35, 0.35)
        lump = _rise(rng.uniform(0.22, 0.42) - np.hypot(rows - row, columns - column), 0.16)
        np.maximum(mass, rng.uniform(0.6, 1.0) * lump, out=mass)
    return mass


def _asymmetry(at: _Circle, rng: np.random.Generator) -> FloatImage:
    """A wide density without an edge, streaked in one direction as fibrous tissue is."""
    density = np.exp(-((at.distance / _outline(at.angle, 0.5, 0.4, rng)) ** 2))
    turn = at.angle - rng.uniform(0, 2 * np.pi)
    across_px = at.distance * np.sin(turn) * at.radius_px
    along_px = at.distance * np.cos(turn) * at.radius_px
    wave = across_px * rng.uniform(0.6, 0.9) + rng.uniform(1, 3) * np.sin(along_px * rng.uniform(0.05, 0.15))
    streaks = 0.7 + 0.3 * np.sin(wave) * np.sin(0.37 * across_px + 0.09 * along_px)
    streaked: FloatImage = density * streaks
    return streaked


_PATTERNS: Final[dict[str, Callable[[_Circle, np.random.Generator], FloatImage]]] = {
    "CALC": _calcifications,
    "CIRC": _circumscribed,
    "SPIC": _spiculated,
    "MISC": _ill_defined,
    "ARCH": _rays,
    "ASYM": _asymmetry,
}


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
