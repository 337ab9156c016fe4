"""Pictures that several tests of this folder encode and change."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]


def noise(seed: int, side: int = 120) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def encoded(pixels: npt.NDArray[Any], file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(image: Picture) -> Picture:
    """What JPEG compression at quality 75 leaves."""
    return np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG", quality=75))))
