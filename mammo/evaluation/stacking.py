"""A network's votes and the floor's evidence in one score: z-scores added.

The floor sees grey levels and no texture, the network texture and, patches being standardised one by one, few grey
levels; so each may know what the other does not. Weights are alike by design: a validation part of some 65 ROIs could
not tell better ones.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import expit

from mammo.evaluation.baselines import STATISTICS, ImageArray, fit_floor, floor_statistics
from mammo.evaluation.calibration import NO_CALIBRATION, Calibrator, fit_platt, logits
from mammo.evaluation.intervals import Result
from mammo.evaluation.metrics import FloatArray, IntArray

_N_STATISTICS = len(STATISTICS)


@dataclass(frozen=True)
class Scale(Result):
    """Mean and standard deviation of a logit over the validation part's ROIs."""

    mean: float
    sd: Annotated[float, Field(gt=0)]

    def z(self, values: FloatArray) -> FloatArray:
        """Standard deviations from the mean."""
        return (values - self.mean) / self.sd


@dataclass(frozen=True)
class Stack(Result):
    """What turns a network's patch scores into those that know the floor's evidence about their ROI."""

    weights: Annotated[tuple[float, ...], Field(min_length=_N_STATISTICS, max_length=_N_STATISTICS)]
    """The floor's logit of Tumor: weights of the grey levels' `STATISTICS`, and the intercept."""
    intercept: float
    network: Scale
    """Of the mean logit of a ROI's patches."""
    floor: Scale
    calibrator: Calibrator
    """So that 0.5 of a patch speaks for neither class, as it does for a network alone."""

    def apply(self, images: ImageArray, patch_scores: FloatArray) -> npt.NDArray[np.float64]:
        """uint8 ROIs `(n, side, side)` and their patches' probabilities of Tumor `(n, n_patches)` → new ones, likewise.

        Patches of one ROI keep their order: all move by its floor's evidence.
        """
        evidence = floor_statistics(images) @ np.array(self.weights) + self.intercept
        return self.calibrator.apply(expit(self.network.z(logits(patch_scores)) + self.floor.z(evidence)[:, None]))


def fit_stack(
    images: ImageArray, labels: IntArray, val_images: ImageArray, val_labels: IntArray, val_scores: FloatArray
) -> Stack:
    """The floor fitted to the training ROIs; scales and calibrator to the validation part's.

    Images are uint8 `(n, side, side)`, labels `(n,)`, `val_scores` the network's `(m, n_patches)` of validation.

    Raises:
        DataError: a part lacks a class.
    """
    weights, intercept = fit_floor(images, labels)
    evidence = floor_statistics(val_images) @ weights + intercept
    network, floor = (
        Scale(mean=float(of_roi.mean()), sd=float(of_roi.std()) or 1.0)
        for of_roi in (logits(val_scores).mean(axis=1), evidence)
    )
    stack = Stack(
        weights=tuple(weights.tolist()),
        intercept=intercept,
        network=network,
        floor=floor,
        calibrator=NO_CALIBRATION,
    )
    calibrator = fit_platt(val_labels, stack.apply(val_images, val_scores).mean(axis=1))
    return replace(stack, calibrator=calibrator)
