"""Grey levels after preprocessing, computed by hand."""

from typing import get_args

import pytest
import torch

from mammo.models.backbones import Preprocessing, PreprocessingName

PATCHES = torch.tensor([[[[0.0, 100.0], [200.0, 100.0]]], [[[255.0, 255.0], [255.0, 51.0]]]])
"""Two patches of 2 × 2 pixels with means 100 and 204."""


@pytest.mark.parametrize("name", get_args(PreprocessingName))
@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_grey_patch_is_repeated_over_the_channels(name: PreprocessingName, in_channels: int) -> None:
    assert Preprocessing(name, in_channels)(PATCHES).shape == (2, in_channels, 2, 2)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_samplewise_center_subtracts_each_patchs_own_mean(in_channels: int) -> None:
    centred = Preprocessing("samplewise_center", in_channels)(PATCHES)

    for channel in range(in_channels):
        assert centred[0, channel].tolist() == [[-100, 0], [100, 0]]
        assert centred[1, channel].tolist() == [[51, 51], [51, -153]]


def test_samplewise_center_does_not_see_brightness() -> None:
    preprocessing = Preprocessing("samplewise_center", 1)

    torch.testing.assert_close(preprocessing(PATCHES + 30), preprocessing(PATCHES))


@pytest.mark.parametrize("in_channels", [1, 3])
def test_samplewise_standardize_divides_by_each_patchs_own_deviation_and_a_floor(in_channels: int) -> None:
    standard = Preprocessing("samplewise_standardize", in_channels)(PATCHES)

    # Deviations √(20000 / 4) = 70.7107 and √(31212 / 4) = 88.3346; the floor is 5 grey levels.
    for channel in range(in_channels):
        assert standard[0, channel, 1, 0].item() == pytest.approx(100 / 75.7107, rel=1e-5)
        assert standard[1, channel, 1, 1].item() == pytest.approx(-153 / 93.3346, rel=1e-5)


def test_samplewise_standardize_leaves_a_flat_patch_flat() -> None:
    flat = torch.full((1, 1, 4, 4), 200.0)

    assert Preprocessing("samplewise_standardize", 1)(flat).tolist() == torch.zeros(1, 1, 4, 4).tolist()


def test_imagenet_uses_the_published_mean_and_deviation_of_each_channel() -> None:
    prepared = Preprocessing("imagenet", 3)(PATCHES)

    # 51 / 255 = 0.2: (0.2 − 0.485) / 0.229, (0.2 − 0.456) / 0.224, (0.2 − 0.406) / 0.225
    expected = torch.tensor([-1.244541, -1.142857, -0.915556])
    torch.testing.assert_close(prepared[1, :, 1, 1], expected, atol=1e-5, rtol=0)


def test_imagenet_on_one_channel_is_centred_on_mid_grey() -> None:
    # 51 / 255 = 0.2: (0.2 − 0.5) / 0.25
    assert Preprocessing("imagenet", 1)(PATCHES)[1, 0, 1, 1].item() == pytest.approx(-1.2)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_fixed_scale_keeps_brightness(in_channels: int) -> None:
    prepared = Preprocessing("fixed_scale", in_channels)(PATCHES)

    for channel in range(in_channels):
        assert prepared[0, channel].tolist() == [[-2, -0.4375], [1.125, -0.4375]]


@pytest.mark.parametrize("name", get_args(PreprocessingName))
def test_preprocessing_leaves_nothing_in_the_state_dict(name: PreprocessingName) -> None:
    assert Preprocessing(name, 3).state_dict() == {}
