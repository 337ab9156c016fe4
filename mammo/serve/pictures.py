"""PNG of grey levels and of maps over them, for browsers."""

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from mammo.data.decode import GreyImage

LONGEST_PX = 1024


def png(grey: GreyImage) -> bytes:
    """Grey levels `(height, width)` as PNG."""
    buffer = BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


def preview(grey: GreyImage, longest_px: int = LONGEST_PX) -> bytes:
    """As `png`, shrunk to at most `longest_px` on the longer side."""
    image = Image.fromarray(grey)
    image.thumbnail((longest_px, longest_px))
    return png(np.asarray(image))


def overlay(signed: npt.NDArray[np.float64]) -> bytes:
    """A signed map `(height, width)` as transparent PNG: red above 0, blue below, clear at 0 and where NaN."""
    values = np.nan_to_num(signed)
    strength = np.abs(values) / max(float(np.abs(values).max()), 1e-12)
    colour = np.where(values[..., None] > 0, (214, 39, 40), (31, 119, 180))
    rgba = np.concatenate([colour, (200 * strength)[..., None]], axis=-1).round().astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()
