"""The defects of the paper's recipe as named settings: how each one is switched on and off, and what it does.

Source: Yu et al. 2020 and its code. Two defects touch the evaluation alone; the others change what is fitted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from rich.console import Console

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.data.locate import can_be_cut_again
from mammo.data.splits import development_rois, has_published, published_folds, read_parts
from mammo.evaluation.scores import Scores
from mammo.models.build import Architecture
from mammo.studies.variants import REFERENCE, Study, Variant, effect, fit_variants, levels

Presence = Literal["yes", "no", "in part"]


@dataclass(frozen=True)
class Defect:
    """A defect that changes the fit: its name, the key of `params.yaml` that switches it, what the paper does.

    Attributes:
        present: whether a system has it under some settings; `in part`: mixed with something else.
        on: overrides that bring it about; `off` those that mend it.
    """

    name: str
    setting: str
    about: str
    present: Callable[[Config, str], Presence]
    on: Callable[[Config], dict[str, Any]]
    off: Callable[[Config], dict[str, Any]]


def _subtracts_mean(config: Config, system: str) -> Presence:
    """Standardised patches have lost their brightness, but their contrast too."""
    preprocessing = Architecture.of(system, config.model).preprocessing
    if preprocessing == "samplewise_standardize":
        return "in part"
    return "yes" if preprocessing == "samplewise_center" else "no"


def _switch(name: str, setting: str, about: str, *, defective: bool) -> Defect:
    """A defect that is one value of a true-or-false setting, such as `patches.last_offset`."""
    section, key = setting.split(".")
    return Defect(
        name,
        setting,
        about,
        lambda config, _: "yes" if getattr(getattr(config, section), key) is defective else "no",
        lambda _: {setting: defective},
        lambda _: {setting: not defective},
    )


CLASS_PRIOR: Final = Defect(
    "class prior of the patches",
    "recipes.RECIPE.class_balance",
    "four times as many patches of each Tumor ROI, so that most patches are Tumor where most ROIs are Normal",
    lambda config, _: (
        "yes" if config.patches.tumor_draws > config.patches.normal_draws and not config.recipe.class_balance else "no"
    ),
    lambda config: {"recipe.class_balance": False, "patches.tumor_draws": 4 * config.patches.normal_draws},
    lambda config: {"recipe.class_balance": True},
)
LAST_OFFSET: Final = _switch(
    "last offset",
    "patches.last_offset",
    "random patches never reach the last row and column",
    defective=False,
)
MEAN_SUBTRACTION: Final = Defect(
    "mean subtraction",
    "model.preprocessing",
    "the mean of each patch is subtracted, and with it the brightness that tells many lesions (the contrast is kept on "
    "both sides; the grey levels stay unscaled with it, as in the paper, which BatchNorm takes back out)",
    _subtracts_mean,
    lambda config: {"model.preprocessing": "samplewise_center"},
    lambda config: {"model.preprocessing": "fixed_scale" if config.model.weights == "none" else "imagenet"},
)
BOUNDING_BOX: Final = _switch(
    "distortion by the bounding box",
    "ingest.bounding_box",
    "a ROI is cropped to its foreground's bounding box and stretched back, which changes its shapes",
    defective=True,
)
CORNER_PATCHES: Final = _switch(
    "corner patches",
    "patches.corner_patches",
    "patches of a Tumor ROI are labelled and vote Tumor even where they miss the lesion",
    defective=True,
)
SPLIT_BY_ROI: Final = _switch(
    "split by ROI instead of by patient",
    "split.keep_groups",
    "ROIs of one patient, or of shared tissue, train and test; the folds are the same otherwise",
    defective=False,
)
FITTED: Final = (CLASS_PRIOR, LAST_OFFSET, MEAN_SUBTRACTION, BOUNDING_BOX, CORNER_PATCHES, SPLIT_BY_ROI)
"""The defects that need fits of their own."""

PUBLISHED_SPLIT: Final = "published split"
NO_FILMS: Final = "not applicable: only films can be cut again, and the films of these ROIs are not at hand"
NO_FOLDERS: Final = "not applicable to this source: it has no published folders"
CLOSED: Final = "not applicable: the test part stays closed under the development protocol"

Entry = dict[str, Any]


def run_ablation(workspace: Workspace, config: Config, n_jobs: int, console: Console) -> Entry:
    """Fit what is missing; the effect of each defect, ready for JSON; finished fits are kept."""
    chosen, evaluate = config.ablate, config.evaluate
    rois = read_parts(workspace) if chosen.protocol == "honest" else development_rois(workspace)
    study = Study(chosen.system, config, rois, chosen)
    reasons = {}
    if config.ingest.source == "mias_rois" and not can_be_cut_again(study.rois.table, workspace):
        reasons[BOUNDING_BOX.name] = NO_FILMS
    if chosen.protocol != "honest":
        reasons[PUBLISHED_SPLIT] = CLOSED
    elif not has_published(study.rois):
        reasons[PUBLISHED_SPLIT] = NO_FOLDERS
    possible = [defect for defect in FITTED if defect.name not in reasons]
    variants = [variant for defect in possible for variant in toggled(defect, study)]
    if PUBLISHED_SPLIT not in reasons:
        variants.append(Variant(PUBLISHED_SPLIT, {}, published_folds(study.rois)))
    runs = fit_variants(workspace, study, variants, n_jobs, console)
    reference = runs[REFERENCE]
    n_rows = len(FITTED) + 1 - len(reasons) + 2  # the published split, and the two defects of measurement
    entries: list[Entry] = []

    def add(name: str, setting: str, about: str, present: Presence, a: Scores, b: Scores, **how: Any) -> None:
        """One defect, of which `a` are the runs with it and `b` those without it."""
        found = None if name in reasons else effect(a, b, evaluate, n_rows=n_rows, **how)
        defect = {"name": name, "setting": setting, "about": about, "in_reference": present}
        entries.append(defect | {"effect": found, "reason": reasons.get(name)})

    for defect in FITTED:
        present = defect.present(config, study.system)
        sides = (runs.get(f"{defect.name}, {side} it", reference) for side in ("with", "without"))
        add(defect.name, defect.setting, defect.about, present, *sides)
    folders = "the authors' folders instead of folds without shared tissue; on the published test ROIs"
    of_folders = runs.get(PUBLISHED_SPLIT, reference)
    add(PUBLISHED_SPLIT, "split.protocol", folders, "no", of_folders, reference)
    add(
        "AUC from hard labels",
        "evaluate.auc_of",
        "the AUC is computed from decisions instead of scores: it is the balanced accuracy then",
        "no",
        reference.with_scores(reference.decisions.astype(float)),
        reference,
        metrics=("auc_score",),
    )
    patches = reference.by_patch(config.vote.patch_threshold)
    add(
        "AUC of the patches from the larger probability",
        "evaluate.patch_auc_of",
        "a patch's score is the larger of its two probabilities, whichever class it is of",
        "no",
        patches.with_scores(np.maximum(patches.scores, 1 - patches.scores)),
        patches,
        metrics=("auc_score",),
    )
    entries[-1]["effect"]["n_rois"] = len(reference.labels)
    return {
        "data": study.rois.describe(),
        "system": chosen.system,
        "settings": chosen.model_dump(),
        "confidence": evaluate.confidence,
        "reference": {"n_runs": reference.n_runs, "cells": levels(reference, evaluate)},
        "defects": entries,
    }


def toggled(defect: Defect, study: Study) -> list[Variant]:
    """The sides of the comparison that the reference is not: one, or both where it has the defect in part.

    So the two sides differ in this defect alone.
    """
    present = defect.present(study.config, study.system)
    on = Variant(f"{defect.name}, with it", defect.on(study.config))
    off = Variant(f"{defect.name}, without it", defect.off(study.config))
    return [*([on] if present != "yes" else []), *([off] if present != "no" else [])]
