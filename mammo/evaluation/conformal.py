"""Split-conformal prediction sets: which classes a score leaves open, with a guarantee of coverage.

On exchangeable ROIs a set holds the true class with probability 1 - alpha at least (Vovk, Gammerman, Shafer 2005,
"Algorithmic learning in a random world", chapters 2 and 4): an average over draws of the validation and the judged
part, not for ROIs of another clinic or scanner. A ROI whose set is not one single class is referred to a reader.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mammo.core.records import Label
from mammo.evaluation.intervals import Estimate, Result, wilson
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
    labels: IntArray, scores: FloatArray, *, coverage: float, class_conditional: bool = True
) -> Conformal:
    """The limits of a validation part: the ceil((n + 1) · coverage)-th smallest misfit of the truth.

    The misfit is 1 - the probability. Where that is more than n, no finite limit has the coverage; the limit is 1 then,
    and the class is in every set.

    `class_conditional` holds the coverage within each class, not only on average. Labels and scores (probabilities of
    Tumor) are `(n,)`.
    """
    of_truth = np.where(labels == Label.TUMOR, 1 - scores, scores)

    def limit(label: Label) -> float:
        ordered = np.sort(of_truth[labels == label] if class_conditional else of_truth)
        rank = math.ceil(round((len(ordered) + 1) * coverage, 9))
        return float(ordered[rank - 1]) if rank <= len(ordered) else 1.0

    return Conformal(1 - coverage, limit(Label.NORMAL), limit(Label.TUMOR), class_conditional, len(labels))


Verdict = Literal["kept", "missed within chance", "missed", "not judged"]

RATES: Final[dict[str, str]] = {
    "coverage": "Coverage",
    "coverage_normal": "Coverage of Normal",
    "coverage_tumor": "Coverage of Tumor",
    "referral_rate": "Referral rate",
}
"""The rates of a fold with the names that people read."""


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
) -> dict[str, Any]:
    """A fold's promised coverage, by `n_calibration` ROIs, and what came of it, ready for JSON.

    Labels are the true classes of the judged ROIs, `(n,)`, `sets` their prediction sets, `(n, 2)`.

    Returns:
        `fold`, `promise`, `n_calibration`; the `RATES` with Wilson intervals: the share of the sets that hold the true
        class, also within each class, and that of the ROIs whose set is not one single class; `n_both` and `n_empty`
        sets; `verdict`: whether the coverage of all judged ROIs kept the promise.
    """
    held, size = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    counted = (held, held[labels == Label.NORMAL], held[labels == Label.TUMOR], size != 1)
    rates = {name: wilson(int(of.sum()), len(of), confidence) for name, of in zip(RATES, counted, strict=True)}
    return {
        "fold": fold,
        "promise": promise,
        "n_calibration": n_calibration,
        **{name: rate.to_dict() for name, rate in rates.items()},
        "n_both": int((size == 2).sum()),
        "n_empty": int((size == 0).sum()),
        "verdict": verdict(rates["coverage"], promise),
    }
