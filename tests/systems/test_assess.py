"""What is said of a system on test: metrics, thresholds, points, calibration and referral against single counts."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, recall_score, roc_auc_score

from mammo.core.choice import best_system
from mammo.core.config import EvaluateConfig, VoteConfig
from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.conformal import fit_conformal
from mammo.evaluation.scores import Scores
from mammo.evaluation.voting import prediction_sets, voted, with_validation_threshold
from mammo.models.bundle import Bundle
from mammo.systems.assess import describe_operation, judge, operation_estimates
from tests.settings import section
from tests.tiny_fits import new_classifier, tiny_config

RULE = section(VoteConfig, rule="majority", threshold="validation")


def scored(seed: int, vote: VoteConfig = RULE) -> Scores:
    """Scores that are shifted down, as a class-balanced training draw shifts them."""
    rng, ids = np.random.default_rng(seed), np.arange(65).astype(str)
    labels = np.repeat([0, 1], [41, 24])
    centre = rng.normal(1.8 * labels - 1.9, 0.8)
    return voted(ids, labels, ids, expit(rng.normal(centre[:, None], 0.7, (65, 25))), vote)


VAL, TEST = scored(0), scored(1)
CALIBRATOR = fit_platt(VAL.labels, VAL.scores[0])
LIMITS = fit_conformal(VAL.labels, VAL.scores[0], coverage=0.9)


def described(vote: VoteConfig = RULE, test: Scores = TEST, **split: Any) -> dict[str, Any]:
    config = tiny_config(evaluate__n_bootstrap=200)
    config = config.model_copy(update={"split": config.split.model_copy(update=split)})
    network = new_classifier().eval()
    bundle = Bundle(network, 40, 40, vote, calibrator=CALIBRATOR, conformal=LIMITS)
    return describe_operation(bundle, VAL, test, config)


def test_both_thresholds_are_judged_and_the_shipped_one_is_marked() -> None:
    chosen = with_validation_threshold(VAL.labels, VAL.patch_scores[0], RULE)
    rows = described(chosen)["thresholds"]
    assert [(row["name"], row["threshold"], row["ships"]) for row in rows] == [
        ("fixed", 0.5, False),
        ("validation", chosen.share_threshold, True),
    ]
    for row in rows:
        called = TEST.shares[0] > row["threshold"]
        assert row["confusion"]["tp"] == int(called[TEST.labels == 1].sum())
        assert row["confusion"]["fp"] == int(called[TEST.labels == 0].sum())
        assert row["roi"]["recall"]["value"] == pytest.approx(called[TEST.labels == 1].mean())


@pytest.mark.parametrize(
    ("threshold", "ships"),
    [
        (0.5, {"fixed": True, "validation": False}),
        (0.3, {"fixed": False, "validation": False, "shipped": True}),
    ],
)
def test_a_fixed_rule_ships_its_own_threshold_and_validation_stands_beside_it(
    threshold: float, ships: dict[str, bool]
) -> None:
    rows = described(section(VoteConfig, threshold="fixed", share_threshold=threshold))["thresholds"]
    assert {row["name"]: row["ships"] for row in rows} == ships


def test_calibration_is_judged_raw_and_calibrated_with_its_bins_named() -> None:
    judged = described()["calibration"]
    assert (judged["binning"], judged["n_bins"]) == ("equal_mass", 6)
    for kind, scores in (("raw", TEST.scores[0]), ("calibrated", CALIBRATOR.apply(TEST.scores[0]))):
        assert judged[kind]["brier"]["value"] == pytest.approx(brier_score_loss(TEST.labels, scores))
        assert sum(row["n"] for row in judged[kind]["bins"]) == 65
    assert judged["calibrated"]["brier"]["value"] < judged["raw"]["brier"]["value"]


def test_referral_judges_the_sets_that_are_served_and_names_the_fold() -> None:
    fold = described(protocol="grouped_cv", fold=3)["referral"]
    sets = prediction_sets(TEST.patch_scores[0], RULE, LIMITS)
    assert fold["fold"] == "compact-model2, repeat 0, fold 3"
    assert (fold["promise"], fold["n_calibration"]) == (0.9, 65)
    assert fold["referral_rate"]["value"] == pytest.approx(sets.all(axis=1).mean())
    assert fold["coverage"]["value"] == pytest.approx(sets[np.arange(65), TEST.labels].mean())


def test_flat_names_hold_every_estimate_once_and_the_whole_is_json() -> None:
    whole = described()
    json.dumps(whole, allow_nan=False)
    flat = operation_estimates(whole)
    assert {
        *(f"{name}_{kind}" for name in ("brier", "calibration_error") for kind in ("raw", "calibrated")),
        *(f"recall_at_specificity_0.{target}" for target in (80, 90, 95)),
        *(f"specificity_at_recall_0.{target}" for target in (80, 90, 95)),
        "accuracy_at_fixed_threshold",
        "balanced_accuracy_at_validation_threshold",
        "coverage",
        "coverage_tumor",
        "referral_rate",
    } <= set(flat)
    assert flat["recall_at_specificity_0.90"] == whole["operating_points"][1]["recall"]


def test_operating_points_take_their_thresholds_from_validation() -> None:
    moved = replace(TEST, patch_scores=TEST.patch_scores / 2)
    first, second = (described(test=test)["operating_points"] for test in (TEST, moved))
    assert [point["threshold"] for point in first] == [point["threshold"] for point in second]
    assert [point["recall"] for point in first] != [point["recall"] for point in second]


FEW = section(EvaluateConfig, n_bootstrap=100)


def test_an_auc_of_decisions_is_the_balanced_accuracy() -> None:
    (decided,), (mean,) = TEST.decisions, TEST.scores
    found = judge(TEST, FEW.model_copy(update={"auc_of": "decisions"}))["roi"]["auc_score"]["value"]
    assert found == pytest.approx(balanced_accuracy_score(TEST.labels, decided))
    usual = judge(TEST, FEW)["roi"]
    assert usual["auc_score"]["value"] == pytest.approx(roc_auc_score(TEST.labels, mean))
    assert "auc_vote_share" in usual
    assert "auc_vote_share" not in judge(TEST.with_scores(TEST.scores), FEW)["roi"]


LABELS, PATCHES = np.repeat(TEST.labels, 25), TEST.patch_scores.ravel()


@pytest.mark.parametrize("evidence", ["tumor", "larger"])
def test_an_auc_of_patches_can_rest_on_the_larger_probability(evidence: str) -> None:
    expected = PATCHES if evidence == "tumor" else np.maximum(PATCHES, 1 - PATCHES)
    found = judge(TEST, FEW.model_copy(update={"patch_auc_of": evidence}), 0.5)["patch"]["auc_score"]
    assert found["value"] == pytest.approx(roc_auc_score(LABELS, expected))
    assert found["n_groups"] == 65


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_patch_is_called_tumor_above_the_threshold_at_which_it_votes(threshold: float) -> None:
    found = judge(TEST, FEW, threshold)["patch"]["recall"]["value"]
    assert found == pytest.approx(recall_score(LABELS, threshold < PATCHES))


@pytest.mark.parametrize(("by", "expected"), [("val_loss", "b"), ("val_auc", "c")])
def test_loss_is_best_when_low_and_auc_when_high_and_the_earlier_of_two_equal_systems_wins(
    by: str, expected: str
) -> None:
    results = {
        "a": {"val_loss": 0.7, "val_auc": 0.60},
        "b": {"val_loss": 0.4, "val_auc": 0.85},
        "c": {"val_loss": 0.5, "val_auc": 0.91},
    }
    assert best_system(results, by) == expected
    assert best_system({"z": {by: 0.5}, "a": {by: 0.5}}, by) == "z"
