"""The spread over training seeds: no single run is a result."""

from typing import Any

import numpy as np
from rich.console import Console

from mammo.core.config import Config
from mammo.core.files import Workspace, read_table
from mammo.data.splits import Fold, read_material
from mammo.evaluation.intervals import over_seeds
from mammo.evaluation.metrics import TITLES
from mammo.report.studies import write_seeds
from mammo.report.terminal import show_markdown
from mammo.studies.fits import Fit
from mammo.studies.runs import Placed, decide, ensemble, fit_all, plan
from mammo.systems.assess import auc_difference, describe_data, judge, score_floor
from mammo.systems.train import Part, Scored, best_system, select_part

Outcome = dict[str, Any]


def run_seeds(space: Workspace, config: Config, n_seeds: int, n_jobs: int, console: Console) -> None:
    """Train every system with seeds 0 to `n_seeds` − 1, test each and their ensemble, report mean and spread.

    Every finished fit is kept and an unfinished one goes on from its last epoch, so the same command goes on where
    it stopped.

    Raises:
        MammoError: the data are missing, or a fit failed; finished fits are kept.
    """
    material, split = read_material(space), read_table(space.split)
    rois, fold = material.rois, Fold(0, 0, split)
    plans = {system: plan(system, config, material, [fold], n_seeds) for system in config.systems}
    fits = fit_all(plans, space.fits, n_jobs, console)
    parts = {name: select_part(rois.table, rois.images, split, name) for name in ("train", "test")}
    summary = summarise_seeds(config, parts["train"], parts["test"], fits)
    show_markdown(console, write_seeds(space, summary))


def summarise_seeds(config: Config, train: Part, test: Part, fits: dict[str, list[Fit]]) -> dict[str, Any]:
    """Mean, standard deviation and t interval of each metric over the seeds, the ensembles, and the choice.

    Args:
        config: all settings.
        train: what the floor is fitted on.
        test: the ROIs that the fits were tested on.
        fits: the fits of each system, one a seed.
    """
    floor, confidence = score_floor(train, test), config.evaluate.confidence
    outcomes = {
        system: [one_outcome(system, fit, test, floor, config) for fit in of_system]
        for system, of_system in fits.items()
    }
    mean_validation = {
        system: {
            key: float(np.mean([fit.validation[key] for fit in of_system])) for key in ("val_loss", "val_auc")
        }
        for system, of_system in fits.items()
    }
    return {
        "data": describe_data(config, test),
        "n_seeds": len(next(iter(fits.values()))),
        "confidence": confidence,
        "selected": best_system(mean_validation, config.register_.select_by),
        "selected_by": f"mean {config.register_.select_by} over the seeds",
        "systems": {
            system: {
                "validation": mean_validation[system],
                "test": {name: _over([run["test"].get(name) for run in runs], confidence) for name in TITLES},
                "minus_floor_auc": _over([run["minus_floor_auc"] for run in runs], confidence),
                "ensemble": _ensemble(system, fits[system], test, floor, config),
                "seeds": runs,
            }
            for system, runs in outcomes.items()
        },
        "floor": judge(floor, config.evaluate),
    }


def one_outcome(system: str, fit: Fit, test: Part, floor: Scored, config: Config) -> Outcome:
    """What one seed gave on validation and test."""
    scored = scored_by(system, fit, test, config)
    judged = judge(scored, config.evaluate)
    return {
        "best_epoch": int(fit.validation["epoch"]),
        "val_loss": fit.validation["val_loss"],
        "val_auc": fit.validation["val_auc"],
        "test": {name: estimate["value"] for name, estimate in judged["roi"].items()},
        "confusion": judged["confusion"],
        "minus_floor_auc": auc_difference(scored, floor, config.evaluate).to_dict()["value"],
    }


def _ensemble(system: str, fits: list[Fit], test: Part, floor: Scored, config: Config) -> Outcome:
    """The seeds of one system as one: mean patch scores, then votes; intervals over the ROIs."""
    (mean,) = ensemble([Placed(0, 0, seed, fit) for seed, fit in enumerate(fits)])
    scored = scored_by(f"{system}, ensemble of {len(fits)} seeds", mean.fit, test, config)
    return judge(scored, config.evaluate) | {
        "minus_floor_auc": auc_difference(scored, floor, config.evaluate).to_dict()
    }


def scored_by(system: str, fit: Fit, test: Part, config: Config) -> Scored:
    """A fit's judgement of the test part under the settings' vote rule."""
    votes, decided = decide(fit, config.vote)
    return Scored(system, test.labels, test.groups, fit.test.patch_scores, votes, decided)


def _over(values: list[float | None], confidence: float) -> dict[str, Any]:
    defined = [float("nan") if value is None else float(value) for value in values]
    return over_seeds(defined, confidence).to_dict()
