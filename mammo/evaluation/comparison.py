"""Are two systems different on the same ROIs? Paired tests, and what it would take to tell.

Decisions are compared by McNemar's exact test, scores by a paired bootstrap of the AUC's difference, runs by a paired
bootstrap of any metric. McNemar's test takes ROIs as independent; the bootstrap resamples groups.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, Unpack

import numpy as np
from scipy.special import ndtri

from mammo.core.config import Resampling
from mammo.evaluation.intervals import Estimate, RunEstimate, bootstrap, percent, with_spread
from mammo.evaluation.metrics import FloatArray, IntArray, check_arrays, weighted_auc
from mammo.evaluation.scores import Scores, run_values

ALIKE: Final = "not distinguishable"
JUDGED: Final = {"auc_score": "AUC", "accuracy": "accuracy"}
"""The metrics that a verdict looks at, in words."""


def mcnemar_exact(labels: IntArray, decisions_a: IntArray, decisions_b: IntArray) -> tuple[int, int, float]:
    """McNemar's exact two-sided test of two systems' decisions about the same `(n,)` ROIs.

    Returns the ROIs that a alone decided rightly, those that b alone did, and p: does each have half of them?
    """
    right_a, right_b = decisions_a == labels, decisions_b == labels
    both, neither = int(np.sum(right_a & right_b)), int(np.sum(~right_a & ~right_b))
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(~right_a & right_b))
    from statsmodels.stats.contingency_tables import mcnemar  # here: it takes 0.8 s to import

    return only_a, only_b, float(mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue)


def auc_difference(a: Scores, b: Scores, **how: Unpack[Resampling]) -> Estimate:
    """AUC of the mean patch score of two single runs, a minus b, on the same resamples of the groups.

    Raises:
        DataError: the two did not judge the same ROIs.
    """
    (scores_a,), (scores_b,) = a.scores, b.scores
    check_arrays(a.labels, scores=scores_b)

    def statistic(weights: FloatArray) -> FloatArray:
        return weighted_auc(a.labels, scores_a, weights) - weighted_auc(a.labels, scores_b, weights)

    return bootstrap(statistic, a.groups, **how)


def difference(a: Scores, b: Scores, metric: str, **how: Unpack[Resampling]) -> RunEstimate:
    """Mean of a metric over the runs of a minus that of b, on the same resamples of the groups.

    The two may judge the same ROIs (then this is the paired difference) or some in common: a ROI that both judge is
    in a resample for both or for neither. As many runs on both sides are taken as pairs (the same seed and folds) and
    resampled as such.
    """
    roi_ids, first = np.unique(np.concatenate([a.roi_ids, b.roi_ids]), return_index=True)
    groups = np.concatenate([a.groups, b.groups])[first]
    rows_a, rows_b = (np.searchsorted(roi_ids, one.roi_ids) for one in (a, b))

    def statistic(weights: FloatArray) -> FloatArray | tuple[FloatArray, ...]:
        of_a, of_b = run_values(a, metric, weights[:, rows_a]), run_values(b, metric, weights[:, rows_b])
        return of_a - of_b if a.n_runs == b.n_runs else (of_a, -of_b)

    of_runs = statistic(np.ones((1, len(groups))))
    pairs = np.empty(0) if isinstance(of_runs, tuple) else of_runs[:, 0]
    return with_spread(bootstrap(statistic, groups, **how), pairs, min(a.n_runs, b.n_runs))


def verdict(differences: Mapping[str, Estimate]) -> str:
    """Which of AUC and accuracy are higher or lower, or that nothing can be told apart."""
    sides = {word: differences[metric].side for metric, word in JUDGED.items() if metric in differences}
    return "; ".join(f"{word} {side}" for word, side in sides.items() if side) or ALIKE


def rois_needed(share_only_a: float, share_only_b: float, confidence: float) -> int | None:
    """ROIs that McNemar's two-sided test needs, at 80% power, where each of two systems alone decides a share rightly.

    Connor 1987, Biometrics 43, 207-211 (doi 10.2307/2531961), with the test's error rate 1 - confidence: asymptotic,
    the exact test needs somewhat more. None when the shares are equal: then no number would do.
    """
    discordant, excess = share_only_a + share_only_b, share_only_a - share_only_b
    if excess == 0:
        return None
    quantile_alpha, quantile_power = float(ndtri((1 + confidence) / 2)), float(ndtri(0.8))
    reach = quantile_alpha * math.sqrt(discordant) + quantile_power * math.sqrt(discordant - excess**2)
    return math.ceil((reach / excess) ** 2)


def compare(
    name_a: str, a: Scores, name_b: str, b: Scores, n_comparisons: int = 1, **how: Unpack[Resampling]
) -> dict[str, Any]:
    """Comparison of two systems, a single run of each on the same ROIs, and whether they can be told apart.

    Where it is one of several, what is told apart holds for all of them at once (Bonferroni); the interval that is
    shown is its own.

    Returns:
        Ready for JSON: `accuracy_difference` of a minus b, with its exact test `mcnemar`; `auc_difference`, likewise,
        with its paired interval; `rois_needed` to show this difference of accuracy at 80% power, null where there is
        none; `decisions_differ`: whether McNemar's p is below 1 - confidence, divided by the number of comparisons;
        `scores_differ`: whether the interval of the AUC's difference, so much wider, leaves 0 out; `verdict`: what may
        be said of the two, in words.

    Raises:
        DataError: the two did not judge the same ROIs.
    """
    of_auc, confidence = auc_difference(a, b, **how), how["confidence"]
    only_a, only_b, p_value = mcnemar_exact(a.labels, a.decisions[0], b.decisions[0])
    n = len(a.labels)
    needed = rois_needed(only_a / n, only_b / n, confidence)
    alpha = (1 - confidence) / n_comparisons
    together = auc_difference(a, b, **(how | {"confidence": 1 - alpha})) if n_comparisons > 1 else of_auc
    decisions_differ, scores_differ = p_value < alpha, together.side is not None
    finding = {
        (False, False): ALIKE,
        (True, False): "distinguishable by their decisions, not by their AUC",
        (False, True): "distinguishable by their AUC, not by their decisions",
        (True, True): "distinguishable by their decisions and by their AUC",
    }[decisions_differ, scores_differ]
    bound = f", of {n_comparisons} comparisons: below {alpha:.3f} would tell" if n_comparisons > 1 else ""
    ends = f"{percent(confidence)} interval {of_auc.ci_low:+.3f} to {of_auc.ci_high:+.3f}"
    interval = "no interval can be stated" if math.isnan(of_auc.ci_low) else ends
    words = (
        f"{name_a} and {name_b} are {finding} on {n} ROIs; ROIs that one alone decides rightly: {name_a} "
        f"{only_a}, {name_b} {only_b} (McNemar exact p = {p_value:.3f}{bound}); AUC "
        f"differs by {of_auc.value:+.3f} ({interval})"
    )
    if not decisions_differ:
        words += (
            f"; about {needed} ROIs would be needed to show this difference of accuracy at 80% power"
            if needed is not None
            else "; both are right equally often, so no number of ROIs would show a difference of accuracy"
        )
    return {
        "name_a": name_a,
        "name_b": name_b,
        "n": n,
        "n_groups": of_auc.n_groups,
        "accuracy_difference": (only_a - only_b) / n,
        "mcnemar": {"only_a_right": only_a, "only_b_right": only_b, "p_value": p_value},
        "auc_difference": of_auc.to_dict(),
        "rois_needed": needed,
        "decisions_differ": decisions_differ,
        "scores_differ": scores_differ,
        "verdict": f"{words}.",
    }
