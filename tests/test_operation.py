"""A system's operation on test: thresholds, points, calibration and referral against single counts."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from mammo.core.config import Config, VoteConfig
from mammo.evaluation.calibration import brier, fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.voting import decisions, prediction_sets, vote_shares, with_validation_threshold
from mammo.models.bundle import Bundle
from mammo.systems.operation import describe_operation, operation_estimates
from mammo.systems.train import Scored
from tests.tiny_fits import new_classifier, tiny_config

RULE = VoteConfig(rule="majority", threshold="validation")


def patch_scores(n_normal: int, n_tumor: int, seed: int) -> tuple[Any, Any]:
    """Scores that are shifted down, as a class-balanced training draw shifts them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [n_normal, n_tumor])
    centre = rng.normal(1.8 * labels - 1.9, 0.8)
    return labels, expit(rng.normal(centre[:, None], 0.7, (len(labels), 25)))


def scored(seed: int, vote: VoteConfig = RULE) -> Scored:
    labels, scores = patch_scores(41, 24, seed)
    groups = np.arange(65).astype(object)
    return Scored(
        "compact-model2", labels, groups, scores, vote_shares(scores, vote), decisions(scores, vote)
    )


def bundle(val: Scored, vote: VoteConfig) -> Bundle:
    return Bundle(
        new_classifier().eval(),
        size_px=40,
        stride_px=40,
        vote=vote,
        calibrator=fit_platt(val.labels, val.scores),
        conformal=fit_conformal(val.labels, val.scores),
    )


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny_config(evaluate__n_bootstrap=200)


@pytest.fixture(scope="module")
def described(config: Config) -> Callable[[VoteConfig], dict[str, Any]]:
    def of(vote: VoteConfig) -> dict[str, Any]:
        return describe_operation(bundle(scored(0), vote), scored(0), scored(1, vote), config)

    return of


def test_both_thresholds_are_judged_and_the_shipped_one_is_marked(
    described: Callable[[VoteConfig], dict[str, Any]],
) -> None:
    val, test = scored(0), scored(1)
    chosen = with_validation_threshold(val.labels, val.patch_scores, RULE)
    fixed, validation = described(chosen)["thresholds"]
    assert (fixed["name"], fixed["threshold"], fixed["ships"]) == ("fixed", 0.5, False)
    assert (validation["name"], validation["threshold"], validation["ships"]) == (
        "validation",
        chosen.share_threshold,
        True,
    )
    for row in (fixed, validation):
        called = test.vote_shares > row["threshold"]
        assert row["confusion"]["tp"] == int(called[test.labels == 1].sum())
        assert row["confusion"]["fp"] == int(called[test.labels == 0].sum())
        assert row["roi"]["recall"]["value"] == pytest.approx(called[test.labels == 1].mean())


def test_a_fixed_rule_ships_its_own_threshold_and_validation_stands_beside_it(
    described: Callable[[VoteConfig], dict[str, Any]],
) -> None:
    at_half = described(VoteConfig(threshold="fixed"))["thresholds"]
    assert [(row["name"], row["ships"]) for row in at_half] == [("fixed", True), ("validation", False)]
    elsewhere = described(VoteConfig(threshold="fixed", share_threshold=0.3))["thresholds"]
    assert [(row["name"], row["ships"]) for row in elsewhere] == [
        ("fixed", False),
        ("validation", False),
        ("shipped", True),
    ]


def test_calibration_is_judged_raw_and_calibrated_with_its_bins_named(
    described: Callable[[VoteConfig], dict[str, Any]], config: Config
) -> None:
    judged, test = described(RULE)["calibration"], scored(1)
    assert (judged["binning"], judged["n_bins"]) == ("equal_mass", 6)
    calibrated = fit_platt(scored(0).labels, scored(0).scores).apply(test.scores)
    assert judged["raw"]["brier"]["value"] == pytest.approx(brier(test.labels, test.scores))
    assert judged["calibrated"]["brier"]["value"] == pytest.approx(brier(test.labels, calibrated))
    assert judged["calibrated"]["brier"]["value"] < judged["raw"]["brier"]["value"]
    assert sum(row["n"] for row in judged["raw"]["bins"]) == 65


def test_referral_judges_the_sets_that_are_served(
    described: Callable[[VoteConfig], dict[str, Any]],
) -> None:
    fold, test = described(RULE)["referral"], scored(1)
    limits = fit_conformal(scored(0).labels, scored(0).scores)
    sets = prediction_sets(test.patch_scores, RULE, limits)
    assert fold["promise"] == 0.9
    assert fold["n_calibration"] == 65
    assert fold["referral_rate"]["value"] == pytest.approx(sets.all(axis=1).mean())
    assert fold["coverage"]["value"] == pytest.approx(sets[np.arange(65), test.labels].mean())


def test_a_fold_of_cross_validation_is_named(config: Config) -> None:
    split = config.split.model_copy(update={"protocol": "grouped_cv", "fold": 3})
    folded = config.model_copy(update={"split": split})
    described = describe_operation(bundle(scored(0), RULE), scored(0), scored(1), folded)
    assert described["referral"]["fold"] == "compact-model2, repeat 0, fold 3"


def test_flat_names_hold_every_estimate_once_and_the_whole_is_json(
    described: Callable[[VoteConfig], dict[str, Any]],
) -> None:
    whole = described(RULE)
    json.dumps(whole, allow_nan=False)
    flat = operation_estimates(whole)
    assert {
        "brier_raw",
        "brier_calibrated",
        "calibration_error_raw",
        "calibration_error_calibrated",
        "recall_at_specificity_0.80",
        "recall_at_specificity_0.90",
        "recall_at_specificity_0.95",
        "specificity_at_recall_0.80",
        "specificity_at_recall_0.90",
        "specificity_at_recall_0.95",
        "accuracy_at_fixed_threshold",
        "balanced_accuracy_at_validation_threshold",
        "coverage",
        "coverage_tumor",
        "referral_rate",
    } <= set(flat)
    assert flat["recall_at_specificity_0.90"] == whole["operating_points"][1]["recall"]


def test_operating_points_take_their_thresholds_from_validation(config: Config) -> None:
    moved = replace(scored(1), patch_scores=scored(1).patch_scores / 2)
    first, second = (
        describe_operation(bundle(scored(0), RULE), scored(0), test, config)["operating_points"]
        for test in (scored(1), moved)
    )
    assert [point["threshold"] for point in first] == [point["threshold"] for point in second]
    assert [point["recall"] for point in first] != [point["recall"] for point in second]
