"""`mammo tune nested`: is tuning worth it? Each fold is held out from a whole study, and judges what that study chose.

The held-out ROIs of a fold are seen neither by the study's trials nor by the fits that follow from its choice, so the
comparison with the settings of `params.yaml` is not spoilt by the choice (nested cross-validation; Varma and Simon
2006, "Bias in error estimation when using cross-validation for model selection"). The test part stays closed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from mammo.core.config import Config, VoteConfig
from mammo.core.files import Workspace
from mammo.data.rois import Rois
from mammo.data.splits import Fold, development_rois
from mammo.studies.fits import Fit, default_jobs
from mammo.studies.runs import Placed, fit_all, place, plan, runs_of
from mammo.studies.variants import effect, levels
from mammo.tuning.command import Plan, check_plan, run_tuning
from mammo.tuning.objective import held_out_value
from mammo.tuning.rois import nested_folds
from mammo.tuning.space import chosen_settings, without_fold

TUNED, SETTINGS = "tuned", "settings"


@dataclass(frozen=True)
class Chosen:
    """What the study that did not see a fold chose: its record, and what its best trial means."""

    fold: Fold
    record: dict[str, Any]
    system: str
    config: Config


def run_nested(space: Workspace, config: Config, plan_of_each: Plan, console: Console) -> dict[str, Any]:
    """Run or continue the studies, fit each one's choice and the settings, and compare them.

    Args:
        space: the workspace.
        config: all settings.
        plan_of_each: trials, workers and storage of each study; afterwards as many fits run at a time.
        console: where progress is shown.

    Returns:
        The summary, for `reports/tune/nested.json`.

    Raises:
        MammoError: as `run_tuning`, or a fit failed. Finished trials and fits are kept.
    """
    check_plan(plan_of_each)
    rois = development_rois(space)
    chosen = [_choose(space, config, fold, plan_of_each, console) for fold in nested_folds(rois, config.tune)]
    n_jobs = plan_of_each.n_workers or default_jobs(config)
    placed = _fit(space, config, rois, chosen, n_jobs, console)
    return _summary(config, rois, chosen, placed, plan_of_each)


def _choose(space: Workspace, config: Config, fold: Fold, plan_of_each: Plan, console: Console) -> Chosen:
    console.print(
        f"fold {fold.fold + 1} of {config.tune.nested_folds}: a study of the other ROIs", highlight=False
    )
    record = run_tuning(space, without_fold(config, fold.fold), plan_of_each, console)
    return Chosen(fold, record, *chosen_settings(config, record["best"]["params"]))


def _fit(
    space: Workspace,
    config: Config,
    rois: Rois,
    chosen: Sequence[Chosen],
    n_jobs: int,
    console: Console,
) -> dict[str, list[Placed]]:
    """The settings and each study's choice at the full budget of their recipe, on the same folds and seeds."""
    n_seeds, folds = config.tune.nested_seeds, [one.fold for one in chosen]
    plans = {SETTINGS: plan(config.tune.system, config, folds, n_seeds, "settings of params.yaml")}
    for one in chosen:
        title = f"choice without fold {one.fold.fold}: {one.system}"
        plans[f"{TUNED} {one.fold.fold}"] = plan(one.system, one.config, [one.fold], n_seeds, title)
    fits = fit_all(plans, space.fits, n_jobs, console)
    tuned = [
        placed
        for one in chosen
        for placed in place(fits[f"{TUNED} {one.fold.fold}"], [one.fold], n_seeds, one.config.vote)
    ]
    return {SETTINGS: place(fits[SETTINGS], folds, n_seeds, config.vote), TUNED: tuned}


def _summary(
    config: Config,
    rois: Rois,
    chosen: Sequence[Chosen],
    placed: dict[str, list[Placed]],
    plan_of_each: Plan,
) -> dict[str, Any]:
    runs = {name: runs_of(those, rois, config.vote) for name, those in placed.items()}
    folds = [_fold_entry(config, one, placed) for one in chosen]
    tune = config.tune
    return {
        "question": "Are tuned settings better than those of params.yaml on ROIs that their study never saw?",
        "data": rois.describe(),
        "system": tune.system,
        "metric": tune.metric,
        "settings": {
            "n_folds": tune.nested_folds,
            "n_repeats": 1,
            "n_seeds": tune.nested_seeds,
            "seed": tune.seed + 1,
        },
        "trials_of_each_study": plan_of_each.n_trials,
        "confidence": config.evaluate.confidence,
        "reference": {
            "n_runs": runs[SETTINGS].n_runs,
            "cells": levels(runs[SETTINGS], config.evaluate),
        },
        "tuned": {"n_runs": runs[TUNED].n_runs, "cells": levels(runs[TUNED], config.evaluate)},
        "effect": effect(runs[TUNED], runs[SETTINGS], config.evaluate),
        "promise": {
            name: float(np.mean([entry[name] for entry in folds]))
            for name in ("promised", "kept_by_tuned", "kept_by_settings")
        },
        "folds": folds,
    }


def _fold_entry(config: Config, one: Chosen, placed: dict[str, list[Placed]]) -> dict[str, Any]:
    """What a study promised for its choice, and what the fold gave that it never saw (means over the seeds)."""
    metric, chosen_by = config.tune.metric, one.config.vote
    here = {name: [p.fit for p in those if p.fold == one.fold.fold] for name, those in placed.items()}
    best = one.record["best"]
    held_out = one.fold.rois.part("test").table
    return {
        "fold": one.fold.fold,
        "n_rois": len(held_out),
        "study": one.record["study"]["id"],
        "n_workers": one.record["study"]["n_workers"],
        "trials": one.record["trials"],
        "saved_share": one.record["pruning"]["saved_share"],
        "system": one.system,
        "params": best["params"],
        "promised": best["value"],
        "kept_by_tuned": _kept(metric, here[TUNED], chosen_by),
        "kept_by_settings": _kept(metric, here[SETTINGS], judged_alike(metric, config.vote, chosen_by)),
    }


def judged_alike(metric: str, own: VoteConfig, chosen: VoteConfig) -> VoteConfig:
    """The votes of the settings as they are compared with a choice: of an AUC, that of the same evidence.

    A vote share has ties that a mean score has not, so its AUC is lower without being worse.
    """
    return own.model_copy(update={"rule": chosen.rule}) if metric == "auc" else own


def _kept(metric: str, fits: Sequence[Fit], vote: VoteConfig) -> float:
    return float(np.mean([held_out_value(metric, fit, vote) for fit in fits]))
