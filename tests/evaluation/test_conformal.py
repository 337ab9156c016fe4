"""Conformal sets against the textbook rank, exact finite-sample coverage and hand-made sets."""

import json

import numpy as np
import pytest

from mammo.core.errors import DataError
from mammo.evaluation.conformal import REFER_ALL, Conformal, fit_conformal, summarise_sets
from mammo.evaluation.metrics import FloatArray, IntArray


def draw(n: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    labels = (rng.random(n) < 0.36).astype(int)
    return labels, rng.beta(1 + 2 * labels, 3 - 2 * labels)


def test_the_limits_are_the_textbook_ranks_of_each_class() -> None:
    labels = np.array([0] * 9 + [1] * 9)
    scores = np.concatenate([np.arange(1, 10) / 20, 1 - np.arange(1, 10) / 10])
    limits = fit_conformal(labels, scores, alpha=0.2)
    # ceil(10 · 0.8) = 8: the eighth smallest misfit of each class.
    assert (limits.limit_normal, limits.limit_tumor) == pytest.approx((8 / 20, 8 / 10))


def test_without_classes_both_limits_come_from_all_rois() -> None:
    limits = fit_conformal(
        np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.6]), alpha=0.4, class_conditional=False
    )
    # Misfits 0.1, 0.2, 0.3, 0.4; ceil(5 · 0.6) = 3.
    assert limits.limit_normal == limits.limit_tumor == pytest.approx(0.3)


def test_too_few_rois_for_the_coverage_leave_the_class_in_every_set() -> None:
    limits = fit_conformal(np.array([0] * 50 + [1] * 5), np.linspace(0, 1, 55), alpha=0.1)
    assert limits.limit_tumor == 1
    assert limits.sets(np.array([0.0, 0.5, 1.0]))[:, 1].all()


def test_a_set_holds_the_classes_whose_misfit_is_within_their_limit() -> None:
    limits = Conformal(0.1, limit_normal=0.6, limit_tumor=0.5, class_conditional=True, n_calibration=9)
    sets = limits.sets(np.array([0.1, 0.55, 0.9]))
    assert sets.tolist() == [[True, False], [True, True], [False, True]]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_sets_cover_each_class_at_the_promised_rate_and_not_much_more(alpha: float) -> None:
    rng = np.random.default_rng(2020)
    held: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(300):
        limits = fit_conformal(*draw(150, rng), alpha=alpha)
        labels, scores = draw(200, rng)
        sets = limits.sets(scores)
        for label, shares in held.items():
            shares.append(float(sets[labels == label, label].mean()))
    for shares in held.values():
        error = np.std(shares) / np.sqrt(len(shares))
        # Coverage is at least 1 - alpha and exceeds it by 1 / (n + 1) at most; about 54 ROIs are Tumor.
        assert 1 - alpha - 3 * error <= np.mean(shares) <= 1 - alpha + 1 / 40 + 3 * error


def test_the_summary_counts_coverage_and_referrals_by_hand() -> None:
    sets = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [0, 1]], dtype=bool)
    summary = summarise_sets(np.array([0, 0, 0, 1, 1]), sets)
    assert (summary.coverage.value, summary.coverage.n) == (3 / 5, 5)
    assert (summary.coverage_normal.value, summary.coverage_tumor.value) == (2 / 3, 1 / 2)
    assert (summary.referral_rate.value, summary.n_both, summary.n_empty) == (2 / 5, 1, 1)
    json.dumps(summary.to_dict(), allow_nan=False)


def test_limits_survive_json_unchanged() -> None:
    limits = fit_conformal(*draw(100, np.random.default_rng(0)))
    assert Conformal.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits


def test_before_validation_every_roi_keeps_both_classes() -> None:
    assert REFER_ALL.sets(np.array([0.0, 0.5, 1.0])).all()
    assert REFER_ALL.coverage == 1


def test_the_promise_is_a_plain_number() -> None:
    assert fit_conformal(*draw(100, np.random.default_rng(0)), alpha=1 - 0.9).coverage == 0.9


@pytest.mark.parametrize("change", [{"limit_tumor": "x"}, {"limit_normal": 1.5}, {"alpha": float("nan")}])
def test_limits_that_are_no_shares_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="fit them again"):
        Conformal.from_dict(REFER_ALL.to_dict() | change)


def test_a_file_with_unknown_fields_is_refused() -> None:
    with pytest.raises(DataError, match="fit them again"):
        Conformal.from_dict({"alpha": 0.1, "quantile": 3})


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(DataError, match="alpha must lie between 0 and 1"):
        fit_conformal(np.array([0, 1]), np.array([0.2, 0.8]), alpha=alpha)


def test_sets_of_other_rois_are_refused() -> None:
    with pytest.raises(DataError, match="sets must have shape"):
        summarise_sets(np.array([0, 1]), np.ones((3, 2), dtype=bool))
