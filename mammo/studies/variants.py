"""Named variants of the settings against the settings as they are: paired on the same ROIs, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import pandas as pd
from pydantic import Field
from rich.console import Console

from mammo.core.config import Config, EvaluateConfig, Resampling
from mammo.core.errors import ConfigError, DataError
from mammo.core.files import Workspace
from mammo.core.settings import Section, explained, read_yaml
from mammo.core.tune_config import GridConfig
from mammo.data.locate import cut_again
from mammo.data.rois import Rois, load_rois, pixel_hashes
from mammo.data.splits import Fold, development_rois, grouped_folds
from mammo.evaluation.comparison import JUDGED, difference, verdict
from mammo.evaluation.intervals import estimate
from mammo.evaluation.scores import METRICS, Scores
from mammo.studies.fits import FitTask
from mammo.studies.runs import fit_all, plan, runs_of

REFERENCE: Final = "reference"

FITS_OR_VOTES: Final = ("ingest", "split", "patches", "model", "train", "recipes", "vote")
"""Sections that a variant can change; the others touch nothing that is fitted or decided."""

_DRAWS_BEYOND: Final = 10
"""Resamples wanted beyond either end of an interval."""


@dataclass(frozen=True)
class Variant:
    """A name and what differs from `params.yaml`: dotted key → value (`recipe.KEY` is the chosen recipe's).

    `system` is another system. With folds of its own, such as the published folders, the variant is compared on the
    ROIs that they hold out.
    """

    name: str
    overrides: dict[str, Any]
    folds: Sequence[Fold] | None = None


@dataclass(frozen=True)
class Study:
    """What variants are fitted on: the system that varies, the reference's settings, the ROIs that may be seen."""

    system: str
    config: Config
    rois: Rois
    grid: GridConfig

    def settings_of(self, variant: Variant) -> tuple[str, Config]:
        """The system of a variant, and all its settings."""
        overrides = dict(variant.overrides)
        system = str(overrides.pop("system", self.system))
        return system, with_overrides(self.config, overrides)

    def is_reference(self, variant: Variant) -> bool:
        """Whether a variant is fitted and decides as the reference does: its keys change nothing that is read."""
        system, config = self.settings_of(variant)
        same = config.model_dump(exclude={"recipes"}) == self.config.model_dump(exclude={"recipes"})
        return same and config.recipe == self.config.recipe and system == self.system


def with_overrides(config: Config, overrides: dict[str, Any]) -> Config:
    """The settings with dotted keys replaced.

    Raises:
        ConfigError: a key does not exist, cannot vary, or its value breaks a rule.
    """
    values = config.model_dump(by_alias=True)
    recipe = overrides.get("train.recipe", config.train.recipe)
    for key, value in overrides.items():
        full = f"recipes.{recipe}.{key[7:]}" if key.startswith("recipe.") else key
        *sections, last = full.split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        changes = bool(sections) and sections[0] in FITS_OR_VOTES
        if not changes or not isinstance(place, dict) or last not in place:
            raise ConfigError(
                f"variant: {key} must be a setting of params.yaml that changes a fit or a vote, such as "
                "patches.size_px, recipe.class_balance or vote.rule"
            )
        place[last] = value
    return Config.parse(values, "variant")


def prepare(workspace: Workspace, study: Study, variant: Variant) -> list[FitTask]:
    """The fits that a variant needs."""
    system, config = study.settings_of(variant)
    folds = variant.folds
    if folds is None:
        same = config.ingest == study.config.ingest
        rois = study.rois if same else recut(workspace, config, study.rois)
        folds = grouped_folds(rois, study.grid, config.split.keep_groups)
    return plan(system, config, folds, study.grid.n_seeds, f"{variant.name}: {system}")


def recut(workspace: Workspace, config: Config, reference: Rois) -> Rois:
    """The reference's ROIs as other `ingest` settings cut them from the raw data, or from the films that they lie in.

    Raises:
        DataError: the raw data or the films are missing, or other ROIs come out.
    """
    if config.ingest.source == "mias_rois":
        images = cut_again(reference.table, workspace, bounding_box=config.ingest.bounding_box)
        return Rois(reference.table.assign(sha256=pixel_hashes(images)), images)
    rois = load_rois(config.ingest, workspace.root)
    wanted = reference.table["roi_id"]
    rows = pd.Index(rois.table["roi_id"]).get_indexer(wanted)
    missing = wanted[rows < 0]
    if len(missing):
        raise DataError(
            f"variant: must cut the same ROIs as the reference, but {len(missing)} are missing, for example "
            f"{missing.iloc[0]}; leave ingest.seed and ingest.source as they are"
        )
    table = rois.table.iloc[rows].reset_index(drop=True)
    return Rois(table.assign(group_id=reference.table["group_id"]), rois.images[rows])


def fit_variants(
    workspace: Workspace, study: Study, variants: Sequence[Variant], n_jobs: int, console: Console
) -> dict[str, Scores]:
    """Runs of the reference and every variant on the same folds and seeds, by name, the reference first."""
    plans = {one.name: prepare(workspace, study, one) for one in (Variant(REFERENCE, {}), *variants)}
    fits = fit_all(plans, workspace, n_jobs, console)
    return {name: runs_of(placed, study.rois) for name, placed in fits.items()}


def effect(
    a: Scores, b: Scores, config: EvaluateConfig, *, metrics: Sequence[str] = METRICS, n_rows: int = 1
) -> dict[str, Any]:
    """Each metric of a minus that of b, paired on the ROIs that both judge, and a verdict.

    `together` has the intervals of AUC and accuracy again, so wide that those of a table of `n_rows` effects hold all
    at once at the settings' confidence (Bonferroni), with the verdict that is left then.
    """
    a, b = a.only(b.roi_ids), b.only(a.roi_ids)
    alpha = (1 - config.confidence) / (n_rows * len(JUDGED))
    n_bootstrap = max(config.n_bootstrap, math.ceil(2 * _DRAWS_BEYOND / alpha))
    wider = Resampling(n_bootstrap=n_bootstrap, seed=config.seed, confidence=1 - alpha)

    def differences(of: Sequence[str], resampling: Resampling) -> dict[str, Any]:
        found = {metric: difference(a, b, metric, **resampling) for metric in of}
        cells = {metric: one.to_dict() for metric, one in found.items()}
        return {"cells": cells, "verdict": verdict(found)}

    together = differences([metric for metric in JUDGED if metric in metrics], wider)
    return {"n_rois": len(a.labels), **differences(metrics, config.resampling), "together": together}


def levels(runs: Scores, config: EvaluateConfig) -> dict[str, Any]:
    """Each metric of some runs with its interval."""
    return {metric: estimate(runs, metric, **config.resampling).to_dict() for metric in METRICS}


class StudyFile(Section):
    """What a study asks; null: as `study` of params.yaml has it."""

    question: str = ""
    system: str | None = None
    reference: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys in which the reference differs from params.yaml, such as a setting that was changed since."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    n_seeds: Annotated[int, Field(gt=0)] | None = None
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Name → dotted keys of params.yaml with their values; `system` takes another system."""


def read_study_file(path: Path) -> StudyFile:
    """The study that a file of variants describes.

    Raises:
        ConfigError: a variant is called as the reference; also where the file is missing, no YAML, or not of this form.
    """
    example = "pipelines/studies/choices.yaml is an example of a study"
    values = read_yaml(path, example)
    with explained(str(path), f"; {example}"):
        found = StudyFile.model_validate(values)
    if REFERENCE in found.variants:
        rule = f"no variant may be called {REFERENCE}, which is params.yaml as it is; rename it"
        raise ConfigError(f"{path}: {rule}")
    return found


def run_study(workspace: Workspace, config: Config, path: Path, n_jobs: int, console: Console) -> dict[str, Any]:
    """The table of a file's variants, called after the file and ready for JSON; fits are kept.

    The test part is never opened, so settings may be chosen by what this shows.

    Raises:
        ConfigError: the file or an override is wrong; nothing is fitted then.
        MammoError: the data are missing, or a fit failed; finished fits are kept.
    """
    asked = read_study_file(path)
    config, evaluate = with_overrides(config, asked.reference), config.evaluate
    own = {key: value for key in ("seed", "n_seeds") if (value := getattr(asked, key)) is not None}
    grid = config.study.model_copy(update=own)
    study = Study(asked.system or config.study.system, config, development_rois(workspace), grid)
    variants = [Variant(name, overrides) for name, overrides in asked.variants.items()]
    for variant in variants:
        if study.is_reference(variant):
            raise ConfigError(
                f"{path}: variant {variant.name} must differ from the reference in what is fitted or decided, but "
                f"names the settings that {config.settings_from} gives already; leave it out, or change settings_from"
            )
    runs = fit_variants(workspace, study, variants, n_jobs, console)
    reference = runs[REFERENCE]
    entries = [
        {
            "name": one.name,
            "overrides": one.overrides,
            "cells": levels(runs[one.name], evaluate),
            "effect": effect(runs[one.name], reference, evaluate, n_rows=len(variants)),
        }
        for one in variants
    ]
    return {
        "name": path.stem,
        "question": asked.question,
        "data": study.rois.describe(),
        "system": study.system,
        "settings": grid.model_dump(),
        "confidence": evaluate.confidence,
        "reference": {"overrides": asked.reference}
        | {"n_runs": reference.n_runs, "cells": levels(reference, evaluate)},
        "variants": entries,
    }
