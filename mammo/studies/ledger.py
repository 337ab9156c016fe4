"""The ledger: every system under the published protocol and under honest ones, beside the floor and the paper.

Published: the authors' folders; all test ROIs, and those left without the ROIs that the audit flags. Honest: repeated
stratified grouped K-fold over all ROIs; a held-out fold is scored once and decides nothing. `mammo seeds` is the
ledger's published row alone, on whatever split the workspace has: the spread over training seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, Final

import numpy as np
from rich.console import Console

from mammo.core.choice import best_system
from mammo.core.config import Config, EvaluateConfig
from mammo.core.files import Workspace
from mammo.core.systems import FLOOR, title_of
from mammo.data.locate import with_films
from mammo.data.rois import Rois
from mammo.data.splits import (
    Fold,
    grouped_folds,
    has_published,
    published_folds,
    read_parts,
    rois_of_known_groups,
)
from mammo.evaluation.baselines import DOI, PAPER_RESULTS
from mammo.evaluation.comparison import auc_difference, difference
from mammo.evaluation.intervals import estimate, over_seeds, with_spread
from mammo.evaluation.metrics import TITLES
from mammo.evaluation.scores import METRICS, Scores
from mammo.evaluation.slices import slices_by_axis
from mammo.studies.runs import (
    Placed,
    chosen_by_validation,
    ensemble,
    fit_all,
    floor_runs,
    judge_fit,
    plan,
    referral_by_fold,
    referral_over_runs,
    runs_of,
)
from mammo.systems.assess import describe_data, judge, score_floor

PUBLISHED: Final = "published"
UNFLAGGED: Final = "published, without the flagged ROIs"
HONEST: Final = "honest"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of the ledger before its numbers: what it is and its runs."""

    name: str
    kind: str
    protocol: str
    runs: Scores


def run_ledger(workspace: Workspace, config: Config, n_jobs: int, console: Console) -> Entry:
    """Fit what is missing; all numbers of the ledger, ready for JSON."""
    rois = read_parts(workspace)
    folds = {HONEST: grouped_folds(rois, config.ledger)}
    if has_published(rois):
        folds = {PUBLISHED: published_folds(rois), **folds}
    n_seeds = {PUBLISHED: config.ledger.published_seeds, HONEST: config.ledger.n_seeds}
    plans = {
        (name, system): plan(system, config, folds[name], n_seeds[name], f"{system}, {name} protocol")
        for name in folds
        for system in config.systems
    }
    fits = fit_all(plans, workspace, n_jobs, console)
    rows: list[Row] = []
    for name, of_protocol in folds.items():
        systems = {system: fits[name, system] for system in config.systems}
        rows += _rows(name, systems, rois, of_protocol, n_seeds[name], config)
    chosen = chosen_by_validation(systems, config.register_.select_by)  # of the honest protocol, the last one
    (floor,) = (row.runs for row in rows if (row.protocol, row.kind) == (HONEST, "floor"))
    sliced = {"chosen on validation": runs_of(chosen, rois), FLOOR: floor}
    return tabulate(rows, rois, rois_of_known_groups(folds.get(PUBLISHED, [])), config) | {
        "referral": referral_by_fold(chosen, rois, config),
        "referral_over_runs": {
            rate: found.to_dict() for rate, found in referral_over_runs(chosen, rois, config).items()
        },
        "slices": {
            "axes": slices_by_axis(sliced, with_films(rois.table, workspace.located), **config.evaluate.resampling)
        },
    }


def _rows(
    protocol: str,
    systems: dict[str, list[Placed]],
    rois: Rois,
    folds: Sequence[Fold],
    n_seeds: int,
    config: Config,
) -> list[Row]:
    """The rows of one protocol: systems, their ensembles over the seeds, the nested choice, the floor."""
    systems = {title_of(name, config.model.weights): placed for name, placed in systems.items()}
    sets = {(name, "system"): placed for name, placed in systems.items()}
    if n_seeds > 1:
        words = f"ensemble of {n_seeds} seeds"
        sets |= {(f"{name}, {words}", "ensemble"): ensemble(placed) for name, placed in systems.items()}
    if len(systems) > 1:
        sets["chosen on validation", "chosen"] = chosen_by_validation(systems, config.register_.select_by)
    return [
        *(Row(*key, protocol, runs_of(placed, rois)) for key, placed in sets.items()),
        Row(FLOOR, "floor", protocol, runs_of(floor_runs(folds), rois)),
    ]


def tabulate(rows: Sequence[Row], rois: Rois, flagged: Sequence[str], config: Config) -> Entry:
    """Rows, differences and gaps with their intervals, ready for JSON."""
    published = [row for row in rows if row.protocol == PUBLISHED]
    unflagged = [
        replace(row, protocol=UNFLAGGED, runs=row.runs.only(np.setdiff1d(row.runs.roi_ids, list(flagged))))
        for row in published
    ]
    honest = [row for row in rows if row.protocol == HONEST]
    data, evaluate = rois.describe(), config.evaluate

    def minus(row: Row, other: Row) -> Entry:
        """Each metric minus the other row's, paired on the ROIs in common."""
        return {
            metric: difference(row.runs, other.runs, metric, **evaluate.resampling).to_dict()
            for metric in _metrics(row, other)
        }

    def against(row: Row, other: Row, name: str) -> Entry:
        return {"protocol": row.protocol, "name": name, "kind": row.kind, "cells": minus(row, other)}

    minus_floor, between_systems = [], []
    for of_protocol in (published, unflagged, honest):
        floors = [row for row in of_protocol if row.kind == "floor"]
        others = [row for row in of_protocol if row.kind != "floor"]
        systems = [row for row in others if row.kind == "system"]
        minus_floor += [against(row, floor, row.name) for floor in floors for row in others]
        between_systems += [against(a, b, f"{a.name} minus {b.name}") for a, b in combinations(systems, 2)]
    gaps = [
        {
            "name": row.name,
            "kind": row.kind,
            "n_published": len(row.runs.labels),
            "n_honest": len(other.runs.labels),
            "cells": minus(row, other),
            "same_rois": minus(row, replace(other, runs=other.runs.only(row.runs.roi_ids))),
        }
        for row in published
        for other in honest
        if row.name == other.name  # an ensemble has a partner only if it is of as many seeds
    ]
    paper = _paper_rows(evaluate) if data["source"] == "mias_rois" else []
    return {
        "data": data,
        "settings": config.ledger.model_dump(),
        "systems": config.systems,
        "confidence": evaluate.confidence,
        "n_bootstrap": evaluate.n_bootstrap,
        "flagged_rois": list(flagged),
        "rows": [_numbers(row, evaluate) for row in (*published, *unflagged, *honest)] + paper,
        "minus_floor": minus_floor,
        "between_systems": between_systems,
        "paper_doi": DOI,
        "gaps": gaps,
    }


def _numbers(row: Row, config: EvaluateConfig) -> Entry:
    runs = row.runs
    return {
        "protocol": row.protocol,
        "name": row.name,
        "kind": row.kind,
        "n_rois": len(runs.labels),
        "n_tumor": int(runs.labels.sum()),
        "n_groups": len(np.unique(runs.groups)),
        "n_runs": runs.n_runs,
        "cells": {metric: estimate(runs, metric, **config.resampling).to_dict() for metric in _metrics(row)},
    }


def _metrics(*rows: Row) -> list[str]:
    """What all these rows have. The floor votes once: its vote share is its decision, without an AUC of its own."""
    floor = any(row.kind == "floor" for row in rows)
    return [metric for metric in METRICS if not (floor and metric == "auc_vote_share")]


def _paper_rows(config: EvaluateConfig) -> list[Entry]:
    """The paper's systems as reported: one run, so Wilson intervals of its counts are all that can be said."""
    return [
        {
            "protocol": PUBLISHED,
            "name": f"paper: {result.system} (as reported)",
            "kind": "paper",
            "n_rois": counts.n,
            "n_tumor": counts.tp + counts.fn,
            "n_groups": None,
            "n_runs": 1,
            "cells": {
                name: with_spread(found, np.empty(0), 1).to_dict()
                for name, found in result.estimates(config.confidence).items()
            },
        }
        for result in PAPER_RESULTS
        if (counts := result.confusion) is not None
    ]


def run_seeds(workspace: Workspace, config: Config, n_seeds: int, n_jobs: int, console: Console) -> Entry:
    """Train every system with seeds 0 to `n_seeds` − 1 on the workspace's split; mean and spread, ready for JSON.

    Beside each system's mean, standard deviation and t interval over the seeds stand its ensemble and the floor, with
    intervals over the ROIs. The choice is made by the mean validation result.
    """
    rois = read_parts(workspace)
    fold = Fold(0, 0, rois)
    plans = {system: plan(system, config, [fold], n_seeds) for system in config.systems}
    fits = fit_all(plans, workspace, n_jobs, console)
    train, test = (rois.part(name) for name in ("train", "test"))
    floor, evaluate = score_floor(train, test), config.evaluate
    over = partial(over_seeds, confidence=evaluate.confidence)

    def judged(placed: Placed) -> Entry:
        scores = judge_fit(placed, rois)
        margin = auc_difference(scores, floor, **evaluate.resampling).to_dict()
        return judge(scores, evaluate) | {"minus_floor_auc": margin}

    def system_entry(placed: list[Placed]) -> Entry:
        seeds = []
        for one in placed:
            found, validation = judged(one), one.fit.validation
            entry: Entry = {name: validation[name] for name in ("val_loss", "val_auc")}
            if "epoch" in validation:  # an ensemble has none
                entry["best_epoch"] = int(validation["epoch"])
            entry["test"] = {name: cell["value"] for name, cell in found["roi"].items()}
            entry |= {"confusion": found["confusion"], "minus_floor_auc": found["minus_floor_auc"]["value"]}
            seeds.append(entry)
        (mean,) = ensemble(placed)
        return {
            "validation": mean.fit.validation,
            "test": {name: over([seed["test"].get(name) for seed in seeds]) for name in TITLES},
            "minus_floor_auc": over([seed["minus_floor_auc"] for seed in seeds]),
            "ensemble": judged(mean),
            "seeds": seeds,
        }

    by = config.register_.select_by
    systems = {system: system_entry(of_system) for system, of_system in fits.items()}
    return {
        "data": describe_data(config, test, config.model.weights),
        "n_seeds": n_seeds,
        "confidence": evaluate.confidence,
        "selected": best_system({name: entry["validation"] for name, entry in systems.items()}, by),
        "selected_by": f"mean {by} over the seeds",
        "systems": systems,
        "floor": judge(floor, evaluate),
    }
