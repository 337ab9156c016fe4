"""Named variants of the settings against the settings as they are: paired on the same ROIs, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, ValidationError
from rich.console import Console

from mammo.core.config import Config, EvaluateConfig, GridConfig, Resampling
from mammo.core.errors import ConfigError, DataError
from mammo.core.files import Workspace
from mammo.core.tune_config import Section
from mammo.data.rois import RoiSet, load_rois
from mammo.data.splits import Fold, Material, development_material, grouped_folds, read_material
from mammo.evaluation.repeated import METRICS, Runs, difference, estimate
from mammo.report.studies import write_variants
from mammo.report.terminal import show_markdown
from mammo.studies.fits import FitTask
from mammo.studies.runs import Placed, fit_all, place, plan, runs_of

REFERENCE: Final = "reference"
Protocol = Literal["honest", "development"]

FREE: Final = ("phantom", "systems", "register", "ledger", "ablate", "study", "evaluate")
"""Sections that no variant can change: they do not touch what is fitted or decided."""

JUDGED: Final = {"auc_score": "AUC", "accuracy": "accuracy"}
"""What a verdict looks at, in words."""

_DRAWS_BEYOND: Final = 10
"""Resamples wanted beyond either end of an interval."""


@dataclass(frozen=True)
class Variant:
    """A name and what differs from `params.yaml`: dotted key → value.

    `recipe.KEY` is the chosen recipe's; `system` is another system. With `published`, the variant is judged under the
    published folders instead of the folds, and compared on their test ROIs.
    """

    name: str
    overrides: dict[str, Any]
    published: bool = False


@dataclass(frozen=True)
class Study:
    """What variants are fitted on.

    Attributes:
        system: the system that varies.
        config: the reference's settings.
        material: the ROIs that may be seen.
        grid: folds, repeats, seeds.
    """

    system: str
    config: Config
    material: Material
    grid: GridConfig


def open_study(space: Workspace, config: Config, system: str, grid: GridConfig, protocol: Protocol) -> Study:
    """Read the ROIs that the protocol allows: all of them, or those of train and val.

    Raises:
        DataError: the stages `ingest` and `split` have not run.
    """
    material = read_material(space) if protocol == "honest" else development_material(space)
    return Study(system, config, material, grid)


def with_overrides(config: Config, overrides: dict[str, Any]) -> Config:
    """The settings with dotted keys replaced.

    Raises:
        ConfigError: a key does not exist, cannot vary, or its value breaks a rule.
    """
    values = config.model_dump(by_alias=True)
    for key, value in overrides.items():
        *sections, last = _full_key(key, config).split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not sections or sections[0] in FREE or not isinstance(place, dict) or last not in place:
            raise ConfigError(
                f"variant: {key} must be a setting of params.yaml that changes a fit or a vote, such as "
                "patches.size_px, recipe.class_balance or vote.rule"
            )
        place[last] = value
    return Config.parse(values, "variant")


def is_reference(variant: Variant, study: Study) -> bool:
    """Whether a variant is fitted and decides as the reference does: its keys change nothing that is read."""
    overrides = dict(variant.overrides)
    system = overrides.pop("system", study.system)
    config = with_overrides(study.config, overrides)
    same = config.model_dump(exclude={"recipes"}) == study.config.model_dump(exclude={"recipes"})
    return same and config.recipe == study.config.recipe and system == study.system


def _full_key(key: str, config: Config) -> str:
    return key.replace("recipe.", f"recipes.{config.train.recipe}.", 1) if key.startswith("recipe.") else key


@dataclass(frozen=True)
class Prepared:
    """A variant ready to be fitted."""

    variant: Variant
    system: str
    config: Config
    folds: list[Fold]
    tasks: list[FitTask]


def prepare(space: Workspace, study: Study, variant: Variant, published: Sequence[Fold] = ()) -> Prepared:
    """The fits that a variant needs.

    Raises:
        ConfigError: an override is impossible.
        DataError: the variant cuts other ROIs, so that it cannot be paired.
    """
    overrides = dict(variant.overrides)
    system = str(overrides.pop("system", study.system))
    config = with_overrides(study.config, overrides)
    material = study.material
    if config.ingest != study.config.ingest:
        material = Material(recut(space, config, study.material), study.material.groups)
    folds = (
        list(published)
        if variant.published
        else grouped_folds(material, study.grid, config.split.keep_groups)
    )
    tasks = plan(system, config, material, folds, study.grid.n_seeds, f"{variant.name}: {system}")
    return Prepared(variant, system, config, folds, tasks)


def recut(space: Workspace, config: Config, reference: Material) -> RoiSet:
    """The reference's ROIs as other `ingest` settings cut them from the raw data.

    Raises:
        DataError: the raw data are missing, or other ROIs come out.
    """
    rois = load_rois(config.ingest, space.root)
    wanted = reference.rois.table["roi_id"]
    row_of = {roi_id: row for row, roi_id in enumerate(rois.table["roi_id"])}
    missing = [roi_id for roi_id in wanted if roi_id not in row_of]
    if missing:
        raise DataError(
            f"variant: must cut the same ROIs as the reference, but {len(missing)} are missing, for example "
            f"{missing[0]}; leave ingest.seed and ingest.source as they are"
        )
    rows = [row_of[roi_id] for roi_id in wanted]
    return RoiSet(rois.table.iloc[rows].reset_index(drop=True), rois.images[rows])


@dataclass(frozen=True)
class FittedVariant:
    """A variant with its fits and its runs."""

    prepared: Prepared
    placed: list[Placed]
    runs: Runs


def fit_variants(
    space: Workspace,
    study: Study,
    variants: Sequence[Variant],
    n_jobs: int,
    console: Console,
    published: Sequence[Fold] = (),
) -> dict[str, FittedVariant]:
    """Fit the reference and every variant on the same folds and seeds: name → runs, the reference first.

    Raises:
        MammoError: an override is impossible (nothing is fitted then), or a fit failed.
    """
    ready = [prepare(space, study, one, published) for one in (Variant(REFERENCE, {}), *variants)]
    fits = fit_all({one.variant.name: one.tasks for one in ready}, space.fits, n_jobs, console)
    judged = {}
    for one in ready:
        placed = place(fits[one.variant.name], one.folds, study.grid.n_seeds)
        judged[one.variant.name] = FittedVariant(
            one, placed, runs_of(placed, study.material, one.config.vote)
        )
    return judged


def effect(
    a: Runs, b: Runs, config: EvaluateConfig, *, metrics: Sequence[str] = METRICS, n_rows: int = 1
) -> dict[str, Any]:
    """Each metric of a minus that of b, paired on the ROIs that both judge, and a verdict.

    `together` has the intervals of AUC and accuracy again, so wide that those of a table of `n_rows` effects hold all
    at once at the settings' confidence (Bonferroni), with the verdict that is left then.
    """
    shared = a.only(b.roi_ids), b.only(a.roi_ids)
    found = {metric: difference(*shared, metric, **config.resampling).to_dict() for metric in metrics}
    alpha = (1 - config.confidence) / (n_rows * len(JUDGED))
    wider = Resampling(
        n_bootstrap=max(config.n_bootstrap, math.ceil(2 * _DRAWS_BEYOND / alpha)),
        seed=config.seed,
        confidence=1 - alpha,
    )
    wide = {metric: difference(*shared, metric, **wider).to_dict() for metric in JUDGED if metric in metrics}
    return {
        "n_rois": len(shared[0].labels),
        "cells": found,
        "verdict": verdict(found),
        "together": {"cells": wide, "verdict": verdict(wide)},
    }


def verdict(found: dict[str, dict[str, Any]]) -> str:
    """What may be said: which of AUC and accuracy differ, or that nothing can be told apart."""
    sides = {
        word: "higher" if found[metric]["value"] > 0 else "lower"
        for metric, word in JUDGED.items()
        if metric in found
        and found[metric]["ci_low"] is not None
        and (found[metric]["ci_low"] > 0 or found[metric]["ci_high"] < 0)
    }
    return "; ".join(f"{word} {side}" for word, side in sides.items()) or "not distinguishable"


def levels(runs: Runs, config: EvaluateConfig) -> dict[str, Any]:
    """Each metric of some runs with its interval."""
    return {metric: estimate(runs, metric, **config.resampling).to_dict() for metric in METRICS}


class StudyFile(Section):
    """What a study asks: a question for people, a system, and variants by name."""

    question: str = ""
    system: str | None = None
    """null: `study.system` of params.yaml."""
    reference: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys in which the reference differs from params.yaml, such as a setting that was changed since."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Shuffles the folds; null: `study.seed`."""
    n_seeds: Annotated[int, Field(gt=0)] | None = None
    """Training seeds on every fold; null: `study.n_seeds`."""
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Name → dotted keys of params.yaml with their values; `system` takes another system."""


def read_study_file(path: Path) -> StudyFile:
    """Read and check a file of variants.

    Raises:
        ConfigError: it is missing, no YAML, or not of this form.
    """
    try:
        found = StudyFile.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: does not exist; pipelines/studies/choices.yaml is an example of a study"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(
            f"{path}: must hold `variants`, a mapping of names to settings such as {{patches.size_px: 96}} ({error})"
        ) from error
    if REFERENCE in found.variants:
        raise ConfigError(
            f"{path}: no variant may be called {REFERENCE}, which is params.yaml as it is; rename it"
        )
    return found


def run_study(space: Workspace, config: Config, path: Path, n_jobs: int, console: Console) -> None:
    """Fit what is missing, and write `reports/study/NAME.json` and `.md` after the file's name.

    The test part is never opened, so settings may be chosen by what this shows.

    Raises:
        ConfigError: the file or an override is wrong; nothing is fitted then.
        MammoError: the data are missing, or a fit failed; finished fits are kept.
    """
    asked = read_study_file(path)
    config = with_overrides(config, asked.reference)
    grid = config.study.model_copy(
        update={key: value for key in ("seed", "n_seeds") if (value := getattr(asked, key)) is not None}
    )
    study = open_study(space, config, asked.system or config.study.system, grid, "development")
    variants = [Variant(name, overrides) for name, overrides in asked.variants.items()]
    for variant in variants:
        if is_reference(variant, study):
            raise ConfigError(
                f"{path}: variant {variant.name} must differ from the reference in what is fitted or decided, but "
                f"names the settings that {config.settings_from} gives already; leave it out, or change settings_from"
            )
    judged = fit_variants(space, study, variants, n_jobs, console)
    reference = judged[REFERENCE].runs
    summary = {
        "name": path.stem,
        "question": asked.question,
        "data": study.material.describe(),
        "system": study.system,
        "settings": grid.model_dump(),
        "confidence": config.evaluate.confidence,
        "reference": {
            "overrides": asked.reference,
            "n_runs": reference.n_runs,
            "cells": levels(reference, config.evaluate),
        },
        "variants": [
            {
                "name": one.name,
                "overrides": one.overrides,
                "cells": levels(judged[one.name].runs, config.evaluate),
                "effect": effect(judged[one.name].runs, reference, config.evaluate, n_rows=len(variants)),
            }
            for one in variants
        ],
    }
    show_markdown(console, write_variants(space, summary))
