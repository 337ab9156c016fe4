"""Patches that can miss a lesion are left out on request: from the draws, the grid, and the votes of a bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.core.config import ModelConfig, PatchesConfig, VoteConfig
from mammo.data.patches import grid_corners, grid_offsets, random_corners
from mammo.data.rois import RoiSet
from mammo.models.build import build_classifier
from mammo.models.bundle import Bundle, load_bundle, save_bundle
from mammo.systems.devices import choose_device
from mammo.systems.score import RoiScorer


def test_the_inner_nine_of_the_papers_25_patches_stay() -> None:
    inner = grid_corners(72, 12, corner_patches=False)
    assert inner.tolist() == [[top, left] for top in (12, 24, 36) for left in (12, 24, 36)]


@given(st.integers(32, 120), st.integers(1, 120))
def test_what_stays_is_at_most_half_the_way_from_the_middle_and_some_patch_must(
    size_px: int, stride_px: int
) -> None:
    every, free = grid_offsets(size_px, stride_px), 120 - size_px
    kept = [offset for offset in every if abs(offset - free / 2) <= max(free / 4, 0.5)]
    assert grid_offsets(size_px, stride_px, corner_patches=False).tolist() == kept
    if kept:
        PatchesConfig(size_px=size_px, stride_px=stride_px, corner_patches=False)
    else:
        with pytest.raises(ValueError, match="leaves no patch"):
            PatchesConfig(size_px=size_px, stride_px=stride_px, corner_patches=False)


def test_draws_come_from_the_middle_half_of_the_offsets() -> None:
    corners = random_corners(4000, 72, np.random.default_rng(0), last_offset=True, corner_patches=False)
    assert sorted(set(corners.ravel().tolist())) == list(range(12, 37))


@pytest.mark.parametrize("size_px", range(32, 121))
def test_draws_and_a_grid_of_single_steps_reach_the_same_places(size_px: int) -> None:
    drawn = random_corners(2000, size_px, np.random.default_rng(0), last_offset=True, corner_patches=False)
    assert sorted(set(drawn.ravel().tolist())) == grid_offsets(size_px, 1, corner_patches=False).tolist()


def test_a_patch_as_large_as_the_roi_stays() -> None:
    assert grid_corners(120, 12, corner_patches=False).tolist() == [[0, 0]]
    drawn = random_corners(3, 120, np.random.default_rng(0), last_offset=True, corner_patches=False)
    assert drawn.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("values", [{"size_px": 80, "stride_px": 40}, {"size_px": 72, "stride_px": 48}])
def test_a_grid_of_two_by_two_without_corners_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lower stride_px"):
        PatchesConfig(**values, corner_patches=False)


def test_a_bundle_votes_with_the_patches_it_was_trained_for(tmp_path: Path, disc_set: RoiSet) -> None:
    config = ModelConfig(compact_channels=[4, 4, 8, 8, 8], head_units=8)
    classifier = build_classifier("compact-model1", config, seed=0).eval()
    every = Bundle(classifier, size_px=72, stride_px=12, vote=VoteConfig())
    inner = Bundle(classifier, size_px=72, stride_px=12, vote=VoteConfig(), corner_patches=False)
    save_bundle(inner, tmp_path)
    images, cpu = disc_set.images[:3], choose_device("cpu")
    scores = RoiScorer.on(load_bundle(tmp_path), cpu, "float32").patch_scores(images)
    of_every = RoiScorer.on(every, cpu, "float32").patch_scores(images).reshape(3, 5, 5)
    np.testing.assert_allclose(scores.reshape(3, 3, 3), of_every[:, 1:4, 1:4], atol=1e-6)
