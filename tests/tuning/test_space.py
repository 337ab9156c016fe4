"""Spaces that are refused before any work, and what a drawn value means as settings."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mammo.core.config import Config
from mammo.core.errors import ConfigError
from mammo.core.tune_config import sure_centre_px
from mammo.data.patches import grid_corners
from mammo.tuning.space import chosen_settings, own_params, trial_settings
from tests.settings import params


def with_tune(**changes: Any) -> Config:
    return Config.parse(params(tune=changes))


BAD_SPACES = [
    (
        "head_lr: {type: float, low: 0.01, high: 0.001}",
        r"head_lr: low must not be above high, .* 0\.01 .*; swap them",
    ),
    (
        "patch_size: {type: int, low: 64, high: 80}",
        "patch_size is not a known parameter; remove it or use one of size",
    ),
    (
        "size_px: {type: int, low: 64, high: 128, step: 8}",
        "size_px must be between 32 and 120 .*, got 128; lower it",
    ),
    (
        "size_px: {type: int, low: 48, high: 96, step: 8}",
        r"central 8 px .*48 shows the central 2 × 48 − 120 = -24; start at 64 or lower tune\.min_sure_px",
    ),
    ("{}", "space must hold at least one parameter, got none"),
    ("size_px: {type: float, low: 64, high: 80}", "size_px must be of whole numbers"),
    (
        "size_px: {type: int, low: 64, high: 100, step: 8}",
        "size_px: step must lead from low to high, got 64 to 100 by 8; set high to 96",
    ),
    ("weight_decay: {type: float, low: 0.0, high: 0.1, log: true}", "decay: a log range needs a low above 0"),
    (
        "fusion: {type: categorical, choices: [baseline, model9]}",
        "fusion: choices must be of .*, got 'model9'",
    ),
    ("fusion: {type: int, low: 0, high: 2}", "fusion must be of type categorical"),
    ("stride_px: {type: categorical, choices: [12, 12]}", "choices must differ from each other"),
    (
        "head_lr: {type: normal, low: 0.1, high: 0.2}",
        "head_lr must say its type .*, got .*; for example {type: float",
    ),
    ("head_lr: 0.1", r"head_lr must say its type .*, got 0\.1"),
    ("size_px: {type: int, low: '72', high: 96}", r"size_px\.low: .*, got '72'"),
    (
        "size_px: {type: categorical, choices: [72, '96']}",
        "choices must be numbers, got '96'; remove it, or write",
    ),
    (
        "fusion: {type: categorical, choices: [yes, baseline]}",
        r"choices\.0 must be a name .*, got True; quote it",
    ),
    ("head_lr: {type: float, low: .nan, high: 0.2}", r"head_lr\.low: .*finite number, got nan"),
    (
        "{size_px: {type: int, low: 96, high: 72}, head_lr: {type: float, low: 0.2, high: 0.1}}",
        r"space\.size_px: low must not be above high.*\n.*space\.head_lr: low must not be above high",
    ),
]


@pytest.mark.parametrize(("space", "message"), BAD_SPACES)
def test_a_bad_space_is_refused_with_rule_value_and_remedy(space: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_tune(space=yaml.safe_load(space))


def test_a_warm_up_that_leaves_no_epoch_to_stop_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tune\.warmup_epochs must be below epochs \(4\).*got 4; lower it"):
        with_tune(epochs=4, warmup_epochs=4)
    assert with_tune(epochs=4, warmup_epochs=4, epoch_pruner="none").tune.warmup_epochs == 4


def test_a_grid_that_can_tie_needs_a_stated_rule() -> None:
    space = {"stride_px": {"type": "categorical", "choices": [12, 16]}}
    with pytest.raises(ConfigError, match=r"size 72 with stride 16 gives 4 × 4; state tune\.tie"):
        with_tune(space=space, tie=None)
    assert with_tune(space=space, tie="normal").tune.tie == "normal"
    odd = {"stride_px": {"type": "categorical", "choices": [12, 24]}}
    assert with_tune(space=odd, tie=None).tune.tie is None


@given(size_px=st.integers(32, 120))
def test_the_sure_centre_is_what_all_patches_share(size_px: int) -> None:
    corners = grid_corners(size_px, 1)
    first, last = int(corners.max()), int(corners.min()) + size_px
    assert sure_centre_px(size_px) == max(0, last - first)


def test_what_a_trial_drew_becomes_settings_and_the_rest_stays() -> None:
    config = with_tune()
    params = {
        "size_px": 96,
        "stride_px": 8,
        "patches_per_roi": 100,
        "fusion": "model2",
        "backbone_lr": 0.003,
        "head_lr": 0.004,
        "weight_decay": 0.02,
        "augment_strength": 0.5,
        "label_smoothing": 0.1,
        "vote_rule": "share_threshold",
    }
    system, chosen = chosen_settings(config, params)
    assert system == "compact-model2"
    assert (chosen.patches.size_px, chosen.patches.stride_px) == (96, 8)
    assert (chosen.patches.tumor_draws, chosen.patches.normal_draws) == (100, 25)
    assert (chosen.vote.rule, chosen.vote.threshold, chosen.vote.tie) == ("majority", "validation", "tumor")
    recipe = chosen.recipe
    assert (recipe.head_lr, recipe.backbone_lr, recipe.weight_decay) == (0.004, 0.003, 0.02)
    assert (recipe.label_smoothing, recipe.augment.zoom, recipe.augment.quarter_turns) == (0.1, 0.1, True)
    assert recipe.epochs == config.recipe.epochs
    _, budget = trial_settings(config, params)
    assert (budget.recipe.epochs, budget.recipe.patches_per_epoch) == (8, 768)
    assert chosen.recipes["scratch"] == config.recipes["scratch"]


@pytest.mark.parametrize(
    ("rule", "becomes"),
    [
        ("majority", ("majority", "fixed")),
        ("share_threshold", ("majority", "validation")),
        ("mean_score", ("mean_score", "validation")),
    ],
)
def test_a_threshold_is_chosen_only_by_a_metric_that_sees_it(rule: str, becomes: tuple[str, str]) -> None:
    _, judged = chosen_settings(with_tune(metric="balanced_accuracy"), {"vote_rule": rule})
    assert (judged.vote.rule, judged.vote.threshold) == becomes
    assert judged.vote.share_threshold == 0.5
    before = with_tune().vote
    _, unseen = chosen_settings(with_tune(metric="auc"), {"vote_rule": rule})
    assert (unseen.vote.rule, unseen.vote.threshold) == (becomes[0], before.threshold)


def test_the_projects_own_settings_are_a_point_of_its_space() -> None:
    config = with_tune()
    own = own_params(config)
    assert own is not None
    assert list(own) == list(config.tune.space)
    system, chosen = chosen_settings(config, own)
    assert system == config.tune.system
    assert (chosen.patches, chosen.vote) == (config.patches, config.vote)
    assert chosen.recipe == config.recipes[config.tune.recipe]


@pytest.mark.parametrize(
    "space",
    [
        {"size_px": {"type": "int", "low": 80, "high": 104, "step": 8}},  # 72 lies outside
        {"size_px": {"type": "int", "low": 64, "high": 104, "step": 10}},  # and between the steps
        {"stride_px": {"type": "categorical", "choices": [8, 24]}},  # 12 is no choice
        {"fusion": {"type": "categorical", "choices": ["baseline"]}},  # model2 is no choice
    ],
)
def test_settings_outside_the_space_are_no_point_of_it(space: dict[str, Any]) -> None:
    assert own_params(with_tune(space=space)) is None


def test_draws_that_are_not_the_papers_ratio_are_no_point_of_the_space() -> None:
    assert own_params(Config.parse(params(patches={"normal_draws": 1000}))) is None


@settings(deadline=None)
@example(strength=5e-324, draws=16, rate=1e-4)
@given(strength=st.floats(0, 1), draws=st.integers(16, 1024), rate=st.floats(1e-4, 1e-2))
def test_a_choice_that_was_applied_is_found_again_as_the_settings(strength: float, draws: int, rate: float) -> None:
    config = with_tune()
    own = own_params(config)
    assert own is not None
    params = own | {"augment_strength": strength, "patches_per_roi": draws, "head_lr": rate}
    _, applied = chosen_settings(config, params)
    assert own_params(applied) == pytest.approx(params)
