"""The defects of the paper's recipe as named settings: how each one is switched on and off.

Source: Yu et al. 2020 and its code. Two defects touch the evaluation alone; the others change what is fitted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from rich.console import Console

from mammo.core.config import Config, EvaluateConfig
from mammo.core.files import Workspace
from mammo.data.splits import Fold, has_published, published_folds
from mammo.evaluation.repeated import Runs
from mammo.models.build import Architecture
from mammo.report.studies import write_ablation
from mammo.report.terminal import show_markdown
from mammo.studies.runs import Placed
from mammo.studies.variants import (
    REFERENCE,
    FittedVariant,
    Study,
    Variant,
    effect,
    fit_variants,
    levels,
    open_study,
)

Presence = Literal["yes", "no", "in part"]


@dataclass(frozen=True)
class Defect:
    """A defect that changes the fit.

    Attributes:
        name: as people call it.
        setting: the key of `params.yaml` that switches it.
        about: what the paper does, in one sentence.
        present: whether a system has it under some settings; `in part`: mixed with something else.
        on: overrides that bring it about.
        off: overrides that mend it.
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
    return _yes_or_no(preprocessing == "samplewise_center")


def _yes_or_no(present: bool) -> Presence:
    return "yes" if present else "no"


def _without_mean_subtraction(config: Config) -> dict[str, Any]:
    return {"model.preprocessing": "fixed_scale" if config.model.weights == "none" else "imagenet"}


def _has_prior(config: Config, system: str) -> Presence:
    more = config.patches.tumor_draws > config.patches.normal_draws
    return _yes_or_no(more and not config.recipe.class_balance)


def _switch(name: str, setting: str, about: str, *, defective: bool) -> Defect:
    """A defect that is one value of a true-or-false setting, such as `patches.last_offset`."""
    section, key = setting.split(".")
    return Defect(
        name,
        setting,
        about,
        lambda config, system: _yes_or_no(getattr(getattr(config, section), key) is defective),
        lambda config: {setting: defective},
        lambda config: {setting: not defective},
    )


CLASS_PRIOR: Final = Defect(
    "class prior of the patches",
    "recipes.RECIPE.class_balance",
    "four times as many patches of each Tumor ROI, so that most patches are Tumor where most ROIs are Normal",
    _has_prior,
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
    _without_mean_subtraction,
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
    "split by ROI",
    "split.keep_groups",
    "ROIs of one patient, or of shared tissue, train and test; the folds are the same otherwise",
    defective=False,
)
FITTED: Final = (CLASS_PRIOR, LAST_OFFSET, MEAN_SUBTRACTION, BOUNDING_BOX, CORNER_PATCHES, SPLIT_BY_ROI)
"""The defects that need fits of their own."""


PUBLISHED_SPLIT: Final = "published split"
NO_FILMS: Final = "not applicable to this source: its ROIs come cut, and only films can be cut again"
NO_FOLDERS: Final = "not applicable to this source: it has no published folders"
CLOSED: Final = "not applicable: the test part stays closed under the development protocol"

Entry = dict[str, Any]


def run_ablation(space: Workspace, config: Config, n_jobs: int, console: Console) -> None:
    """Fit what is missing, and write `reports/ablate/`.

    Raises:
        MammoError: the data are missing, or a fit failed; finished fits are kept.
    """
    chosen = config.ablate
    study = open_study(space, config, chosen.system, chosen, chosen.protocol)
    applicable = [defect for defect in FITTED if reason_against(defect, config) is None]
    variants = [variant for defect in applicable for variant in toggled(defect, study)]
    published, no_published = _published(study, chosen.protocol)
    if published:
        variants.append(Variant(PUBLISHED_SPLIT, {}, published=True))
    judged = fit_variants(space, study, variants, n_jobs, console, published)
    reference = judged[REFERENCE]
    n_rows = len(applicable) + bool(published) + len(OF_MEASUREMENT)
    entries = [
        *(_fitted_entry(defect, study, judged, n_rows) for defect in FITTED),
        _published_entry(judged, no_published, config.evaluate, n_rows),
        *(entry(reference, config.evaluate, n_rows) for entry in OF_MEASUREMENT),
    ]
    summary = {
        "data": study.material.describe(),
        "system": chosen.system,
        "settings": chosen.model_dump(),
        "confidence": config.evaluate.confidence,
        "reference": {"n_runs": reference.runs.n_runs, "cells": levels(reference.runs, config.evaluate)},
        "defects": entries,
    }
    show_markdown(console, write_ablation(space, summary))


def toggled(defect: Defect, study: Study) -> list[Variant]:
    """The sides of the comparison that the reference is not: one, or both where it has the defect in part.

    So the two sides differ in this defect alone.
    """
    present = defect.present(study.config, study.system)
    on = Variant(f"{defect.name}, with it", defect.on(study.config))
    off = Variant(f"{defect.name}, without it", defect.off(study.config))
    return [*([on] if present != "yes" else []), *([off] if present != "no" else [])]


def reason_against(defect: Defect, config: Config) -> str | None:
    """Why a defect cannot be toggled on this source, or None."""
    return NO_FILMS if defect is BOUNDING_BOX and config.ingest.source == "mias_rois" else None


def _published(study: Study, protocol: str) -> tuple[list[Fold], str | None]:
    if protocol != "honest":
        return [], CLOSED
    if not has_published(study.material):
        return [], NO_FOLDERS
    return published_folds(study.material), None


def _fitted_entry(defect: Defect, study: Study, judged: dict[str, FittedVariant], n_rows: int) -> Entry:
    present = defect.present(study.config, study.system)
    entry = {"name": defect.name, "setting": defect.setting, "about": defect.about, "in_reference": present}
    reason = reason_against(defect, study.config)
    if reason is not None:
        return entry | {"effect": None, "reason": reason}
    reference = judged[REFERENCE]
    with_it, without_it = (
        judged.get(f"{defect.name}, {side}", reference).runs for side in ("with it", "without it")
    )
    found = effect(with_it, without_it, study.config.evaluate, n_rows=n_rows)
    return entry | {"effect": found, "reason": None}


def _published_entry(
    judged: dict[str, FittedVariant], reason: str | None, config: EvaluateConfig, n_rows: int
) -> Entry:
    found = None
    if reason is None:
        found = effect(judged[PUBLISHED_SPLIT].runs, judged[REFERENCE].runs, config, n_rows=n_rows)
    return {
        "name": PUBLISHED_SPLIT,
        "setting": "split.protocol",
        "about": "the authors' folders instead of folds without shared tissue; on the published test ROIs",
        "in_reference": "no",
        "effect": found,
        "reason": reason,
    }


def _hard_labels(reference: FittedVariant, config: EvaluateConfig, n_rows: int) -> Entry:
    hard = replace(reference.runs, scores=reference.runs.decisions.astype(float))
    return {
        "name": "AUC from hard labels",
        "setting": "evaluate.auc_of",
        "about": "the AUC is computed from decisions instead of scores: it is the balanced accuracy then",
        "in_reference": "no",
        "effect": effect(hard, reference.runs, config, metrics=("auc_score",), n_rows=n_rows),
        "reason": None,
    }


def _larger_probability(reference: FittedVariant, config: EvaluateConfig, n_rows: int) -> Entry:
    patches = patch_runs(reference.placed, reference.runs)
    larger = replace(patches, scores=np.maximum(patches.scores, 1 - patches.scores))
    return {
        "name": "AUC of the patches from the larger probability",
        "setting": "evaluate.patch_auc_of",
        "about": "a patch's score is the larger of its two probabilities, whichever class it is of",
        "in_reference": "no",
        "effect": effect(larger, patches, config, metrics=("auc_score",), n_rows=n_rows)
        | {"n_rois": len(reference.runs.labels)},
        "reason": None,
    }


OF_MEASUREMENT: Final = (_hard_labels, _larger_probability)
"""Defects of how the reference is measured; they need no fit of their own."""


def patch_runs(placed: Sequence[Placed], runs: Runs) -> Runs:
    """The runs at patch level: every patch of a ROI is a row with the ROI's label, group and fold."""
    n_patches = placed[0].fit.test.patch_scores.shape[1]
    row_of = {roi_id: row for row, roi_id in enumerate(runs.roi_ids)}
    places = sorted({(one.repeat, one.seed) for one in placed})
    scores = np.zeros((len(places), len(runs.roi_ids), n_patches))
    for one in placed:
        rows = [row_of[roi_id] for roi_id in one.fit.test.roi_ids]
        scores[places.index((one.repeat, one.seed)), rows] = one.fit.test.patch_scores
    flat = scores.reshape(len(places), -1)
    return Runs(
        np.array([f"{roi_id} {patch}" for roi_id in runs.roi_ids for patch in range(n_patches)], dtype=str),
        np.repeat(runs.labels, n_patches),
        np.repeat(runs.groups, n_patches),
        np.repeat(runs.folds, n_patches, axis=1),
        flat,
        flat,
        (flat > 0.5).astype(np.int64),
    )
