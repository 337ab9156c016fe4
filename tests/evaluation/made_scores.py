"""Scores made of plain lists, and how the intervals of the tests are made."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mammo.core.config import Resampling
from mammo.evaluation.scores import Scores

HOW = Resampling(n_bootstrap=300, seed=0, confidence=0.95)


def made(
    labels: npt.ArrayLike,
    decisions: npt.ArrayLike | None = None,
    scores: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    folds: npt.ArrayLike | None = None,
    shares: npt.ArrayLike | None = None,
) -> Scores:
    """One run, or R runs where arrays are `(R, n)`; what is left out follows from the scores, or from the decisions."""
    truth = np.asarray(labels)
    if decisions is None:
        decisions = np.asarray(scores) > 0.5
    decided = np.atleast_2d(decisions).astype(np.int64)
    evidence: npt.NDArray[Any] = np.atleast_2d(decided if scores is None else scores).astype(float)
    ids = np.array([f"r{row:04}" for row in range(len(truth))], dtype=str)
    return Scores(
        ids,
        truth,
        ids if groups is None else np.asarray(groups),
        evidence[..., None],
        evidence if shares is None else np.atleast_2d(shares),
        decided,
        np.zeros_like(decided) if folds is None else np.atleast_2d(folds),
    )


def some_runs(n_runs: int = 3, n: int = 60, n_folds: int = 4, seed: int = 0) -> Scores:
    """Runs of noisy scores over pairs of ROIs, each with folds of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % 3 % 2
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2, (n_runs, n)), 0, 1).round(2)
    return made(
        labels,
        scores=scores,
        groups=[f"g{i // 2:03}" for i in range(n)],
        folds=np.stack([rng.permutation(n) % n_folds for _ in range(n_runs)]),
        shares=scores.round(1),
    )


def lucky(offsets: list[float], n: int = 400) -> Scores:
    """Runs whose accuracies differ by luck alone: each is wrong on its own share of the ROIs."""
    labels = np.arange(n) % 3 % 2
    wrong = np.stack([np.random.default_rng(r).random(n) < o for r, o in enumerate(offsets)])
    return made(labels, np.where(wrong, 1 - labels, labels), groups=np.arange(n) // 2)
