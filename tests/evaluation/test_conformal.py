"""Conformal sets against the textbook rank, exact finite-sample coverage and hand-made sets; what the verdicts mean."""

import json
from typing import Any

import numpy as np
import pytest

from mammo.evaluation.conformal import (
    RATES,
    REFER_ALL,
    Conformal,
    fit_conformal,
    judge_fold,
    verdict,
)
from mammo.evaluation.intervals import wilson
from mammo.evaluation.metrics import FloatArray, IntArray


def draw(n: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    labels = (rng.random(n) < 0.36).astype(int)
    return labels, rng.beta(1 + 2 * labels, 3 - 2 * labels)


def test_the_limits_are_the_textbook_ranks_of_each_class_or_of_all_rois() -> None:
    labels = np.array([0] * 9 + [1] * 9)
    scores = np.concatenate([np.arange(1, 10) / 20, 1 - np.arange(1, 10) / 10])
    limits = fit_conformal(labels, scores, coverage=0.8)
    # ceil(10 · 0.8) = 8: the eighth smallest misfit of each class.
    assert (limits.limit_normal, limits.limit_tumor) == pytest.approx((8 / 20, 8 / 10))
    assert limits.coverage == 0.8
    four = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.6])
    both = fit_conformal(*four, coverage=0.6, class_conditional=False)
    # Misfits 0.1, 0.2, 0.3, 0.4; ceil(5 · 0.6) = 3.
    assert both.limit_normal == both.limit_tumor == pytest.approx(0.3)


def test_too_few_rois_for_the_coverage_leave_the_class_in_every_set() -> None:
    limits = fit_conformal(np.array([0] * 50 + [1] * 5), np.linspace(0, 1, 55), coverage=0.9)
    assert limits.limit_tumor == 1
    assert limits.sets(np.array([0.0, 0.5, 1.0]))[:, 1].all()


def test_a_set_holds_the_classes_whose_misfit_is_within_their_limit_and_both_before_validation() -> None:
    limits = Conformal(0.1, limit_normal=0.6, limit_tumor=0.5, class_conditional=True, n_calibration=9)
    sets = limits.sets(np.array([0.1, 0.55, 0.9]))
    assert sets.tolist() == [[True, False], [True, True], [False, True]]
    assert REFER_ALL.sets(np.array([0.0, 0.5, 1.0])).all()
    assert REFER_ALL.coverage == 1


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_sets_cover_each_class_at_the_promised_rate_and_not_much_more(alpha: float) -> None:
    rng = np.random.default_rng(2020)
    held: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(300):
        limits = fit_conformal(*draw(150, rng), coverage=1 - alpha)
        labels, scores = draw(200, rng)
        sets = limits.sets(scores)
        for label, shares in held.items():
            shares.append(float(sets[labels == label, label].mean()))
    for shares in held.values():
        error = np.std(shares) / np.sqrt(len(shares))
        # Coverage is at least 1 - alpha and exceeds it by 1 / (n + 1) at most; about 54 ROIs are Tumor.
        assert 1 - alpha - 3 * error <= np.mean(shares) <= 1 - alpha + 1 / 40 + 3 * error


def fold_of(labels: list[int], sets: list[list[int]], name: str = "a") -> dict[str, Any]:
    return judge_fold(
        name, 0.9, 65, np.array(labels, dtype=int), np.array(sets, dtype=bool).reshape(-1, 2), confidence=0.95
    )


def test_a_fold_is_judged_by_hand_counted_rates() -> None:
    fold = fold_of([0, 0, 0, 1, 1], [[1, 0], [1, 1], [0, 1], [1, 1], [0, 0]], "fold 3")
    counted = {
        "coverage": (3, 5),
        "coverage_normal": (2, 3),
        "coverage_tumor": (1, 2),
        "referral_rate": (3, 5),
    }
    assert fold == {
        "fold": "fold 3",
        "promise": 0.9,
        "n_calibration": 65,
        **{name: wilson(*of, 0.95).to_dict() for name, of in counted.items()},
        "n_both": 2,
        "n_empty": 1,
        "verdict": "missed",  # Wilson ends at 0.88
    }


@pytest.mark.parametrize(
    ("held", "n", "expected"),
    [(60, 64, "kept"), (54, 60, "kept"), (53, 60, "missed within chance"), (45, 60, "missed")],
)
def test_a_promise_is_missed_only_where_the_whole_interval_lies_below_it(held: int, n: int, expected: str) -> None:
    assert verdict(wilson(held, n, 0.95), 0.9) == expected


def test_a_fold_without_rois_is_not_judged() -> None:
    fold = fold_of([], [])
    assert fold["verdict"] == "not judged"
    assert {fold[name]["value"] for name in RATES} == {None}
    json.dumps(fold, allow_nan=False)
