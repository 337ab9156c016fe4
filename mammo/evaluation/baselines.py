"""What a system has to beat: the floor, which sees no texture, and the paper's numbers."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammo.core.errors import DataError
from mammo.evaluation.intervals import Estimate, wilson
from mammo.evaluation.metrics import PROPORTIONS, Confusion, IntArray

STATISTICS: Final = ("mean", "sd", "min", "p5", "median", "p95", "skewness", "centre_difference")
"""In grey levels, but for the skewness. `centre_difference`: mean of the middle third of the sides (40×40 of
120×120 pixels) minus the mean of the ROI. Skewness of a ROI of one grey level is 0."""

ImageArray = npt.NDArray[np.uint8]


def floor_statistics(images: ImageArray) -> npt.NDArray[np.float64]:
    """The eight `STATISTICS` of grey images `(n, side, side)`: `(n, 8)`."""
    pixels = images.reshape(len(images), -1).astype(float)
    third = images.shape[1] // 3
    centre = images[:, third : 2 * third, third : 2 * third].astype(float).mean(axis=(1, 2))
    mean, sd = pixels.mean(axis=1), pixels.std(axis=1)
    centred = pixels - mean[:, None]
    third_moment = (centred * centred * centred).mean(axis=1)
    skewness = np.divide(third_moment, sd**3, out=np.zeros_like(sd), where=sd > 0)
    p5, median, p95 = np.percentile(pixels, [5, 50, 95], axis=1)
    return np.stack([mean, sd, pixels.min(axis=1), p5, median, p95, skewness, centre - mean], axis=1)


def floor_scores(images: ImageArray, labels: IntArray, judged: ImageArray) -> npt.NDArray[np.float64]:
    """Probability of Tumor of each judged ROI by a logistic regression (L2 penalty, C = 1) on the `STATISTICS`.

    Images are `(n, side, side)`, those judged `(m, side, side)`; labels (0 Normal, 1 Tumor) `(n,)`.

    Raises:
        DataError: a class is absent.
    """
    scores: npt.NDArray[np.float64] = _fitted(images, labels).predict_proba(floor_statistics(judged))[:, 1]
    return scores


def fit_floor(images: ImageArray, labels: IntArray) -> tuple[npt.NDArray[np.float64], float]:
    """The same regression as weights of the `STATISTICS` in grey levels, `(8,)`, and an intercept: a logit.

    Raises:
        DataError: a class is absent.
    """
    scaler, regression = (step for _, step in _fitted(images, labels).steps)
    weights: npt.NDArray[np.float64] = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)


def _fitted(images: ImageArray, labels: IntArray) -> Any:
    if labels.min() == labels.max():
        raise DataError("floor: both classes are needed, got one; train on a part that holds both")
    from sklearn.linear_model import LogisticRegression  # here: it takes 1 s to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    floor = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-8))
    return floor.fit(floor_statistics(images), labels)


DOI: Final = "10.1038/s41598-020-71431-x"


@dataclass(frozen=True)
class PaperResult:
    """One system of the paper and its counts on the 64 test ROIs; None where the numbers are not at hand."""

    system: str
    confusion: Confusion | None

    def estimates(self, confidence: float) -> dict[str, Estimate]:
        """The proportions with Wilson intervals; empty where the numbers are not at hand."""
        if self.confusion is None:
            return {}
        return {name: wilson(*self.confusion.trials(name), confidence) for name in PROPORTIONS}


PAPER_RESULTS: Final = (
    PaperResult("Model1", Confusion(tp=21, fn=2, fp=5, tn=36)),
    PaperResult("Model2", Confusion(tp=22, fn=1, fp=7, tn=34)),
    *(PaperResult(name, None) for name in ("VGG16", "VGG19", "DenseNet", "ResNet50", "MobileNet")),
)
"""The paper's systems. Its AUC is left out: it is computed from decisions, not from scores."""
