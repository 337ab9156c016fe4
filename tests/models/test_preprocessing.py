"""Grey levels after preprocessing, computed by hand."""

import pytest
import torch

from mammo.core.config import PreprocessingName
from mammo.models.backbones import Preprocessing

PATCHES = torch.tensor([[[[0.0, 100.0], [200.0, 100.0]]], [[[255.0, 255.0], [255.0, 51.0]]]])
"""Two patches of 2 × 2 pixels with means 100 and 204."""

# Deviations √(20000 / 4) = 70.7107 and √(31212 / 4) = 88.3346; the floor is 5 grey levels.
EXPECTED: list[tuple[PreprocessingName, list[float], list[float]]] = [
    ("samplewise_center", [-100, 0, 100, 0], [51, 51, 51, -153]),
    ("samplewise_standardize", [-100 / 75.7107, 0, 100 / 75.7107, 0], [51 / 93.3346] * 3 + [-153 / 93.3346]),
    ("fixed_scale", [-2, -0.4375, 1.125, -0.4375], [1.984375] * 3 + [-1.203125]),
    ("imagenet", [-2, -0.431373, 1.137255, -0.431373], [2] * 3 + [-1.2]),  # of one channel: mid-grey
]


@pytest.mark.parametrize(("name", "first", "second"), EXPECTED)
def test_grey_levels_become_what_the_formula_says_in_every_channel_and_no_state_is_kept(
    name: PreprocessingName, first: list[float], second: list[float]
) -> None:
    expected = torch.tensor([first, second], dtype=torch.float32).view(2, 1, 2, 2)
    torch.testing.assert_close(Preprocessing(name, 1)(PATCHES), expected, rtol=1e-5, atol=1e-5)
    if name != "imagenet":
        repeated = expected.expand(-1, 3, -1, -1)
        torch.testing.assert_close(Preprocessing(name, 3)(PATCHES), repeated, rtol=1e-5, atol=1e-5)
    assert Preprocessing(name, 3).state_dict() == {}


def test_imagenet_uses_the_published_mean_and_deviation_of_each_channel() -> None:
    prepared = Preprocessing("imagenet", 3)(PATCHES)
    # 51 / 255 = 0.2: (0.2 − 0.485) / 0.229, (0.2 − 0.456) / 0.224, (0.2 − 0.406) / 0.225
    expected = torch.tensor([-1.244541, -1.142857, -0.915556])
    torch.testing.assert_close(prepared[1, :, 1, 1], expected, atol=1e-5, rtol=0)


def test_samplewise_preprocessing_does_not_see_brightness_and_leaves_flat_tissue_flat() -> None:
    for name in ("samplewise_center", "samplewise_standardize"):
        preprocessing = Preprocessing(name, 1)
        torch.testing.assert_close(preprocessing(PATCHES + 30), preprocessing(PATCHES))
        assert not preprocessing(torch.full((1, 1, 4, 4), 200.0)).any()
