"""What a worker loads before its first order, and its PNGs for browsers, decoded again."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mammo.serve.worker import overlay


def test_a_worker_that_only_decodes_pictures_holds_none_of_the_libraries_of_a_vote() -> None:
    code = "import sys, mammo.serve.worker; print({'torch', 'mlflow', 'pandas', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def decoded(content: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        return np.array(image)


def test_red_speaks_for_tumor_hatched_blue_for_normal_and_nothing_for_neither() -> None:
    signed = np.zeros((120, 120))
    signed[:40], signed[40:80], signed[80:, :60] = 2.0, -1.0, np.nan
    red, green, blue, alpha = np.moveaxis(decoded(overlay(signed)).astype(int), 2, 0)
    assert (red[:40] > blue[:40] + 100).all()
    assert (blue[40:80] > red[40:80] + 100).all()
    assert (green < 140).all()
    assert (alpha[80:] == 0).all()
    assert np.unique(alpha[:40]).size == 1  # red is plain
    faint, full = np.unique(alpha[40:80])
    assert faint < full / 2
    assert full == pytest.approx(alpha[0, 0] / 2, abs=1)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_map_that_says_nothing_is_clear(value: float) -> None:
    assert decoded(overlay(np.full((120, 120), value)))[..., 3].max() == 0
