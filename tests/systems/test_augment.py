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


def sliced(images: Tensor, roi: int) -> npt.NDArray[np.float64]:
    return images[roi, TOP : TOP + PATCH_PX, LEFT : LEFT + PATCH_PX].numpy().astype(np.float64)


def augmented(images: Tensor, config: AugmentConfig, roi: int = 1) -> npt.NDArray[np.float64]:
    patches = augment(images, batch_of([roi]), PATCH_PX, config, torch.Generator().manual_seed(0))
    array: npt.NDArray[np.float64] = patches[0, 0].double().numpy()
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


def test_a_whole_roi_is_shrunk_as_torch_interpolates(images: Tensor) -> None:
    patches = crop(images, batch_of([1], top=0, left=0, size=120), PATCH_PX)
    expected = F.interpolate(images[1][None, None].float(), PATCH_PX, mode="bilinear", align_corners=False)
    assert_same_grey(patches.numpy(), expected.numpy())


def test_a_batch_of_mixed_sides_equals_its_patches_one_by_one(images: Tensor) -> None:
    both = PatchBatch(
        torch.tensor([0, 0]), torch.tensor([TOP, 0]), torch.tensor([LEFT, 0]), torch.tensor([PATCH_PX, 120])
    )
    patches = crop(images, both, PATCH_PX)
    assert_same_grey(patches[:1].numpy(), crop(images, batch_of([0]), PATCH_PX).numpy())
    assert_same_grey(patches[1:].numpy(), crop(images, batch_of([0], 0, 0, 120), PATCH_PX).numpy())


@pytest.mark.parametrize("fill", ["patch", "roi"])
def test_without_any_change_a_patch_is_its_crop(images: Tensor, fill: str) -> None:
    assert_same_grey(augmented(images, STILL.model_copy(update={"fill": fill})), sliced(images, 1))


@pytest.mark.parametrize(("uniform", "quarters"), [(0.75, 1), (0.25, -1), (0.0, 2)])
@pytest.mark.parametrize("fill", ["patch", "roi"])
def test_a_rotation_by_quarters_is_numpys(
    images: Tensor, set_draw: SetDraw, uniform: float, quarters: int, fill: str
) -> None:
    set_draw([uniform, 0.5, 0.5, 0.9, 0.9, 0.5, 0.5])
    config = STILL.model_copy(update={"rotation_deg": 180.0, "fill": fill})
    assert_same_grey(augmented(images, config), np.rot90(sliced(images, 1), quarters))


@pytest.mark.parametrize(("uniform", "quarters"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.6, 2), (0.99, 3)])
def test_a_quarter_turn_moves_pixels_and_blends_none(
    images: Tensor, set_draw: SetDraw, uniform: float, quarters: int
) -> None:
    set_draw([uniform, 0.5, 0.5, 0.9, 0.9, 0.5, 0.5])
    turns = STILL.model_copy(update={"rotation_deg": 180.0, "quarter_turns": True})
    assert_same_grey(augmented(images, turns), np.rot90(sliced(images, 1), quarters))


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
    images: Tensor,
    set_draw: SetDraw,
    flip_x: float,
    flip_y: float,
    allowed: bool,
    expected: Callable[..., Any],
) -> None:
    set_draw([0.5, 0.5, 0.5, flip_x, flip_y, 0.5, 0.5])
    config = STILL.model_copy(update={"flip_horizontal": allowed, "flip_vertical": allowed})
    assert_same_grey(augmented(images, config), expected(sliced(images, 1)))


@pytest.mark.parametrize("fill", ["patch", "roi"])
def test_rotation_zoom_and_flip_together_are_scipys_affine_transform(
    images: Tensor, set_draw: SetDraw, fill: str
) -> None:
    # Angle 180 · (2 · 0.6 − 1) = 36°; a window of 1.12 patches across and 0.88 patches down, mirrored.
    set_draw([0.6, 0.8, 0.2, 0.1, 0.9, 0.5, 0.5])
    config = section(AugmentConfig, rotation_deg=180.0, zoom=0.2, fill=fill)
    angle, across, down = np.radians(36), -1.12, 0.88
    rows_from = [np.cos(angle) * down, np.sin(angle) * across]
    columns_from = [-np.sin(angle) * down, np.cos(angle) * across]
    matrix = np.array([rows_from, columns_from])
    middle = np.full(2, (PATCH_PX - 1) / 2)
    if fill == "patch":
        whole, centre = sliced(images, 1), middle
    else:
        whole, centre = images[1].numpy().astype(np.float64), middle + np.array([TOP, LEFT])
    expected = affine_transform(
        whole, matrix, centre - matrix @ middle, (PATCH_PX, PATCH_PX), order=1, mode="nearest"
    )
    assert_same_grey(augmented(images, config), expected)


def test_a_zoom_above_one_shows_more_tissue(set_draw: SetDraw) -> None:
    # A square of 20 pixels seen through a window 1.25 times as wide is 16 pixels wide.
    image = torch.zeros(1, 120, 120, dtype=torch.uint8)
    image[0, TOP + 14 : TOP + 34, LEFT + 14 : LEFT + 34] = 200
    set_draw([0.5, 1.0, 1.0, 0.9, 0.9, 0.5, 0.5])
    seen = augmented(image, STILL.model_copy(update={"zoom": 0.25}), roi=0)
    assert (seen[PATCH_PX // 2] / 200).sum() == pytest.approx(16, abs=0.05)


def test_fill_patch_shows_no_grey_level_from_outside_of_the_patch() -> None:
    image = torch.full((1, 120, 120), 250, dtype=torch.uint8)
    image[0, TOP : TOP + PATCH_PX, LEFT : LEFT + PATCH_PX] = 50
    batch = batch_of([0] * 64)

    def brightest(fill: str) -> float:
        config = section(AugmentConfig, zoom=0.3, fill=fill)
        return float(augment(image, batch, PATCH_PX, config, torch.Generator().manual_seed(0)).max())

    assert brightest("patch") == pytest.approx(50, abs=1e-3)
    assert brightest("roi") == pytest.approx(250, abs=1e-3)


def test_angles_stay_in_their_range_on_both_sides() -> None:
    image = torch.zeros(1, 120, 120, dtype=torch.uint8)
    centre = TOP + PATCH_PX // 2
    image[0, centre - 1 : centre + 1, LEFT + 42 : LEFT + 44] = 200  # right of the centre
    config = STILL.model_copy(update={"rotation_deg": 20.0})
    patches = augment(image, batch_of([0] * 300), PATCH_PX, config, torch.Generator().manual_seed(0))
    y, x = np.mgrid[:PATCH_PX, :PATCH_PX] - (PATCH_PX - 1) / 2
    grey = patches[:, 0].numpy()
    angles = np.degrees(np.arctan2((grey * y).sum((1, 2)), (grey * x).sum((1, 2))))
    assert np.abs(angles).max() == pytest.approx(20, abs=0.7)
    assert angles.min() < -18
    assert angles.max() > 18


def test_gain_and_offset_change_grey_levels_of_a_patch_as_one(images: Tensor, set_draw: SetDraw) -> None:
    set_draw([0.5, 0.5, 0.5, 0.9, 0.9, 0.75, 0.25])
    config = STILL.model_copy(update={"gain": 0.4, "offset": 30.0})
    assert_same_grey(augmented(images, config), sliced(images, 1) * 1.2 - 15)


def test_one_seed_gives_the_same_patches_and_another_seed_others(images: Tensor) -> None:
    def patches(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return augment(images, batch_of([0, 1, 2]), PATCH_PX, section(AugmentConfig), generator)

    assert torch.equal(patches(3), patches(3))
    assert not torch.equal(patches(3), patches(4))


def test_each_patch_of_a_batch_is_changed_in_its_own_way(images: Tensor) -> None:
    first, second = augment(
        images, batch_of([1, 1]), PATCH_PX, section(AugmentConfig), torch.Generator().manual_seed(0)
    )
    assert not torch.allclose(first, second, atol=10)
