"""Systems and folds → fits → runs: votes and decisions from kept patch scores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mammo.core.config import Config, VoteConfig
from mammo.data.rois import Rois
from mammo.data.splits import Fold
from mammo.evaluation.repeated import Runs
from mammo.evaluation.voting import decisions, fitted, vote_shares
from mammo.studies.fits import Fit, FitTask, PartScores, run_fits
from mammo.systems.assess import score_floor
from mammo.systems.train import best_system


@dataclass(frozen=True)
class Placed:
    """A fit and where it stands: which repeat and fold, which run (a seed's, or an ensemble's) it belongs to.

    `vote` is the fit's own rule, where not all of them vote alike.
    """

    repeat: int
    fold: int
    seed: int
    fit: Fit
    vote: VoteConfig | None = None


def plan(system: str, config: Config, folds: Sequence[Fold], n_seeds: int, title: str = "") -> list[FitTask]:
    """The fits of one system: `n_seeds` training seeds on every fold."""
    return [
        FitTask(
            system,
            config,
            seed,
            fold.rois,
            f"{title or system}, seed {seed}"
            + (f", repeat {fold.repeat}, fold {fold.fold}" if len(folds) > 1 else ""),
        )
        for fold, seed in _seeded(folds, n_seeds)
    ]


def place(
    fits: Iterable[Fit], folds: Sequence[Fold], n_seeds: int, vote: VoteConfig | None = None
) -> list[Placed]:
    """Give the fits of a plan their places."""
    return [
        Placed(fold.repeat, fold.fold, seed, fit, vote)
        for (fold, seed), fit in zip(_seeded(folds, n_seeds), fits, strict=True)
    ]


def _seeded(folds: Sequence[Fold], n_seeds: int) -> list[tuple[Fold, int]]:
    """Every repeat has training seeds of its own, so that no two runs share the luck of one."""
    return [(fold, fold.repeat * n_seeds + seed) for seed in range(n_seeds) for fold in folds]


def fit_all(
    plans: dict[str, list[FitTask]], folder: Path, n_jobs: int, console: Console
) -> dict[str, list[Fit]]:
    """Run several plans at once, so that no worker waits for another plan's end."""
    fits = iter(run_fits([task for tasks in plans.values() for task in tasks], folder, n_jobs, console))
    return {name: [next(fits) for _ in tasks] for name, tasks in plans.items()}


def runs_of(placed: Sequence[Placed], rois: Rois, vote: VoteConfig) -> Runs:
    """Lay the held-out scores of fits out as runs: one for each seed of each repeat, in this order of repeats.

    Every run must hold out the same ROIs.
    """
    return lay_out(placed, rois, lambda one: decide(one.fit, one.vote or vote))


def lay_out(
    placed: Sequence[Placed],
    rois: Rois,
    judge: Callable[[Placed], tuple[np.ndarray, np.ndarray]],
) -> Runs:
    """The runs of fits with the shares and decisions that `judge` gives for a fit's held-out ROIs."""
    places = sorted({(one.repeat, one.seed) for one in placed})
    by_run = [[one for one in placed if (one.repeat, one.seed) == key] for key in places]
    held_out = sorted(roi_id for one in by_run[0] for roi_id in one.fit.test.roi_ids)
    row_of = {roi_id: row for row, roi_id in enumerate(held_out)}
    shape = (len(places), len(held_out))
    labels, folds = np.zeros(len(held_out), dtype=np.int64), np.zeros(shape, dtype=np.int64)
    scores, shares, decided = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for run, members in enumerate(by_run):
        for one in members:
            rows = np.array([row_of[roi_id] for roi_id in one.fit.test.roi_ids], dtype=np.int64)
            labels[rows], folds[run, rows] = one.fit.test.labels, one.fold
            scores[run, rows] = one.fit.test.patch_scores.mean(axis=1)
            shares[run, rows], decided[run, rows] = judge(one)
    group_of = dict(zip(rois.table["roi_id"], rois.groups, strict=True))
    groups = np.array([group_of[roi_id] for roi_id in held_out], dtype=str)
    return Runs(np.array(held_out, dtype=str), labels, groups, folds, scores, shares, decided)


def decide(fit: Fit, vote: VoteConfig) -> tuple[np.ndarray, np.ndarray]:
    """Vote shares and decisions of the held-out ROIs. What the rule needs to be fitted, validation gives."""
    vote = fitted(fit.val.labels, fit.val.patch_scores, vote)
    return vote_shares(fit.test.patch_scores, vote), decisions(fit.test.patch_scores, vote)


def ensemble(placed: Sequence[Placed]) -> list[Placed]:
    """The seeds of each fold as one system: its patch scores are their means, on validation and held-out ROIs."""
    members: dict[tuple[int, int], list[Fit]] = {}
    for one in placed:
        members.setdefault((one.repeat, one.fold), []).append(one.fit)
    return [
        Placed(
            repeat,
            fold,
            0,
            Fit(_mean_validation(fits), _mean([f.val for f in fits]), _mean([f.test for f in fits])),
        )
        for (repeat, fold), fits in members.items()
    ]


def _mean_validation(fits: Sequence[Fit]) -> dict[str, float]:
    return {name: float(np.mean([fit.validation[name] for fit in fits])) for name in ("val_loss", "val_auc")}


def _mean(parts: Sequence[PartScores]) -> PartScores:
    return replace(parts[0], patch_scores=np.mean([part.patch_scores for part in parts], axis=0))


def chosen_by_validation(systems: dict[str, list[Placed]], by: str) -> list[Placed]:
    """In each fold and for each seed the system that its validation part likes best: the choice is nested too."""
    return [
        dict(zip(systems, candidates, strict=True))[
            best_system(
                {name: dict(one.fit.validation) for name, one in zip(systems, candidates, strict=True)}, by
            )
        ]
        for candidates in zip(*systems.values(), strict=True)
    ]


def floor_runs(folds: Sequence[Fold]) -> list[Placed]:
    """The logistic regression on intensity statistics, fitted on each fold's training part. It has no seeds."""
    placed = []
    for fold in folds:
        train, val, test = (fold.rois.part(name) for name in ("train", "val", "test"))
        parts = [
            PartScores(tuple(part.table["roi_id"]), part.labels, score_floor(train, part).patch_scores)
            for part in (val, test)
        ]
        placed.append(Placed(fold.repeat, fold.fold, 0, Fit({}, *parts)))
    return placed
