"""Synthetic lesions of every kind that mini-MIAS names, as patterns to be added to tissue."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from mammo.errors import DataError
from mammo.records import ROI_SIDE_PX

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


def draw_lesion(kind: str, radius_px: int, rng: np.random.Generator) -> FloatImage:
    """Draw a lesion as brightness over its surroundings.

    Args:
        kind: CALC, CIRC, SPIC, MISC, ARCH or ASYM.
        radius_px: of the circle that encloses it.

    Returns:
        Shape (2 radius + 1, 2 radius + 1), in standard deviations of the texture that it is added to.
    """
    axis = np.arange(-radius_px, radius_px + 1, dtype=np.float32) / radius_px
    distance = np.hypot(axis[:, None], axis[None, :])
    angle = np.arctan2(axis[:, None], axis[None, :])
    contrast = _CONTRAST[kind] * np.exp(rng.normal(0, _CONTRAST_SPREAD))
    pattern = _PATTERNS[kind](distance, angle, radius_px, rng)
    enclosed: FloatImage = (contrast * pattern * _soft_below(distance, 0.95, 0.05)).astype(np.float32)
    return enclosed


def add_lesion(tissue: FloatImage, lesion: FloatImage, x_px: int, y_px: int, texture_std: float) -> None:
    """Add a drawn lesion to tissue in place, centred on (x_px, y_px) and cut off at the image's border."""
    radius = lesion.shape[0] // 2
    rows = slice(max(y_px - radius, 0), max(y_px + radius + 1, 0))
    columns = slice(max(x_px - radius, 0), max(x_px + radius + 1, 0))
    target = tissue[rows, columns]
    row, column = rows.start - (y_px - radius), columns.start - (x_px - radius)
    target += texture_std * lesion[row : row + target.shape[0], column : column + target.shape[1]]


def paint_lesion(image: npt.NDArray[np.uint8], kind: str, seed: int) -> npt.NDArray[np.uint8]:
    """Paint a lesion into the middle of a ROI, to see how a model answers.

    Args:
        image: grey levels of shape (120, 120), best a normal ROI; left as it is.
        kind: CALC, CIRC, SPIC, MISC, ARCH or ASYM.
        seed: draws its size, shape and place.

    Raises:
        DataError: the kind does not exist, or the image is no ROI.
    """
    if kind not in RADIUS_PX:
        raise DataError(f"a lesion must be one of {list(RADIUS_PX)}, got {kind!r}; choose one of them")
    if image.shape != (ROI_SIDE_PX, ROI_SIDE_PX) or image.dtype != np.uint8:
        raise DataError(
            f"a ROI must be uint8 of shape (120, 120), got {image.dtype} of shape {image.shape}; crop it"
        )
    rng = np.random.default_rng(seed)
    smallest, largest = RADIUS_PX[kind]
    radius = int(rng.integers(max(smallest, 16), min(largest, 50) + 1))
    x, y = (int(value) for value in ROI_SIDE_PX // 2 + rng.integers(-4, 5, size=2))
    tissue = image.astype(np.float32)
    # Preprocessing stretches contrast, so the ROI's own spread is the measure here.
    add_lesion(tissue, draw_lesion(kind, radius, rng), x, y, texture_std=max(float(tissue.std()), 8.0))
    return np.clip(np.rint(tissue), 0, 255).astype(np.uint8)


def _soft_below(values: FloatImage, limit: float | FloatImage, softness: float) -> FloatImage:
    """1 well below the limit, 0 well above, smooth over `softness` on both sides."""
    ramp = np.clip((limit - values) / (2 * softness) + 0.5, 0, 1)
    soft: FloatImage = ramp * ramp * (3 - 2 * ramp)
    return soft


def _outline(angle: FloatImage, mean: float, roughness: float, rng: np.random.Generator) -> FloatImage:
    """A closed outline: the distance from the centre at each angle, with five random harmonics."""
    outline = np.full(angle.shape, mean, dtype=np.float32)
    for harmonic in range(2, 7):
        outline += mean * roughness / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return outline


def _rays(distance: FloatImage, angle: FloatImage, radius_px: int, rng: np.random.Generator) -> FloatImage:
    """Bright thin bent lines that run outwards from near the centre and fade towards the enclosing circle."""
    rays = np.zeros(distance.shape, dtype=np.float32)
    count = int(rng.integers(12, 22))
    directions = 2 * np.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    for direction in directions.tolist():
        bend, aside, length = rng.normal(0, 0.3), rng.normal(0, 0.06), rng.uniform(0.55, 1.0)
        half_width_px, brightness = rng.uniform(0.9, 1.8), rng.uniform(0.5, 1.0)
        turn = angle - direction - bend * distance
        across_px = (distance * np.sin(turn) - aside) * radius_px
        ray = brightness * np.exp(-((across_px / half_width_px) ** 2))
        ray *= np.clip((length - distance) / 0.5, 0, 1) * (np.cos(turn) > 0)
        np.maximum(rays, ray, out=rays)
    return rays


def _calcifications(
    distance: FloatImage, angle: FloatImage, radius_px: int, rng: np.random.Generator
) -> FloatImage:
    """A cluster of small bright grains."""
    grains = np.zeros(distance.shape, dtype=np.float32)
    rows, columns = distance * np.sin(angle) * radius_px, distance * np.cos(angle) * radius_px
    for _ in range(int(rng.integers(10, 25))):
        from_centre, direction = 0.85 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        row, column = radius_px * from_centre * np.sin(direction), radius_px * from_centre * np.cos(direction)
        size, brightness = rng.uniform(0.9, 1.9), rng.uniform(0.4, 1.0)
        grain = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
        np.maximum(grains, brightness * grain, out=grains)
    return grains


def _circumscribed(
    distance: FloatImage, angle: FloatImage, radius_px: int, rng: np.random.Generator
) -> FloatImage:
    """A smooth disc, brighter in its middle, with a sharp edge."""
    edge = _soft_below(distance, _outline(angle, 0.8, 0.08, rng), 0.07)
    disc: FloatImage = edge * (1 - 0.3 * distance**2)
    return disc


def _spiculated(
    distance: FloatImage, angle: FloatImage, radius_px: int, rng: np.random.Generator
) -> FloatImage:
    """A small irregular mass with spicules."""
    core = _soft_below(distance, _outline(angle, 0.36, 0.25, rng), 0.14)
    return np.maximum(core, _rays(distance, angle, radius_px, rng))


def _ill_defined(
    distance: FloatImage, angle: FloatImage, radius_px: int, rng: np.random.Generator
) -> FloatImage:
    """Lumps that run into each other, without a clear edge."""
    mass = np.zeros(distance.shape, dtype=np.float32)
    rows, columns = distance * np.sin(angle), distance * np.cos(angle)
    for _ in range(int(rng.integers(4, 8))):
        row, column = rng.uniform(-0.35, 0.35), rng.uniform(-0.35, 0.35)
        lump = _soft_below(np.hypot(rows - row, columns - column), rng.uniform(0.22, 0.42), 0.16)
        np.maximum(mass, rng.uniform(0.6, 1.0) * lump, out=mass)
    return mass


def _asymmetry(
    distance: FloatImage, angle: FloatImage, radius_px: int, rng: np.random.Generator
) -> FloatImage:
    """A wide density without an edge, streaked in one direction as fibrous tissue is."""
    density = np.exp(-((distance / _outline(angle, 0.5, 0.4, rng)) ** 2))
    turn = angle - rng.uniform(0, 2 * np.pi)
    across_px, along_px = distance * np.sin(turn) * radius_px, distance * np.cos(turn) * radius_px
    wave = across_px * rng.uniform(0.6, 0.9) + rng.uniform(1, 3) * np.sin(along_px * rng.uniform(0.05, 0.15))
    streaks = 0.7 + 0.3 * np.sin(wave) * np.sin(0.37 * across_px + 0.09 * along_px)
    streaked: FloatImage = density * streaks
    return streaked


_PATTERNS: Final[dict[str, Callable[[FloatImage, FloatImage, int, np.random.Generator], FloatImage]]] = {
    "CALC": _calcifications,
    "CIRC": _circumscribed,
    "SPIC": _spiculated,
    "MISC": _ill_defined,
    "ARCH": _rays,
    "ASYM": _asymmetry,
}
