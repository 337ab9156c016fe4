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
from mammo.studies.fits import default_jobs
from mammo.studies.runs import Placed, fit_all, plan, runs_of
from mammo.studies.variants import effect, levels
from mammo.tuning.objective import held_out_value, nested_folds
from mammo.tuning.space import chosen_settings, without_fold
from mammo.tuning.workers import Plan, run_tuning, to_do

TUNED, SETTINGS = "tuned", "settings"


@dataclass(frozen=True)
class Chosen:
    """What the study that did not see `fold` chose: its record, and what its best trial means."""

    fold: Fold
    record: dict[str, Any]
    system: str
    config: Config


def run_nested(workspace: Workspace, config: Config, plan_of_each: Plan, console: Console) -> dict[str, Any]:
    """Run or continue the studies, fit each one's choice and the settings (as many at a time as workers), compare them.

    Returns:
        The summary, for `reports/tune/nested.json`.
    """
    rois = development_rois(workspace)
    console.print(studies_to_do(workspace, config, plan_of_each), highlight=False, soft_wrap=True)
    chosen: list[Chosen] = []
    for fold in nested_folds(rois, config.tune):
        title = f"fold {fold.fold + 1} of {config.tune.nested_folds}: a study of the other ROIs"
        console.print(title, highlight=False)
        record = run_tuning(workspace, without_fold(config, fold.fold), plan_of_each, console)
        chosen.append(Chosen(fold, record, *chosen_settings(config, record["best"]["params"])))
    placed = _fit(workspace, config, chosen, plan_of_each.n_workers or default_jobs(config), console)
    return _summary(config, rois, chosen, placed, plan_of_each.n_trials)


def studies_to_do(workspace: Workspace, config: Config, plan_of_each: Plan) -> str:
    """What `run_nested` has to do, for people; no study is made or changed."""
    n_folds = config.tune.nested_folds
    studies = [without_fold(config, fold) for fold in range(n_folds)]
    trials = to_do(workspace, studies, plan_of_each)
    n_fits = 2 * n_folds * config.tune.nested_seeds
    return f"{n_folds} studies: {trials}; then up to {n_fits} fits of what they chose and of params.yaml's settings"


def _fit(
    workspace: Workspace, config: Config, chosen: Sequence[Chosen], n_jobs: int, console: Console
) -> dict[str, list[Placed]]:
    """The settings and each study's choice at the full budget of their recipe, on the same folds and seeds."""
    n_seeds, folds = config.tune.nested_seeds, [one.fold for one in chosen]
    settings = plan(config.tune.system, config, folds, n_seeds, "settings of params.yaml")
    tuned = []
    for one in chosen:
        title = f"choice without fold {one.fold.fold}: {one.system}"
        tuned += plan(one.system, one.config, [one.fold], n_seeds, title)
    return fit_all({SETTINGS: settings, TUNED: tuned}, workspace, n_jobs, console)


def _summary(
    config: Config, rois: Rois, chosen: Sequence[Chosen], placed: dict[str, list[Placed]], n_trials: int
) -> dict[str, Any]:
    tune, evaluate = config.tune, config.evaluate
    runs = {name: runs_of(those, rois) for name, those in placed.items()}
    sides = {name: {"n_runs": those.n_runs, "cells": levels(those, evaluate)} for name, those in runs.items()}
    folds = [_fold_entry(config, one, placed) for one in chosen]
    grid = {"n_folds": tune.nested_folds, "n_repeats": 1, "n_seeds": tune.nested_seeds, "seed": tune.seed + 1}
    names = ("promised", "kept_by_tuned", "kept_by_settings")
    return {
        "question": "Are tuned settings better than those of params.yaml on ROIs that their study never saw?",
        "data": rois.describe(),
        "system": tune.system,
        "metric": tune.metric,
        "settings": grid,
        "trials_of_each_study": n_trials,
        "confidence": evaluate.confidence,
        "reference": sides[SETTINGS],
        "tuned": sides[TUNED],
        "effect": effect(runs[TUNED], runs[SETTINGS], evaluate),
        "promise": {name: float(np.mean([entry[name] for entry in folds])) for name in names},
        "folds": folds,
    }


def _fold_entry(config: Config, one: Chosen, placed: dict[str, list[Placed]]) -> dict[str, Any]:
    """What a study promised for its choice, and what the fold gave that it never saw (means over the seeds)."""
    metric, vote, record = config.tune.metric, one.config.vote, one.record

    def kept(name: str, vote: VoteConfig) -> float:
        here = [each.fit for each in placed[name] if each.fold == one.fold.fold]
        return float(np.mean([held_out_value(metric, fit, vote) for fit in here]))

    return {
        "fold": one.fold.fold,
        "n_rois": len(one.fold.rois.part("test").labels),
        "study": record["study"]["id"],
        "n_workers": record["study"]["n_workers"],
        "trials": record["trials"],
        "saved_share": record["pruning"]["saved_share"],
        "system": one.system,
        "params": record["best"]["params"],
        "promised": record["best"]["value"],
        "kept_by_tuned": kept(TUNED, vote),
        "kept_by_settings": kept(SETTINGS, judged_alike(metric, config.vote, vote)),
    }


def judged_alike(metric: str, own: VoteConfig, chosen: VoteConfig) -> VoteConfig:
    """The votes of the settings as they are compared with a choice: of an AUC, that of the same evidence.

    A vote share has ties that a mean score has not, so its AUC is lower without being worse.
    """
    return own.model_copy(update={"rule": chosen.rule}) if metric == "auc" else own
