"""Coverage and referral rate of prediction sets, fold by fold, against the promise.

A fold is one calibration part with one judged part: a split of cross-validation, the published split, or one of
several fits. Coverage is promised on average over such draws, so a single fold may fall short by chance; the
verdict says whether chance could do it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mammo.evaluation.conformal import SetSummary, fit_conformal, summarise_sets
from mammo.evaluation.intervals import Estimate, SeedSummary, over_seeds
from mammo.evaluation.metrics import FloatArray, IntArray, check_classes

Verdict = Literal["kept", "missed within chance", "missed", "not judged"]

RATES: Final[dict[str, str]] = {
    "coverage": "Coverage",
    "coverage_normal": "Coverage of Normal",
    "coverage_tumor": "Coverage of Tumor",
    "referral_rate": "Referral rate",
}
"""The rates of a fold with the names that people read."""


@dataclass(frozen=True)
class FoldReferral:
    """One fold's promise and what came of it.

    Attributes:
        fold: its name.
        promise: the coverage that was promised.
        n_calibration: ROIs that fitted the sets.
        sets: coverage and referral rate on the judged part, with intervals.
    """

    fold: str
    promise: float
    n_calibration: int
    sets: SetSummary

    @property
    def verdict(self) -> Verdict:
        """Whether the coverage of all judged ROIs kept the promise."""
        return verdict(self.sets.coverage, self.promise)

    def rate(self, name: str) -> Estimate:
        """One of the `RATES`."""
        estimate: Estimate = getattr(self.sets, name)
        return estimate

    def to_dict(self) -> dict[str, Any]:
        """The fields and the verdict, for JSON."""
        return {
            "fold": self.fold,
            "promise": self.promise,
            "n_calibration": self.n_calibration,
            **self.sets.to_dict(),
            "verdict": self.verdict,
        }


def verdict(coverage: Estimate, promise: float) -> Verdict:
    """`missed` only where the whole interval lies below the promise."""
    if np.isnan(coverage.value):
        return "not judged"
    if coverage.value >= promise:
        return "kept"
    return "missed within chance" if coverage.ci_high >= promise else "missed"


def judge_fold(
    fold: str,
    promise: float,
    n_calibration: int,
    labels: IntArray,
    sets: npt.NDArray[np.bool_],
    *,
    confidence: float = 0.95,
) -> FoldReferral:
    """Judge sets that a calibrated system gave.

    Args:
        fold: its name.
        promise: the promised coverage.
        n_calibration: ROIs that fitted the sets.
        labels: true classes of the judged ROIs, shape `(n,)`.
        sets: whether Normal and Tumor are in each set, shape `(n, 2)`.
        confidence: of the Wilson intervals.

    Raises:
        DataError: the sets are not those of the labelled ROIs.
    """
    return FoldReferral(fold, promise, n_calibration, summarise_sets(labels, sets, confidence=confidence))


def fit_sets(
    val_labels: IntArray,
    val_scores: FloatArray,
    scores: FloatArray,
    *,
    promise: float = 0.9,
    class_conditional: bool = True,
    decided: IntArray | None = None,
) -> npt.NDArray[np.bool_]:
    """Fit the sets on a fold's validation scores: `(n, 2)`, whether Normal and Tumor are in each judged ROI's set.

    Args:
        val_labels: true classes of the part that fits, shape `(m,)`.
        val_scores: its probabilities of Tumor, shape `(m,)`.
        scores: probabilities of Tumor of the judged ROIs, shape `(n,)`.
        promise: the coverage to promise.
        class_conditional: promise it within each class.
        decided: decisions about the judged ROIs, shape `(n,)`; each set is made to hold the class decided for,
            as a served set does. None gives the plain sets, where an empty one counts as a referral.

    Raises:
        DataError: arrays do not describe the same ROIs, or the promise is no share between 0 and 1.
    """
    limits = fit_conformal(val_labels, val_scores, alpha=1 - promise, class_conditional=class_conditional)
    sets = limits.sets(scores)
    return sets if decided is None else with_decision(sets, decided)


def with_decision(sets: npt.NDArray[np.bool_], decided: IntArray) -> npt.NDArray[np.bool_]:
    """Sets `(n, 2)` that hold the class decided for as well.

    Decision and set rest on two numbers, vote share and mean score, that may disagree. Then the set holds both
    classes and the ROI goes to a reader, instead of a label that its own set rules out. Larger sets keep
    the promised coverage.

    Raises:
        DataError: a decision is neither 0 nor 1.
    """
    check_classes("decisions", decided)
    widened: npt.NDArray[np.bool_] = sets | (decided[:, None] == np.array([0, 1]))
    return widened


def over_folds(folds: Sequence[FoldReferral], confidence: float = 0.95) -> dict[str, SeedSummary]:
    """Mean, standard deviation and t interval of each of the `RATES` over the folds.

    The t interval takes folds as independent. Those of several repeats judge the same ROIs again, and are not.
    """
    return {name: over_seeds([fold.rate(name).value for fold in folds], confidence) for name in RATES}
