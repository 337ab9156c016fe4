"""Split-conformal prediction sets: which classes a score leaves open, with a guarantee of coverage.

On exchangeable ROIs a set holds the true class with probability 1 - alpha at least (Vovk, Gammerman, Shafer 2005,
"Algorithmic learning in a random world", chapters 2 and 4): an average over draws of the validation and the judged
part, not for ROIs of another clinic or scanner. A ROI whose set is not one single class is referred to a reader.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, Result, SeedSummary, over_seeds, wilson
from mammo.evaluation.metrics import FloatArray, IntArray

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Conformal(Result):
    """The two limits that make the sets: a class is in the set when 1 - its probability is at most its limit.

    Attributes:
        alpha: share of sets that may miss the true class.
        limit_normal, limit_tumor: largest 1 - P of the class that keeps it in the set; 1 keeps it always.
        class_conditional: whether each class has a limit of its own, so that coverage holds within each.
        n_calibration: ROIs that the limits come from.
    """

    alpha: Share
    limit_normal: Share
    limit_tumor: Share
    class_conditional: bool
    n_calibration: int

    def sets(self, scores: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether Normal and Tumor are in each ROI's set: probabilities of Tumor `(n,)` → `(n, 2)`."""
        return np.stack([scores, 1 - scores], axis=1) <= np.array([self.limit_normal, self.limit_tumor])

    @property
    def coverage(self) -> float:
        """The promised share of sets that hold the true class."""
        return round(1 - self.alpha, 12)


REFER_ALL: Final = Conformal(0.0, 1.0, 1.0, class_conditional=True, n_calibration=0)
"""Both classes for every ROI: all that can be promised before a validation part was seen."""


def fit_conformal(
    labels: IntArray, scores: FloatArray, *, alpha: float, class_conditional: bool = True
) -> Conformal:
    """The limits of a validation part: the ceil((n + 1)(1 - alpha))-th smallest misfit of the truth.

    The misfit is 1 - the probability. With fewer than 1 / alpha - 1 ROIs no finite limit has the coverage; the limit
    is 1 then, and the class is in every set.

    `class_conditional` holds the coverage within each class, not only on average. Labels and scores (probabilities of
    Tumor) are `(n,)`.
    """
    of_truth = np.where(labels == Label.TUMOR, 1 - scores, scores)

    def limit(label: Label) -> float:
        ordered = np.sort(of_truth[labels == label] if class_conditional else of_truth)
        rank = math.ceil(round((len(ordered) + 1) * (1 - alpha), 9))
        return float(ordered[rank - 1]) if rank <= len(ordered) else 1.0

    return Conformal(alpha, limit(Label.NORMAL), limit(Label.TUMOR), class_conditional, len(labels))


Verdict = Literal["kept", "missed within chance", "missed", "not judged"]

RATES: Final[dict[str, str]] = {
    "coverage": "Coverage",
    "coverage_normal": "Coverage of Normal",
    "coverage_tumor": "Coverage of Tumor",
    "referral_rate": "Referral rate",
}
"""The rates of a fold with the names that people read."""


@dataclass(frozen=True)
class FoldReferral(Result):
    """One fold's promised coverage, by `n_calibration` ROIs, and what came of it on ROIs with known labels.

    Attributes:
        coverage: share of the sets that hold the true class; likewise among Normal and Tumor ROIs.
        referral_rate: share of the ROIs whose set is not one single class.
        n_both, n_empty: sets that hold both classes, and none.
        verdict: whether the coverage of all judged ROIs kept the promise.
    """

    fold: str
    promise: float
    n_calibration: int
    coverage: Estimate
    coverage_normal: Estimate
    coverage_tumor: Estimate
    referral_rate: Estimate
    n_both: int
    n_empty: int
    verdict: Verdict

    def rate(self, name: str) -> Estimate:
        """One of the `RATES`."""
        rate: Estimate = getattr(self, name)
        return rate


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
    confidence: float,
) -> FoldReferral:
    """The rates of prediction sets `(n, 2)` of ROIs with the true classes `(n,)`, with Wilson intervals."""
    held, size = sets[np.arange(len(labels)), labels], sets.sum(axis=1)

    def share(of: npt.NDArray[np.bool_]) -> Estimate:
        return wilson(int(of.sum()), len(of), confidence)

    return FoldReferral(
        fold,
        promise,
        n_calibration,
        coverage=share(held),
        coverage_normal=share(held[labels == Label.NORMAL]),
        coverage_tumor=share(held[labels == Label.TUMOR]),
        referral_rate=share(size != 1),
        n_both=int((size == 2).sum()),
        n_empty=int((size == 0).sum()),
        verdict=verdict(share(held), promise),
    )


def over_folds(folds: Sequence[FoldReferral], confidence: float) -> dict[str, SeedSummary]:
    """Mean, standard deviation and t interval of each of the `RATES` over the folds.

    The t interval takes folds as independent. Those of several repeats judge the same ROIs again, and are not.
    """
    return {name: over_seeds([fold.rate(name).value for fold in folds], confidence) for name in RATES}
