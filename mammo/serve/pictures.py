"""What a browser can show: grey levels, smaller copies of films, and maps to lay over a ROI. All PNG."""

from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.data.decode import GreyImage

TUMOR_RGB: Final = (230, 60, 40)
NORMAL_RGB: Final = (40, 130, 230)
STRONGEST_ALPHA: Final = 190
HATCH_PX: Final = 4


def png(grey: GreyImage) -> bytes:
    """Grey levels `(height, width)` as they are."""
    return _saved(Image.fromarray(grey))


def preview(grey: GreyImage, longest_px: int = 1024) -> bytes:
    """Grey levels `(height, width)`, shrunk where the longer side has more than `longest_px`."""
    image = Image.fromarray(grey)
    image.thumbnail((longest_px, longest_px), Image.Resampling.BOX)
    return _saved(image)


def overlay(signed: npt.NDArray[np.float64]) -> bytes:
    """A signed map `(height, width)`: red above 0, blue and hatched below, clear at 0 and where NaN.

    The opacity grows with the distance from 0; the largest of the map is the most opaque.
    """
    values = np.nan_to_num(signed)
    alpha = STRONGEST_ALPHA * np.abs(values) / max(np.abs(values).max(), np.finfo(float).tiny)
    rows, columns = np.indices(values.shape)
    # Stripes tell the two signs apart where the colours do not.
    alpha[(values < 0) & ((rows + columns) % HATCH_PX == 0)] /= 4
    colours = np.where(values[..., None] < 0, NORMAL_RGB, TUMOR_RGB)
    return _saved(Image.fromarray(np.dstack([colours, alpha.round()]).astype(np.uint8)))


def _saved(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
