"""Are two systems different on the same ROIs? Paired tests, and what it would take to tell.

Decisions are compared by McNemar's exact test, scores by a paired bootstrap of the AUC's difference.
McNemar's test takes ROIs as independent; the bootstrap resamples groups.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from mammo.evaluation.intervals import Estimate, bootstrap, nan_to_none, percent
from mammo.evaluation.metrics import FloatArray, IntArray, check_arrays, check_classes, weighted_auc


@dataclass(frozen=True)
class Judged:
    """What one system said about the ROIs: its name, decisions and scores, each of shape `(n,)`."""

    name: str
    decisions: IntArray
    scores: FloatArray


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test: of the ROIs that one system alone decided rightly, does each have half?"""

    only_a_right: int
    only_b_right: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same ROIs.

    Attributes:
        name_a: first system.
        name_b: second system.
        n: ROIs.
        n_groups: independent groups among them.
        accuracy_difference: accuracy of a minus that of b; NaN without ROIs.
        mcnemar: the exact test of that difference.
        auc_difference: AUC of a minus that of b, with its paired interval.
        rois_needed: ROIs that would show the observed difference of accuracy at 80% power; None when the
            two are equally accurate here, so that no number would.
        decisions_differ: whether McNemar's p is below 1 - confidence.
        scores_differ: whether the interval of the AUC's difference leaves 0 out.
        verdict: what may be said about the two, in words.
    """

    name_a: str
    name_b: str
    n: int
    n_groups: int
    accuracy_difference: float
    mcnemar: McNemar
    auc_difference: Estimate
    rois_needed: int | None
    decisions_differ: bool
    scores_differ: bool
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; NaN becomes None."""
        return nan_to_none(asdict(self)) | {"auc_difference": self.auc_difference.to_dict()}


def mcnemar_exact(labels: IntArray, decisions_a: IntArray, decisions_b: IntArray) -> McNemar:
    """McNemar's exact two-sided test of two systems' decisions about the same `(n,)` ROIs.

    Raises:
        DataError: the arrays do not describe the same ROIs.
    """
    check_arrays(labels, decisions_a=decisions_a, decisions_b=decisions_b)
    check_classes("decisions_a", decisions_a)
    check_classes("decisions_b", decisions_b)
    right_a, right_b = decisions_a == labels, decisions_b == labels
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(~right_a & right_b))
    from statsmodels.stats.contingency_tables import mcnemar  # here: it takes 0.8 s to import

    both, neither = int(np.sum(right_a & right_b)), int(np.sum(~right_a & ~right_b))
    return McNemar(only_a, only_b, float(mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue))


def paired_bootstrap_auc(
    labels: IntArray,
    scores_a: FloatArray,
    scores_b: FloatArray,
    groups: npt.NDArray[Any],
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Difference of two AUCs, a minus b, on the same resamples of the groups.

    Raises:
        DataError: the arrays do not describe the same ROIs.
    """
    check_arrays(labels, scores_a=scores_a, scores_b=scores_b, groups=groups)

    def difference(weights: FloatArray) -> FloatArray:
        return weighted_auc(labels, scores_a, weights) - weighted_auc(labels, scores_b, weights)

    return bootstrap(difference, groups, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence)


def rois_needed(
    share_only_a: float, share_only_b: float, *, power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """ROIs that McNemar's test needs to tell two systems apart, by Connor's formula.

    Connor 1987, Biometrics 43, 207-211 (doi 10.2307/2531961), two-sided. It is the asymptotic number: the
    exact test, which cannot use up its whole error rate, needs somewhat more.

    Args:
        share_only_a: share of the ROIs that only a decides rightly.
        share_only_b: share that only b decides rightly.
        power: wanted probability that the test finds the difference.
        confidence: 1 minus the test's error rate.

    Returns:
        The number, or None when the shares are equal: then no number would do.
    """
    discordant, difference = share_only_a + share_only_b, share_only_a - share_only_b
    if difference == 0:
        return None
    quantile_alpha, quantile_power = float(ndtri((1 + confidence) / 2)), float(ndtri(power))
    reach = quantile_alpha * math.sqrt(discordant) + quantile_power * math.sqrt(discordant - difference**2)
    return math.ceil((reach / difference) ** 2)


def compare(
    labels: IntArray,
    a: Judged,
    b: Judged,
    groups: npt.NDArray[Any],
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two systems on the same ROIs and say whether they can be told apart.

    Raises:
        DataError: the arrays do not describe the same ROIs.
    """
    test = mcnemar_exact(labels, a.decisions, b.decisions)
    auc_difference = paired_bootstrap_auc(
        labels, a.scores, b.scores, groups, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )
    n = len(labels)
    needed = rois_needed(test.only_a_right / n, test.only_b_right / n, confidence=confidence) if n else None
    decisions_differ = test.p_value < 1 - confidence
    scores_differ = auc_difference.ci_low > 0 or auc_difference.ci_high < 0
    return Comparison(
        name_a=a.name,
        name_b=b.name,
        n=n,
        n_groups=auc_difference.n_groups,
        accuracy_difference=(test.only_a_right - test.only_b_right) / n if n else math.nan,
        mcnemar=test,
        auc_difference=auc_difference,
        rois_needed=needed,
        decisions_differ=decisions_differ,
        scores_differ=scores_differ,
        verdict=_verdict(a.name, b.name, n, test, auc_difference, needed, decisions_differ, scores_differ),
    )


def _verdict(
    name_a: str,
    name_b: str,
    n: int,
    test: McNemar,
    auc_difference: Estimate,
    needed: int | None,
    decisions_differ: bool,
    scores_differ: bool,
) -> str:
    finding = {
        (False, False): "not distinguishable",
        (True, False): "distinguishable by their decisions, not by their AUC",
        (False, True): "distinguishable by their AUC, not by their decisions",
        (True, True): "distinguishable by their decisions and by their AUC",
    }[decisions_differ, scores_differ]
    sentences = [
        f"{name_a} and {name_b} are {finding} on {n} ROIs",
        f"ROIs that one alone decides rightly: {name_a} {test.only_a_right}, {name_b} {test.only_b_right} "
        f"(McNemar exact p = {test.p_value:.3f})",
        f"AUC differs by {auc_difference.value:+.3f} ({_ends(auc_difference)})",
    ]
    if not decisions_differ:
        sentences.append(
            f"about {needed} ROIs would be needed to show this difference of accuracy at 80% power"
            if needed is not None
            else "both are right equally often, so no number of ROIs would show a difference of accuracy"
        )
    return "; ".join(sentences) + "."


def _ends(estimate: Estimate) -> str:
    if math.isnan(estimate.ci_low):
        return "no interval can be stated"
    return f"{percent(estimate.confidence)} interval {estimate.ci_low:+.3f} to {estimate.ci_high:+.3f}"
