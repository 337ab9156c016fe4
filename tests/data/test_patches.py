"""A patch set is counted and placed as the paper says, and a ROI's draws are its own."""

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mammo.core.config import PatchesConfig
from mammo.core.records import PATCH_SCHEMA
from mammo.data.patches import drawn_patches, grid_corners, grid_offsets, grid_patches, random_corners
from tests.settings import section


def roi_table(n_normal: int, n_tumor: int) -> pd.DataFrame:
    labels = [0] * n_normal + [1] * n_tumor
    return pd.DataFrame({"roi_id": [f"roi{row:03d}" for row in range(len(labels))], "label": labels})


@pytest.mark.parametrize(
    ("size_px", "stride_px", "corner_patches", "offsets"),
    [
        (72, 12, True, [0, 12, 24, 36, 48]),
        (72, 12, False, [12, 24, 36]),
        # 120 − 100 = 20 free pixels hold two steps of 8; the 4 left over are 2 before and 2 behind.
        (100, 8, True, [2, 10, 18]),
    ],
)
def test_corners_run_row_by_row_and_what_the_stride_leaves_over_is_shared_by_both_borders(
    size_px: int, stride_px: int, corner_patches: bool, offsets: list[int]
) -> None:
    config = section(PatchesConfig, size_px=size_px, stride_px=stride_px, corner_patches=corner_patches)
    expected = [[top, left] for top in offsets for left in offsets]
    assert grid_corners(size_px, stride_px, corner_patches=corner_patches).tolist() == expected
    assert grid_patches(roi_table(1, 1), config).to_numpy().tolist() == [
        [roi_id, *corner, size_px, label] for roi_id, label in (("roi000", 0), ("roi001", 1)) for corner in expected
    ]


@given(st.integers(32, 120), st.integers(1, 120))
def test_a_grid_is_inside_the_roi_centred_and_as_large_as_its_stride_allows(size_px: int, stride_px: int) -> None:
    offsets = grid_offsets(size_px, stride_px).tolist()
    before, behind = offsets[0], 120 - (offsets[-1] + size_px)
    assert before >= 0
    assert behind - before in (0, 1)
    assert before + behind < stride_px
    assert all(later - earlier == stride_px for earlier, later in pairwise(offsets))


@pytest.mark.parametrize(("n_normal", "n_tumor", "n_patches"), [(125, 72, 103_447), (41, 24, 34_315)])
def test_the_published_parts_give_the_papers_number_of_patches(n_normal: int, n_tumor: int, n_patches: int) -> None:
    config = section(PatchesConfig, tumor_draws=1000, normal_draws=250, whole_roi=True)
    patches = drawn_patches(roi_table(n_normal, n_tumor), config)
    assert len(patches) == n_patches
    assert (patches["size_px"] == 120).sum() == n_normal + n_tumor
    assert patches.groupby("label").size().to_dict() == {0: n_normal * 251, 1: n_tumor * 1001}


def test_the_whole_roi_is_one_more_patch_and_can_be_left_out() -> None:
    rois = roi_table(1, 1)
    config = section(PatchesConfig, tumor_draws=5, normal_draws=3, size_px=40)
    whole = drawn_patches(rois, config).query("size_px == 120")
    without = drawn_patches(rois, config.model_copy(update={"whole_roi": False}))
    assert whole[["top_px", "left_px"]].to_numpy().tolist() == [[0, 0], [0, 0]]
    assert without.groupby("roi_id").size().to_dict() == {"roi000": 3, "roi001": 5}
    assert set(without["size_px"]) == {40}


@pytest.mark.parametrize(("last_offset", "largest"), [(True, 48), (False, 47)])
def test_draws_reach_the_last_offset_only_if_asked_to(last_offset: bool, largest: int) -> None:
    corners = random_corners(20_000, 72, np.random.default_rng(0), last_offset=last_offset)
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [largest, largest]


def test_draws_are_uniform_over_all_places() -> None:
    corners = random_corners(50_000, 112, np.random.default_rng(0), last_offset=True)
    counts = np.bincount(corners[:, 0] * 9 + corners[:, 1], minlength=81)
    assert len(counts) == 81
    assert chisquare(counts).pvalue > 0.001


def test_the_draws_of_a_roi_do_not_depend_on_the_other_rows() -> None:
    rois = roi_table(3, 3)
    config = section(PatchesConfig, tumor_draws=20, normal_draws=10)
    alone = drawn_patches(rois.iloc[[4]], config)
    among_others = drawn_patches(rois.iloc[::-1], config).query("roi_id == 'roi004'")
    pd.testing.assert_frame_equal(among_others.reset_index(drop=True), alone)


def test_rois_and_seeds_draw_different_places() -> None:
    rois = roi_table(2, 0)
    config = section(PatchesConfig, normal_draws=30)
    corners = drawn_patches(rois, config)[["top_px", "left_px"]].to_numpy()
    reseeded = drawn_patches(rois, config.model_copy(update={"seed": 1}))[["top_px", "left_px"]].to_numpy()
    assert not np.array_equal(corners[:30], corners[31:61])
    assert not np.array_equal(corners, reseeded)


def test_a_part_without_rois_gives_an_empty_patch_set_of_the_right_types() -> None:
    patches = drawn_patches(roi_table(0, 0), section(PatchesConfig))
    assert patches.empty
    assert {column: str(kind) for column, kind in patches.dtypes.items()} == PATCH_SCHEMA


@given(st.integers(32, 120), st.integers(1, 120))
@example(80, 40)
@example(72, 48)
def test_what_stays_is_at_most_half_the_way_from_the_middle_and_some_patch_must(size_px: int, stride_px: int) -> None:
    every, free = grid_offsets(size_px, stride_px), 120 - size_px
    kept = [offset for offset in every if abs(offset - free / 2) <= max(free / 4, 0.5)]
    assert grid_offsets(size_px, stride_px, corner_patches=False).tolist() == kept
    refusal = nullcontext() if kept else pytest.raises(ValueError, match="leaves no patch")
    with refusal:
        section(PatchesConfig, size_px=size_px, stride_px=stride_px, corner_patches=False)


@pytest.mark.parametrize("size_px", range(32, 121))
def test_draws_and_a_grid_of_single_steps_reach_the_same_places(size_px: int) -> None:
    drawn = random_corners(2000, size_px, np.random.default_rng(0), last_offset=True, corner_patches=False)
    assert sorted(set(drawn.ravel().tolist())) == grid_offsets(size_px, 1, corner_patches=False).tolist()


@pytest.mark.parametrize("corner_patches", [True, False])
@pytest.mark.parametrize("last_offset", [True, False])
def test_a_patch_as_large_as_the_roi_has_one_place(last_offset: bool, corner_patches: bool) -> None:
    assert grid_corners(120, 12, corner_patches=corner_patches).tolist() == [[0, 0]]
    rng = np.random.default_rng(0)
    drawn = random_corners(9, 120, rng, last_offset=last_offset, corner_patches=corner_patches)
    assert not drawn.any()
