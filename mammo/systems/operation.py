"""How a system's probabilities, thresholds and referrals hold on the test part. Nothing is chosen by it."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.config import Config, EvaluateConfig, VoteConfig
from mammo.evaluation.calibration import calibration_estimates, perfect_calibration_error, reliability
from mammo.evaluation.conformal import FoldReferral, judge_fold
from mammo.evaluation.intervals import nan_to_none, summarise
from mammo.evaluation.metrics import confusion
from mammo.evaluation.operating_points import operating_points
from mammo.evaluation.voting import decisions, prediction_sets, vote_shares, with_validation_threshold
from mammo.models.bundle import Bundle
from mammo.systems.train import Scored

PLAIN_MAJORITY: Final = 0.5
"""The threshold of the paper's rule."""


def describe_operation(bundle: Bundle, val: Scored, test: Scored, config: Config) -> dict[str, Any]:
    """Thresholds, operating points, calibration and referral of one system, ready for JSON.

    Args:
        bundle: the system, with the calibrator and limits that it ships with.
        val: its judgement of the validation part, which chooses the thresholds.
        test: its judgement of the test part.
        config: all settings.
    """
    evaluate = config.evaluate
    points = operating_points(
        val.labels, val.scores, test.labels, test.scores, confidence=evaluate.confidence
    )
    return {
        "thresholds": _thresholds(bundle.vote, val, test, evaluate),
        "operating_points": [point.to_dict() for point in points],
        "calibration": _calibration(bundle, test, evaluate),
        "referral": referral_of(bundle, test, config).to_dict(),
    }


def _thresholds(vote: VoteConfig, val: Scored, test: Scored, config: EvaluateConfig) -> list[dict[str, Any]]:
    """The vote's rule at the paper's threshold and at validation's, whichever of them ships."""
    rules = {
        "fixed": vote.model_copy(update={"threshold": "fixed", "share_threshold": PLAIN_MAJORITY}),
        "validation": vote
        if vote.threshold == "validation"
        else with_validation_threshold(val.labels, val.patch_scores, vote),
    }
    if vote.share_threshold not in [rule.share_threshold for rule in rules.values()]:
        rules["shipped"] = vote
    rows = []
    for name, rule in rules.items():
        decided = decisions(test.patch_scores, rule)
        table = confusion(test.labels, decided)
        metrics = summarise(
            test.labels,
            decided,
            test.scores,
            vote_shares(test.patch_scores, rule),
            test.groups,
            **config.resampling,
        )
        rows.append(
            {
                "name": name,
                "rule": rule.rule,
                "threshold": rule.share_threshold,
                "ships": rule.share_threshold == vote.share_threshold,
                "confusion": {"tp": table.tp, "fn": table.fn, "fp": table.fp, "tn": table.tn},
                "roi": {
                    metric: metrics[metric].to_dict()
                    for metric in ("accuracy", "recall", "specificity", "balanced_accuracy")
                },
            }
        )
    return rows


def _calibration(bundle: Bundle, test: Scored, config: EvaluateConfig) -> dict[str, Any]:
    def judged(scores: npt.NDArray[np.float64]) -> dict[str, Any]:
        estimates = calibration_estimates(
            test.labels,
            scores,
            test.groups,
            binning=config.binning,
            n_bins=config.n_bins,
            **config.resampling,
        )
        perfect = perfect_calibration_error(
            scores,
            binning=config.binning,
            n_bins=config.n_bins,
            n_draws=config.n_bootstrap,
            seed=config.seed,
            confidence=config.confidence,
        )
        bins = reliability(
            test.labels, scores, binning=config.binning, n_bins=config.n_bins, confidence=config.confidence
        )
        return {
            **{name: estimate.to_dict() for name, estimate in estimates.items()},
            "calibration_error_if_perfect": nan_to_none(perfect),
            "bins": [
                nan_to_none({str(key): value for key, value in row.items()})
                for row in bins.to_dict("records")
            ],
        }

    return {
        "calibrator": bundle.calibrator.to_dict(),
        "binning": config.binning,
        "n_bins": config.n_bins,
        "raw": judged(test.scores),
        "calibrated": judged(bundle.calibrator.apply(test.scores)),
    }


def referral_of(bundle: Bundle, test: Scored, config: Config) -> FoldReferral:
    """What the shipped prediction sets do on the test part of the current split: one fold."""
    split = config.split
    fold = "published split" if split.protocol == "published" else f"repeat {split.repeat}, fold {split.fold}"
    return judge_fold(
        f"{bundle.system}, {fold}",
        bundle.conformal.coverage,
        bundle.conformal.n_calibration,
        test.labels,
        prediction_sets(test.patch_scores, bundle.vote, bundle.conformal),
        confidence=config.evaluate.confidence,
    )


def operation_estimates(judged: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The estimates of one system's operation under flat names, for MLflow and `dvc metrics diff`."""
    calibration = judged["calibration"]
    flat = {
        f"{name}_{kind}": calibration[kind][name]
        for name in ("brier", "calibration_error")
        for kind in ("raw", "calibrated")
    }
    for point in judged["operating_points"]:
        other = "recall" if point["fixed"] == "specificity" else "specificity"
        flat[f"{other}_at_{point['fixed']}_{point['target']:.2f}"] = point[other]
    for row in judged["thresholds"]:
        flat |= {f"{metric}_at_{row['name']}_threshold": value for metric, value in row["roi"].items()}
    for name in ("coverage", "coverage_normal", "coverage_tumor", "referral_rate"):
        flat[name] = judged["referral"][name]
    return flat
