"""Votes, shares and decisions against a plain-Python count in exact fractions."""

import json
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo.core.config import VoteConfig
from mammo.evaluation.calibration import Calibrator
from mammo.evaluation.conformal import Conformal
from mammo.evaluation.voting import decisions, prediction_sets, roi_votes, with_validation_threshold
from tests.settings import section

Rule = Literal["majority", "mean_score"]
Tie = Literal["tumor", "normal"]

EIGHTHS = [step / 8 for step in range(9)]
"""Exact in binary, so that ties are real ties."""


def decided_by_hand(scores: list[float], rule: str, tie: str, patch_at: float, share_at: float) -> int:
    exact = [Fraction(score) for score in scores]
    if rule == "majority":
        evidence = Fraction(sum(score > Fraction(patch_at) for score in exact), len(exact))
    else:
        evidence = sum(exact, Fraction(0)) / len(exact)
    if evidence == Fraction(share_at):
        return 1 if tie == "tumor" else 0
    return 1 if evidence > Fraction(share_at) else 0


@given(
    scores=st.integers(1, 30).flatmap(
        lambda n: st.lists(st.lists(st.sampled_from(EIGHTHS), min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    rule=st.sampled_from(["majority", "mean_score"]),
    tie=st.sampled_from(["tumor", "normal"]),
    patch_at=st.sampled_from(EIGHTHS),
    share_at=st.sampled_from(EIGHTHS),
)
def test_decisions_equal_a_count_in_exact_fractions(
    scores: list[list[float]], rule: Rule, tie: Tie, patch_at: float, share_at: float
) -> None:
    config = section(VoteConfig, rule=rule, tie=tie, patch_threshold=patch_at, share_threshold=share_at)
    decided = decisions(np.array(scores), config)
    assert decided.tolist() == [decided_by_hand(row, rule, tie, patch_at, share_at) for row in scores]


@pytest.mark.parametrize(("tie", "expected"), [("tumor", 1), ("normal", 0)])
def test_a_mean_that_misses_the_threshold_by_rounding_only_is_a_tie(tie: Tie, expected: int) -> None:
    scores = np.array([[0.1, 0.2, 0.3, 0.6]])  # their mean is 0.3, in floats a little more or less
    rule = section(VoteConfig, rule="mean_score", tie=tie, share_threshold=0.3)
    assert decisions(scores, rule).tolist() == [expected]


def test_a_record_shows_the_votes_behind_its_label_and_is_referred_before_validation() -> None:
    normal, tumor = roi_votes(np.array([[0.25, 0.75, 0.25], [0.75, 0.75, 0.0]]), section(VoteConfig))
    assert (normal.label, tumor.label) == ("Normal", "Tumor")
    assert (normal.votes, tumor.votes) == ((0, 1, 0), (1, 1, 0))
    assert tumor.patch_scores == (0.75, 0.75, 0.0)
    assert tumor.vote_share == pytest.approx(2 / 3)
    assert tumor.score == tumor.probability == 0.5
    assert tumor.referral


LIMITS = Conformal(0.1, limit_normal=0.6, limit_tumor=0.7, class_conditional=True, n_calibration=40)
"""Normal stays open up to a mean score of 0.6, Tumor from 0.3 on."""


def test_a_record_carries_probability_threshold_and_prediction_set() -> None:
    scores = np.array([[0.2, 0.2], [0.5, 0.4], [0.9, 0.7]])
    rule = section(VoteConfig, rule="mean_score", share_threshold=0.35)
    votes = roi_votes(scores, rule, Calibrator(slope=1.0, intercept=np.log(3)), LIMITS)
    assert [vote.prediction_set for vote in votes] == [("Normal",), ("Normal", "Tumor"), ("Tumor",)]
    assert [vote.referral for vote in votes] == [False, True, False]
    assert {vote.threshold for vote in votes} == {0.35}
    # Odds are tripled: 0.2 → 0.75 / 1.75, 0.45 → 2.4545 / 3.4545, 0.8 → 12 / 13.
    assert [vote.probability for vote in votes] == pytest.approx([3 / 7, 27 / 38, 12 / 13])


def test_the_row_of_a_record_is_plain_and_names_the_model() -> None:
    row = roi_votes(np.array([[0.9, 0.7]]), section(VoteConfig), conformal=LIMITS)[0].row("mammo-roi", "3")
    assert row == {
        "label": "Tumor",
        "vote_share": 1.0,
        "votes": [1, 1],
        "score": pytest.approx(0.8),
        "model_name": "mammo-roi",
        "model_version": "3",
        "probability": pytest.approx(0.8),
        "threshold": 0.5,
        "decided_by": "2 of 2 votes, a share of 1.00, against the threshold 0.50, chosen on validation data",
        "prediction_set": ["Tumor"],
        "referral": False,
        "in_domain": True,
        "domain_reason": None,
    }
    assert json.loads(json.dumps(row)) == row


def test_the_mean_score_says_that_the_votes_do_not_decide() -> None:
    rule = section(VoteConfig, rule="mean_score", threshold="validation", share_threshold=0.26)
    (vote,) = roi_votes(np.array([[0.9, 0.1, 0.2]]), rule)
    assert vote.label == "Tumor"
    assert vote.decided_by == (
        "mean score 0.400 (the votes do not decide), against the threshold 0.26, chosen on validation data"
    )


def test_a_roi_that_is_unlike_those_of_training_is_referred_with_the_reason() -> None:
    scores, reasons = np.array([[0.9, 0.7], [0.9, 0.7]]), [None, "shows one grey value"]
    votes = roi_votes(scores, section(VoteConfig), conformal=LIMITS, domain_reasons=reasons)
    rows = [vote.row("mammo-roi", "3") for vote in votes]
    assert [(row["label"], row["prediction_set"]) for row in rows] == 2 * [("Tumor", ["Tumor"])]
    assert [row["referral"] for row in rows] == [False, True]
    assert [row["in_domain"] for row in rows] == [True, False]
    assert [row["domain_reason"] for row in rows] == reasons


def test_a_roi_whose_vote_its_set_rules_out_is_referred() -> None:
    """Two sure patches of five carry the mean over 0.6, while three of five vote Normal."""
    scores = np.array([[1.0, 1.0, 0.49, 0.49, 0.49]])
    assert LIMITS.sets(scores.mean(axis=1)).tolist() == [[False, True]]
    assert roi_votes(scores, section(VoteConfig), conformal=LIMITS)[0].label == "Normal"
    assert prediction_sets(scores, section(VoteConfig), LIMITS).tolist() == [[True, True]]


def test_a_roi_that_fits_neither_class_keeps_the_one_decided_for() -> None:
    narrow = Conformal(0.1, limit_normal=0.2, limit_tumor=0.2, class_conditional=True, n_calibration=40)
    assert prediction_sets(np.array([[0.4], [0.6]]), section(VoteConfig), narrow).tolist() == [
        [True, False],
        [False, True],
    ]


@pytest.mark.parametrize("rule", ["majority", "mean_score"])
def test_a_threshold_from_validation_decides_its_shifted_scores_better(rule: Rule) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [40, 25])
    scores = np.clip(rng.normal(0.2 + 0.25 * labels[:, None], 0.1, (65, 25)), 0, 1)
    config = section(VoteConfig, rule=rule)
    chosen = with_validation_threshold(labels, scores, config)
    assert (decisions(scores, config) == labels).mean() < 0.8
    assert (decisions(scores, chosen) == labels).mean() > 0.95
    assert chosen.threshold == "validation"
    assert chosen == config.model_copy(update={"share_threshold": chosen.share_threshold})


def test_scores_that_say_nothing_leave_the_rule_fixed() -> None:
    config = section(VoteConfig, share_threshold=0.4)
    kept = with_validation_threshold(np.array([0, 1, 0, 1]), np.full((4, 9), 0.3), config)
    assert (kept.threshold, kept.share_threshold) == ("fixed", 0.4)
