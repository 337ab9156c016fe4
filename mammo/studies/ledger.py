"""The ledger: every system under the published protocol and under honest ones, beside the floor and the paper.

Published: the authors' folders; all test ROIs, and those left without the ROIs that the audit flags. Honest: repeated
stratified grouped K-fold over all ROIs; a held-out fold is scored once and decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from rich.console import Console

from mammo.core.config import Config, EvaluateConfig, VoteConfig
from mammo.core.files import Workspace
from mammo.data.splits import (
    Fold,
    Material,
    grouped_folds,
    has_published,
    published_folds,
    read_material,
    rois_of_known_groups,
)
from mammo.evaluation.baselines import DOI, PAPER_RESULTS
from mammo.evaluation.repeated import METRICS, Runs, difference, estimate
from mammo.report.ledger import write_ledger
from mammo.report.terminal import show_markdown
from mammo.studies.referral import referral_by_fold, referral_over_runs
from mammo.studies.runs import (
    Placed,
    chosen_by_validation,
    ensemble,
    fit_all,
    floor_runs,
    place,
    plan,
    runs_of,
)

PUBLISHED: Final = "published"
UNFLAGGED: Final = "published, without the flagged ROIs"
HONEST: Final = "honest"
CHOSEN: Final = "chosen on validation"
FLOOR: Final = "floor"
FLOOR_VOTE: Final = VoteConfig(rule="mean_score", threshold="fixed")

Entry = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of the ledger before its numbers: what it is and its runs."""

    name: str
    kind: str
    protocol: str
    runs: Runs


def run_ledger(space: Workspace, config: Config, n_jobs: int, console: Console) -> None:
    """Fit what is missing, and write `reports/ledger/`.

    Raises:
        MammoError: the data are missing, or a fit failed; finished fits are kept.
    """
    material = read_material(space)
    folds = {HONEST: grouped_folds(material, config.ledger)}
    if has_published(material):
        folds = {PUBLISHED: published_folds(material), **folds}
    placed = fit_systems(space, config, material, folds, n_jobs, console)
    rows = [
        row
        for protocol in folds
        for row in protocol_rows(protocol, placed[protocol], material, folds[protocol], config)
    ]
    flagged = rois_of_known_groups(folds.get(PUBLISHED, []))
    chosen = chosen_by_validation(placed[HONEST], config.register_.select_by)
    referral = referral_by_fold(chosen, config)
    over_runs = referral_over_runs(chosen, material, config)
    ledger = tabulate(rows, material, flagged, config) | {
        "referral": [fold.to_dict() for fold in referral],
        "referral_over_runs": {rate: found.to_dict() for rate, found in over_runs.items()},
    }
    show_markdown(console, write_ledger(space, ledger))


def fit_systems(
    space: Workspace,
    config: Config,
    material: Material,
    folds: dict[str, list[Fold]],
    n_jobs: int,
    console: Console,
) -> dict[str, dict[str, list[Placed]]]:
    """Protocol → system → its fits."""
    places = [(protocol, system) for protocol in folds for system in config.systems]
    plans = {
        f"{protocol} {system}": plan(
            system,
            config,
            material,
            folds[protocol],
            seeds_of(protocol, config),
            f"{system}, {protocol} protocol",
        )
        for protocol, system in places
    }
    fits = fit_all(plans, space.fits, n_jobs, console)
    placed: dict[str, dict[str, list[Placed]]] = {protocol: {} for protocol in folds}
    for protocol, system in places:
        placed[protocol][system] = place(
            fits[f"{protocol} {system}"], folds[protocol], seeds_of(protocol, config)
        )
    return placed


def seeds_of(protocol: str, config: Config) -> int:
    """How many training seeds a protocol has on each of its folds."""
    return config.ledger.published_seeds if protocol == PUBLISHED else config.ledger.n_seeds


def protocol_rows(
    protocol: str, systems: dict[str, list[Placed]], material: Material, folds: Sequence[Fold], config: Config
) -> list[Row]:
    """The rows of one protocol: systems, their ensembles over the seeds, the nested choice, the floor."""
    sets = {(name, "system"): placed for name, placed in systems.items()}
    n_seeds = seeds_of(protocol, config)
    if n_seeds > 1:
        sets |= {
            (f"{name}, ensemble of {n_seeds} seeds", "ensemble"): ensemble(placed)
            for name, placed in systems.items()
        }
    if len(systems) > 1:
        sets[CHOSEN, "chosen"] = chosen_by_validation(systems, config.register_.select_by)
    rows = [
        Row(name, kind, protocol, runs_of(placed, material, config.vote))
        for (name, kind), placed in sets.items()
    ]
    return [*rows, Row(FLOOR, "floor", protocol, runs_of(floor_runs(material, folds), material, FLOOR_VOTE))]


def tabulate(rows: Sequence[Row], material: Material, flagged: Sequence[str], config: Config) -> Entry:
    """All numbers of the ledger, ready for JSON."""
    published = [row for row in rows if row.protocol == PUBLISHED]
    unflagged = [
        Row(row.name, row.kind, UNFLAGGED, row.runs.only(np.setdiff1d(row.runs.roi_ids, list(flagged))))
        for row in published
    ]
    honest = [row for row in rows if row.protocol == HONEST]
    data = material.describe()
    protocols = (published, unflagged, honest)
    return {
        "data": data,
        "settings": config.ledger.model_dump(),
        "systems": config.systems,
        "confidence": config.evaluate.confidence,
        "n_bootstrap": config.evaluate.n_bootstrap,
        "flagged_rois": list(flagged),
        "rows": [_numbers(row, config.evaluate) for row in [*published, *unflagged, *honest]]
        + (_paper_rows(config.evaluate) if data["source"] == "mias_rois" else []),
        "minus_floor": [
            _minus(row, floor, row.name, config.evaluate)
            for of_protocol in protocols
            for floor in of_protocol
            for row in of_protocol
            if floor.kind == "floor" and row.kind != "floor"
        ],
        "between_systems": [
            _minus(row, other, f"{row.name} minus {other.name}", config.evaluate)
            for of_protocol in protocols
            for row, other in combinations([row for row in of_protocol if row.kind == "system"], 2)
        ],
        "paper_doi": DOI,
        "gaps": [
            _gap(row, other, config.evaluate)
            for row in published
            for other in honest
            if row.name == other.name  # an ensemble has a partner only if it is of as many seeds
        ],
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


def _minus(row: Row, other: Row, name: str, config: EvaluateConfig) -> Entry:
    """Each metric minus the other row's, paired on the same ROIs."""
    cells = {
        metric: difference(row.runs, other.runs, metric, **config.resampling).to_dict()
        for metric in _metrics(row, other)
    }
    return {"protocol": row.protocol, "name": name, "kind": row.kind, "cells": cells}


def _paper_rows(config: EvaluateConfig) -> list[Entry]:
    """The paper's systems as reported: one run, so Wilson intervals of its counts are all that can be said."""
    rows = []
    for result in PAPER_RESULTS:
        counts = result.confusion
        if counts is None:
            continue
        cells = {
            name: found.to_dict() | {"sd_runs": None, "n_runs": 1}
            for name, found in result.estimates(config.confidence).items()
        }
        rows.append(
            {
                "protocol": PUBLISHED,
                "name": f"paper: {result.system} (as reported)",
                "kind": "paper",
                "n_rois": counts.n,
                "n_tumor": counts.tp + counts.fn,
                "n_groups": None,
                "n_runs": 1,
                "cells": cells,
            }
        )
    return rows


def _gap(published: Row, honest: Row, config: EvaluateConfig) -> Entry:
    """Published minus honest: as the two protocols report it, and on the published test ROIs alone."""
    same = honest.runs.only(published.runs.roi_ids)

    def gaps(other: Runs) -> Entry:
        return {
            metric: difference(published.runs, other, metric, **config.resampling).to_dict()
            for metric in _metrics(published)
        }

    return {
        "name": published.name,
        "kind": published.kind,
        "n_published": len(published.runs.labels),
        "n_honest": len(honest.runs.labels),
        "cells": gaps(honest.runs),
        "same_rois": gaps(same),
    }
