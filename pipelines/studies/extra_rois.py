"""Do further ROIs from the training films help? Run by hand: `python pipelines/studies/extra_rois.py`.

Needs a workspace where `dvc repro` ran on the archive with the films beside it, so that every ROI's patient is known.
Fits each honest fold of the ledger again with ROIs that the exact extraction cuts from the films of its training
patients, and judges all on the same held-out ROIs: `reports/films/extra_rois.md` and `.json`. Fits are kept.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import DataError, guarded
from mammo.core.files import Workspace
from mammo.core.records import Label
from mammo.data.decode import GreyImage
from mammo.data.extraction import extract_roi, preprocess_film
from mammo.data.film_rois import draw_normal_centre
from mammo.data.films import Annotation, film_number, open_films, patient_of, read_annotations, read_films
from mammo.data.rois import Rois, make_roi_set
from mammo.data.splits import Fold, grouped_folds, read_parts
from mammo.report.studies import write_study
from mammo.studies.fits import default_jobs
from mammo.studies.runs import fit_all, floor_runs, plan, runs_of
from mammo.studies.variants import effect, levels

SYSTEM: Final = "compact-model2"
N_EACH: Final = 6
SHIFT_PX: Final = 12
"""Farthest shift along each axis: a lesion's centre stays inside every 72-pixel patch of its ROI."""
ADDED: Final[dict[str, list[Label]]] = {
    "with more Normal ROIs": [Label.NORMAL],
    "with shifted lesions": [Label.TUMOR],
    "with both": [Label.NORMAL, Label.TUMOR],
}
METRICS: Final = ("auc_score", "accuracy", "recall", "specificity", "precision")


def cut_extra(films: Path, bounding_box: bool = True) -> Rois:
    """Six further ROIs of each film without lesion, six shifted crops of each lesion; films and patients are known.

    Raises:
        DataError: the films are missing, incomplete or damaged.
    """
    rows: list[dict[str, Any]] = []
    images: list[GreyImage] = []
    with open_films(films) as store:
        sites = read_annotations(store)
        for film_id, film in read_films(store, store.films):
            preprocessed, known = preprocess_film(film), {"source": "mini_mias", "synthetic": store.synthetic}
            for number, site in enumerate(site for site in sites if site.film_id == film_id):
                label = Label.NORMAL if site.abnormality == "NORM" else Label.TUMOR
                for extra, (x_px, y_px) in enumerate(_places(film, site, number)):
                    own = {"roi_id": f"{film_id}/extra {number}.{extra}", "patient_id": patient_of(film_id)}
                    rows.append({**vars(site), **known, **own, "label": label, "x_px": x_px, "y_px": y_px})
                    images.append(extract_roi(preprocessed, x_px, y_px, bounding_box))
    return make_roi_set(rows, images)


def _places(film: GreyImage, site: Annotation, number: int) -> list[tuple[int, int]]:
    """Where to cut: as a film's Normal ROI is drawn, at further seeds, or around the lesion."""
    if site.abnormality == "NORM":
        drawn = (draw_normal_centre(film, film_number(site.film_id), seed) for seed in range(1, N_EACH + 1))
        return [place for place in drawn if place is not None]
    if site.x_px is None or site.y_px is None:
        return []
    rng = np.random.default_rng([film_number(site.film_id), number])
    shifts = rng.integers(-SHIFT_PX, SHIFT_PX, size=(N_EACH, 2), endpoint=True).tolist()
    return [(site.x_px + across, site.y_px + down) for across, down in shifts]


def with_extra(fold: Fold, extra: Rois) -> Fold:
    """The fold with those of the extra ROIs in its training part whose patients are in no other part."""
    table = fold.rois.table
    trains = table["split"] == "train"
    patients = set(table.loc[trains, "patient_id"]) - set(table.loc[~trains, "patient_id"])
    own = extra.only(extra.table["patient_id"].isin(patients).to_numpy(dtype=bool))
    added = own.table.assign(group_id=own.table["patient_id"], split="train")[list(table.columns)]
    images = np.concatenate([fold.rois.images, own.images])
    return replace(fold, rois=Rois(pd.concat([table, added], ignore_index=True), images))


def main() -> None:
    """Run the study in the current folder."""
    workspace = Workspace()
    config, rois = Config.load(workspace.params), read_parts(workspace)
    if rois.n_patients is None:
        raise DataError(f"{workspace.split}: must know every patient; put films into {workspace.films}, repeat")
    as_is, extra = grouped_folds(rois, config.ledger), cut_extra(workspace.films, config.ingest.bounding_box)
    folds = {"as it is": as_is}
    for name, labels in ADDED.items():
        folds[name] = [with_extra(fold, extra.only(np.isin(extra.labels, labels))) for fold in as_is]
    plans = {name: plan(SYSTEM, config, of, config.ledger.n_seeds, name) for name, of in folds.items()}
    placed = fit_all(plans, workspace, default_jobs(config), Console())
    runs, evaluate = {name: runs_of(of, rois) for name, of in placed.items()}, config.evaluate
    floor = runs_of(floor_runs(as_is), rois)
    n_rois = {name: np.mean([len(fold.rois.labels) for fold in of]) for name, of in folds.items()}
    summary = {
        "data": rois.describe(),
        "system": SYSTEM,
        "settings": config.ledger.model_dump(),
        "n_each": N_EACH,
        "shift_px": SHIFT_PX,
        "confidence": evaluate.confidence,
        "rows": [
            {
                "name": name,
                "n_added": round(n_rois[name] - len(rois.labels)),
                "cells": levels(of, evaluate),
                "effect": effect(of, runs["as it is"], evaluate, metrics=METRICS, n_rows=len(runs) - 1),
                "minus_floor": effect(of, floor, evaluate, metrics=METRICS, n_rows=len(runs)),
            }
            for name, of in runs.items()
        ],
    }
    write_study(workspace, "films", summary)


if __name__ == "__main__":
    guarded(main)
