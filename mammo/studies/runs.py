"""Systems and folds → fits → runs: votes and decisions from kept patch scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any, Final, TypeVar

import numpy as np
from rich.console import Console

from mammo.core.choice import best_system
from mammo.core.config import Config, ReferralConfig, VoteConfig
from mammo.core.files import Workspace
from mammo.core.records import SPLITS
from mammo.core.systems import fits_of, has_floor
from mammo.data.rois import Rois
from mammo.data.splits import Fold
from mammo.evaluation.conformal import fit_conformal, judge_fold
from mammo.evaluation.intervals import RunEstimate, estimate
from mammo.evaluation.scores import Scores
from mammo.evaluation.stacking import fit_stack
from mammo.evaluation.voting import fitted, voted
from mammo.studies.fits import Fit, FitTask, PartScores, run_fits
from mammo.systems.assess import score_floor
from mammo.systems.decide import results_on_grid

Name = TypeVar("Name")


FLOOR_VOTE: Final = VoteConfig(
    rule="mean_score", tie="tumor", patch_threshold=0.5, views=1, threshold="fixed", share_threshold=0.5
)


@dataclass(frozen=True)
class Placed:
    """A fit, how it votes, its repeat and fold, and the run (a seed's, or an ensemble's) that it belongs to."""

    repeat: int
    fold: int
    seed: int
    fit: Fit
    vote: VoteConfig


def plan(system: str, config: Config, folds: Sequence[Fold], n_seeds: int, title: str = "") -> list[FitTask]:
    """The fits of one system: `n_seeds` training seeds on every fold.

    Every repeat has seeds of its own, so that no two runs share the luck of one.
    """
    tasks = []
    for seed, fold in product(range(n_seeds), folds):
        own = fold.repeat * n_seeds + seed
        place = f", repeat {fold.repeat}, fold {fold.fold}" if len(folds) > 1 else ""
        words = f"{title or system}, seed {own}{place}"
        tasks.append(FitTask(system, config, own, fold.rois, words, fold.repeat, fold.fold))
    return tasks


def fit_all(
    plans: dict[Name, list[FitTask]], workspace: Workspace, n_jobs: int, console: Console
) -> dict[Name, list[Placed]]:
    """Fits of several plans at their places, made at once so that no worker waits for another plan's end.

    An ensemble's fits are those of its members. Where the floor's evidence counts, it is stacked on their mean.
    """
    asked = [_members(task) for tasks in plans.values() for task in tasks]
    fits = iter(run_fits([member for members in asked for member in members], workspace, n_jobs, console))
    return {
        name: [Placed(task.repeat, task.fold, task.seed, _as_system(task, fits), task.config.vote) for task in tasks]
        for name, tasks in plans.items()
    }


def _members(task: FitTask) -> list[FitTask]:
    return [replace(task, system=name, seed=seed) for name, seed in fits_of(task.system, task.seed)]


def _as_system(task: FitTask, fits: Iterator[Fit]) -> Fit:
    fit = mean_fit(list(islice(fits, len(_members(task)))))
    if not has_floor(task.system):
        return fit
    train, val, test = (task.rois.part(name) for name in SPLITS)
    stack = fit_stack(train.images, train.labels, val.images, val.labels, fit.val.patch_scores)
    on_val, on_test = (
        replace(of_part, patch_scores=stack.apply(part.images, of_part.patch_scores))
        for of_part, part in ((fit.val, val), (fit.test, test))
    )
    return Fit(fit.validation | results_on_grid(val.labels, on_val.patch_scores), on_val, on_test)


def judge_fit(one: Placed, rois: Rois, referral: ReferralConfig | None = None) -> Scores:
    """A fit's judgement of what it held out; `rois` knows the groups.

    Threshold and prediction sets (none without `referral`) are fitted to its validation part.
    """
    val, test, limits = one.fit.val, one.fit.test, None
    if referral is not None:
        limits = fit_conformal(val.labels, val.patch_scores.mean(axis=1), **referral.model_dump())
    rule = fitted(val.labels, val.patch_scores, one.vote)
    group_of, roi_ids = rois.group_of, np.array(test.roi_ids, dtype=str)
    groups = np.array([group_of[roi_id] for roi_id in test.roi_ids], dtype=str)
    scores = voted(roi_ids, test.labels, groups, test.patch_scores, rule, conformal=limits)
    return replace(scores, folds=np.full_like(scores.folds, one.fold))


def runs_of(placed: Sequence[Placed], rois: Rois, referral: ReferralConfig | None = None) -> Scores:
    """The judgements of fits as runs, one for each seed of each repeat, in this order of repeats; ROIs by id.

    Every run must hold out the same ROIs.
    """
    runs: dict[tuple[int, int], list[Scores]] = {}
    for one in sorted(placed, key=lambda one: (one.repeat, one.seed)):
        runs.setdefault((one.repeat, one.seed), []).append(judge_fit(one, rois, referral))
    return Scores.of_runs(list(runs.values()))


def referral_by_fold(placed: Sequence[Placed], rois: Rois, config: Config) -> list[dict[str, Any]]:
    """Rates of each fit's sets on what it held out, as served sets are: of the mean score, with the vote's class."""
    return [
        judge_fold(
            f"repeat {one.repeat}, fold {one.fold}, seed {one.seed}",
            config.referral.coverage,
            len(one.fit.val.labels),
            scores.labels,
            np.asarray(scores.sets)[0],
            confidence=config.evaluate.confidence,
        )
        for one in placed
        for scores in [judge_fit(one, rois, config.referral)]
    ]


def referral_over_runs(placed: Sequence[Placed], rois: Rois, config: Config) -> dict[str, RunEstimate]:
    """Each of the rates over all held-out ROIs, a mean over the runs with an interval over groups and runs."""
    runs = runs_of(placed, rois, config.referral)
    sets = np.asarray(runs.sets)
    held, referred = sets[:, np.arange(len(runs.labels)), runs.labels], sets.sum(axis=2) != 1
    rates = {
        "coverage": (held, "accuracy"),
        "coverage_normal": (held, "specificity"),
        "coverage_tumor": (held, "recall"),
        "referral_rate": (referred, "accuracy"),
    }
    return {
        # A ROI counts as decided rightly where the rate counts it, so that the metric is the rate.
        rate: estimate(
            replace(runs, decisions=np.where(counted, runs.labels, 1 - runs.labels)),
            metric,
            **config.evaluate.resampling,
        )
        for rate, (counted, metric) in rates.items()
    }


def ensemble(placed: Sequence[Placed]) -> list[Placed]:
    """The seeds of each fold as one system: its patch scores are their means, on validation and held-out ROIs."""
    members: dict[tuple[int, int], list[Placed]] = {}
    for one in placed:
        members.setdefault((one.repeat, one.fold), []).append(one)
    averaged = []
    for seeds in members.values():
        fits = [one.fit for one in seeds]
        # Systems are chosen by what a seed of theirs can be expected to give, not by their ensembles.
        means = {name: float(np.mean([fit.validation[name] for fit in fits])) for name in ("val_loss", "val_auc")}
        averaged.append(replace(seeds[0], seed=0, fit=replace(mean_fit(fits), validation=means)))
    return averaged


def mean_fit(fits: Sequence[Fit]) -> Fit:
    """The members of an ensemble as one: patch scores are their means. One alone is itself."""
    if len(fits) == 1:
        return fits[0]

    def mean(parts: list[PartScores]) -> PartScores:
        return replace(parts[0], patch_scores=np.mean([part.patch_scores for part in parts], axis=0))

    val, test = mean([fit.val for fit in fits]), mean([fit.test for fit in fits])
    return Fit(results_on_grid(val.labels, val.patch_scores), val, test)


def chosen_by_validation(systems: dict[str, list[Placed]], by: str) -> list[Placed]:
    """In each fold and for each seed the system that its validation part likes best: the choice is nested too."""
    chosen = []
    for candidates in zip(*systems.values(), strict=True):
        named = dict(zip(systems, candidates, strict=True))
        chosen.append(named[best_system({name: one.fit.validation for name, one in named.items()}, by)])
    return chosen


def floor_runs(folds: Sequence[Fold]) -> list[Placed]:
    """The logistic regression on intensity statistics, fitted on each fold's training part. It has no seeds."""
    placed = []
    for fold in folds:
        train, *judged = (fold.rois.part(name) for name in ("train", "val", "test"))
        val, test = (
            PartScores(tuple(part.table["roi_id"]), part.labels, score_floor(train, part).patch_scores[0])
            for part in judged
        )
        placed.append(Placed(fold.repeat, fold.fold, 0, Fit({}, val, test), FLOOR_VOTE))
    return placed
