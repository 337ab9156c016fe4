"""Crops and random affine changes against numpy, SciPy and torch's own resampling."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn import functional as F

from mammo.core.config import AugmentConfig
from mammo.systems.augment import PatchBatch, augment, crop
from tests.settings import section

PATCH_PX = 48
TOP, LEFT = 20, 37
STILL = section(AugmentConfig, rotation_deg=0.0, zoom=0.0, flip_horizontal=False, flip_vertical=False)

SetDraw = Callable[[list[float]], None]


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (3, 120, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def set_draw(monkeypatch: pytest.MonkeyPatch) -> SetDraw:
    """Make the next draws these: angle, zoom x, zoom y, flip x, flip y, gain, offset, each from [0, 1)."""

    def set_to(uniform: list[float]) -> None:
        def rand(_rows: int, n: int, generator: torch.Generator) -> Tensor:
            return torch.tensor(uniform)[:, None].expand(7, n)

        monkeypatch.setattr(torch, "rand", rand)

    return set_to


def batch_of(roi: list[int], top: int = TOP, left: int = LEFT, size: int = PATCH_PX) -> PatchBatch:
    n = len(roi)
    return PatchBatch(torch.tensor(roi), *(torch.full((n,), value) for value in (top, left, size)))


def sliced(images: Tensor, roi: int = 1) -> npt.NDArray[np.float64]:
    return images[roi, TOP : TOP + PATCH_PX, LEFT : LEFT + PATCH_PX].numpy().astype(np.float64)


def augmented(images: Tensor, roi: int = 1, **changes: Any) -> npt.NDArray[np.float64]:
    config, generator = STILL.model_copy(update=changes), torch.Generator().manual_seed(0)
    array: npt.NDArray[np.float64] = augment(images, batch_of([roi]), PATCH_PX, config, generator)[0, 0].numpy()
    return array


def assert_same_grey(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Equal to a hundredth of a grey level: float32 sampling positions cost a little."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.01)


def test_a_crop_is_a_slice_of_its_roi(images: Tensor) -> None:
    patches = crop(images, batch_of([2, 0]), PATCH_PX)
    assert patches.shape == (2, 1, PATCH_PX, PATCH_PX)
    assert patches.dtype == torch.float32
    assert np.array_equal(patches[0, 0].numpy(), sliced(images, 2))
    assert np.array_equal(patches[1, 0].numpy(), sliced(images, 0))


def test_a_whole_roi_is_shrunk_as_torch_interpolates_among_other_patches_too(images: Tensor) -> None:
    sides = [torch.tensor(both) for both in ([0, 1], [TOP, 0], [LEFT, 0], [PATCH_PX, 120])]
    patches = crop(images, PatchBatch(*sides), PATCH_PX)
    expected = F.interpolate(images[1][None, None].float(), PATCH_PX, mode="bilinear", align_corners=False)
    assert_same_grey(patches[0, 0].numpy(), sliced(images, 0))
    assert_same_grey(patches[1:].numpy(), expected.numpy())


@pytest.mark.parametrize("fill", ["patch", "roi"])
def test_without_any_change_a_patch_is_its_crop(images: Tensor, fill: str) -> None:
    assert_same_grey(augmented(images, fill=fill), sliced(images))


@pytest.mark.parametrize(
    ("uniform", "quarters", "changes"),
    [
        *((value, turns, {"fill": "patch"}) for value, turns in ((0.75, 1), (0.25, -1), (0.0, 2))),
        *((value, turns, {"fill": "roi"}) for value, turns in ((0.75, 1), (0.25, -1), (0.0, 2))),
        # Four equal parts of the draw, whatever the largest angle.
        *((value, turns, {"quarter_turns": True}) for value, turns in ((0.24, 0), (0.25, 1), (0.99, 3))),
    ],
)
def test_a_rotation_by_quarters_is_numpys(
    images: Tensor, set_draw: SetDraw, uniform: float, quarters: int, changes: dict[str, Any]
) -> None:
    set_draw([uniform, 0.5, 0.5, 0.9, 0.9, 0.5, 0.5])
    assert_same_grey(augmented(images, rotation_deg=180.0, **changes), np.rot90(sliced(images), quarters))


@pytest.mark.parametrize(
    ("flip_x", "flip_y", "allowed", "expected"),
    [
        (0.1, 0.9, True, np.fliplr),
        (0.9, 0.1, True, np.flipud),
        (0.1, 0.1, True, lambda patch: patch[::-1, ::-1]),
        (0.9, 0.9, True, np.copy),
        (0.1, 0.1, False, np.copy),
    ],
)
def test_flips_that_are_allowed_are_numpys(
    images: Tensor, set_draw: SetDraw, flip_x: float, flip_y: float, allowed: bool, expected: Any
) -> None:
    set_draw([0.5, 0.5, 0.5, flip_x, flip_y, 0.5, 0.5])
    flipped = augmented(images, flip_horizontal=allowed, flip_vertical=allowed)
    assert_same_grey(flipped, expected(sliced(images)))


@pytest.mark.parametrize("fill", ["patch", "roi"])
def test_rotation_zoom_and_flip_together_are_scipys_affine_transform(
    images: Tensor, set_draw: SetDraw, fill: str
) -> None:
    # Angle 180 · (2 · 0.6 − 1) = 36°; a window of 1.12 patches across and 0.88 patches down, mirrored.
    set_draw([0.6, 0.8, 0.2, 0.1, 0.9, 0.5, 0.5])
    angle, across, down = np.radians(36), -1.12, 0.88
    rows_from = [np.cos(angle) * down, np.sin(angle) * across]
    columns_from = [-np.sin(angle) * down, np.cos(angle) * across]
    matrix = np.array([rows_from, columns_from])
    middle = np.full(2, (PATCH_PX - 1) / 2)
    whole, centre = sliced(images), middle
    if fill == "roi":
        whole, centre = images[1].numpy().astype(np.float64), middle + np.array([TOP, LEFT])
    offset, shape = centre - matrix @ middle, (PATCH_PX, PATCH_PX)
    expected = affine_transform(whole, matrix, offset, shape, order=1, mode="nearest")
    seen = augmented(images, rotation_deg=180.0, zoom=0.2, flip_horizontal=True, fill=fill)
    assert_same_grey(seen, expected)


@pytest.mark.parametrize(("fill", "brightest"), [("patch", 50), ("roi", 250)])
def test_fill_patch_shows_no_grey_level_from_outside_of_the_patch(fill: str, brightest: int) -> None:
    image = torch.full((1, 120, 120), 250, dtype=torch.uint8)
    image[0, TOP : TOP + PATCH_PX, LEFT : LEFT + PATCH_PX] = 50
    config, generator = section(AugmentConfig, zoom=0.3, fill=fill), torch.Generator().manual_seed(0)
    patches = augment(image, batch_of([0] * 64), PATCH_PX, config, generator)
    assert patches.max().item() == pytest.approx(brightest, abs=1e-3)


def test_gain_and_offset_change_grey_levels_of_a_patch_as_one(images: Tensor, set_draw: SetDraw) -> None:
    set_draw([0.5, 0.5, 0.5, 0.9, 0.9, 0.75, 0.25])
    assert_same_grey(augmented(images, gain=0.4, offset=30.0), sliced(images) * 1.2 - 15)


def test_one_seed_gives_the_same_patches_another_seed_others_and_each_patch_is_changed_in_its_own_way(
    images: Tensor,
) -> None:
    def patches(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return augment(images, batch_of([1, 1, 2]), PATCH_PX, section(AugmentConfig), generator)

    first = patches(3)
    assert torch.equal(patches(3), first)
    assert not torch.equal(patches(4), first)
    assert not torch.allclose(first[0], first[1], atol=10)
