"""`mammo study FILE`: variants named in a file, compared within train and val to choose settings by."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError
from rich.console import Console

from mammo.config import Config
from mammo.errors import ConfigError
from mammo.layout import Workspace
from mammo.reporting.variants import write_study
from mammo.section import Section
from mammo.studies.variants import (
    REFERENCE,
    Variant,
    effect,
    fit_variants,
    is_reference,
    levels,
    open_study,
    with_overrides,
)


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
    write_study(space.reports / "study", summary, console)
