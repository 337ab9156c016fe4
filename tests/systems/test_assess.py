"""What is said of a system on test: metrics, thresholds, points, calibration and referral against single counts."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from mammo.core.config import Config, EvaluateConfig, VoteConfig
from mammo.evaluation.calibration import brier, fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.scores import Scores
from mammo.evaluation.voting import prediction_sets, voted, with_validation_threshold
from mammo.models.bundle import Bundle
from mammo.systems.assess import describe_operation, judge, operation_estimates
from mammo.systems.train import best_system
from tests.settings import section
from tests.tiny_fits import new_classifier, tiny_config

RULE = section(VoteConfig, rule="majority", threshold="validation")


def patch_scores(n_normal: int, n_tumor: int, seed: int) -> tuple[Any, Any]:
    """Scores that are shifted down, as a class-balanced training draw shifts them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [n_normal, n_tumor])
    centre = rng.normal(1.8 * labels - 1.9, 0.8)
    return labels, expit(rng.normal(centre[:, None], 0.7, (len(labels), 25)))


def scored(seed: int, vote: VoteConfig = RULE) -> Scores:
    labels, scores = patch_scores(41, 24, seed)
    ids = np.arange(65).astype(str)
    return voted(ids, labels, ids, scores, vote)


def bundle(val: Scores, vote: VoteConfig) -> Bundle:
    return Bundle(
        new_classifier().eval(),
        size_px=40,
        stride_px=40,
        vote=vote,
        calibrator=fit_platt(val.labels, val.scores[0]),
        conformal=fit_conformal(val.labels, val.scores[0], alpha=0.1),
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
    chosen = with_validation_threshold(val.labels, val.patch_scores[0], RULE)
    fixed, validation = described(chosen)["thresholds"]
    assert (fixed["name"], fixed["threshold"], fixed["ships"]) == ("fixed", 0.5, False)
    assert (validation["name"], validation["threshold"], validation["ships"]) == (
        "validation",
        chosen.share_threshold,
        True,
    )
    for row in (fixed, validation):
        called = test.shares[0] > row["threshold"]
        assert row["confusion"]["tp"] == int(called[test.labels == 1].sum())
        assert row["confusion"]["fp"] == int(called[test.labels == 0].sum())
        assert row["roi"]["recall"]["value"] == pytest.approx(called[test.labels == 1].mean())


def test_a_fixed_rule_ships_its_own_threshold_and_validation_stands_beside_it(
    described: Callable[[VoteConfig], dict[str, Any]],
) -> None:
    at_half = described(section(VoteConfig, threshold="fixed"))["thresholds"]
    assert [(row["name"], row["ships"]) for row in at_half] == [("fixed", True), ("validation", False)]
    elsewhere = described(section(VoteConfig, threshold="fixed", share_threshold=0.3))["thresholds"]
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
    calibrated = fit_platt(scored(0).labels, scored(0).scores[0]).apply(test.scores[0])
    assert judged["raw"]["brier"]["value"] == pytest.approx(brier(test.labels, test.scores[0]))
    assert judged["calibrated"]["brier"]["value"] == pytest.approx(brier(test.labels, calibrated))
    assert judged["calibrated"]["brier"]["value"] < judged["raw"]["brier"]["value"]
    assert sum(row["n"] for row in judged["raw"]["bins"]) == 65


def test_referral_judges_the_sets_that_are_served(
    described: Callable[[VoteConfig], dict[str, Any]],
) -> None:
    fold, test = described(RULE)["referral"], scored(1)
    limits = fit_conformal(scored(0).labels, scored(0).scores[0], alpha=0.1)
    sets = prediction_sets(test.patch_scores[0], RULE, limits)
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


FEW = section(EvaluateConfig, n_bootstrap=100)


def test_an_auc_of_decisions_is_the_balanced_accuracy() -> None:
    test = scored(1)
    (decided,), (mean,) = test.decisions, test.scores
    found = judge(test, FEW.model_copy(update={"auc_of": "decisions"}))["roi"]["auc_score"]["value"]
    assert found == pytest.approx(balanced_accuracy_score(test.labels, decided))
    usual = judge(test, FEW)["roi"]["auc_score"]["value"]
    assert usual == pytest.approx(roc_auc_score(test.labels, mean))


@pytest.mark.parametrize("evidence", ["tumor", "larger"])
def test_an_auc_of_patches_can_rest_on_the_larger_probability(evidence: str) -> None:
    labels, patches = np.repeat(scored(1).labels, 25), scored(1).patch_scores.ravel()
    expected = patches if evidence == "tumor" else np.maximum(patches, 1 - patches)
    found = judge(scored(1), FEW.model_copy(update={"patch_auc_of": evidence}), 0.5)["patch"]["auc_score"]
    assert found["value"] == pytest.approx(roc_auc_score(labels, expected))
    assert found["n_groups"] == 65


def test_who_votes_once_has_no_auc_of_the_vote_share() -> None:
    assert "auc_vote_share" in judge(scored(1), FEW)["roi"]
    assert "auc_vote_share" not in judge(scored(1).with_scores(scored(1).scores), FEW)["roi"]


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_patch_is_called_tumor_above_the_threshold_at_which_it_votes(threshold: float) -> None:
    labels, patches = np.repeat(scored(1).labels, 25), scored(1).patch_scores.ravel()
    found = judge(scored(1), FEW, threshold)["patch"]["recall"]["value"]
    assert found == pytest.approx(recall_score(labels, patches > threshold))


@pytest.mark.parametrize(("by", "expected"), [("val_loss", "b"), ("val_auc", "c")])
def test_loss_is_best_when_low_and_auc_when_high(by: str, expected: str) -> None:
    results = {
        "a": {"val_loss": 0.7, "val_auc": 0.60},
        "b": {"val_loss": 0.4, "val_auc": 0.85},
        "c": {"val_loss": 0.5, "val_auc": 0.91},
    }
    assert best_system(results, by) == expected


@pytest.mark.parametrize("by", ["val_loss", "val_auc"])
def test_the_earlier_of_two_equal_systems_wins(by: str) -> None:
    assert best_system({"z": {by: 0.5}, "a": {by: 0.5}}, by) == "z"
