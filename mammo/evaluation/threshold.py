"""Choosing the decision threshold on the validation part.

The threshold aims at balanced accuracy: it lies where the evidence is as likely in a Tumor as in a Normal ROI.
That point is read from a logistic regression whose classes weigh alike, not from the best of all thresholds
(Youden's index), which chases the luck of single ROIs. Simulated with 24 Tumor and 41 Normal validation
ROIs of 25 votes, over scores that are shifted down, up or not at all, the balanced accuracy on new ROIs falls
short of that of the best threshold by

| method | loss | loss where 0.5 is best |
|---|---|---|
| fixed at 0.5 | 0.000 to 0.13 | |
| highest Youden index | 0.009 to 0.014 | 0.012 |
| mean of the bootstrapped highest | 0.004 to 0.010 | 0.004 |
| kernel-smoothed Youden index | 0.003 to 0.010 | 0.005 |
| this one | 0.002 to 0.003 | 0.002 |

(thresholds of the mean score: 0.002 to 0.005). So it costs next to nothing
where 0.5 is right and repairs what a class-balanced training draw shifts. What no choice on the validation part can
mend: the same ROIs have chosen the epoch, so rates at this threshold on that part are optimistic; the test part's
are the ones to read.
"""

import numpy as np
from scipy.special import expit

from mammo.evaluation.calibration import fit_platt
from mammo.evaluation.metrics import FloatArray, IntArray


def score_threshold(labels: IntArray, scores: FloatArray) -> float | None:
    """The score that speaks for neither class, or None where the scores do not tell the classes apart.

    None means: higher scores do not belong to Tumor ROIs, or all scores lie on one side.

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        scores: between 0 and 1, growing with the belief in Tumor, shape `(n,)`.

    Raises:
        DataError: a class is absent, or a score is no probability.
    """
    line = fit_platt(labels, scores, balanced=True)
    if line.slope <= 0:
        return None
    threshold = float(expit(-line.intercept / line.slope))
    return threshold if scores.min() < threshold < scores.max() else None


def share_threshold(labels: IntArray, shares: FloatArray, n_patches: int) -> float | None:
    """The vote share that speaks for neither class, half-way between two shares that can occur.

    Shares of 0 and 1 have no logit; k votes of n count as (k + 1/2) / (n + 1), as in the empirical logit. The
    half-way point leaves no ties.

    Args:
        labels: 0 Normal, 1 Tumor, shape `(n,)`.
        shares: shares of Tumor votes, shape `(n,)`.
        n_patches: votes of each ROI.

    Raises:
        DataError: a class is absent, or a share is no share.
    """
    smoothed = (shares * n_patches + 0.5) / (n_patches + 1)
    threshold = score_threshold(labels, smoothed)
    if threshold is None:
        return None
    votes = np.floor(threshold * (n_patches + 1) - 0.5)
    return float((np.clip(votes, 0, n_patches - 1) + 0.5) / n_patches)
