"""Overrides by dotted keys, defects as settings, verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammo.core.config import Config
from mammo.core.errors import ConfigError, DataError
from mammo.core.files import Workspace
from mammo.evaluation.comparison import mcnemar_exact
from mammo.evaluation.scores import Scores
from mammo.studies.ablation import FITTED, MEAN_SUBTRACTION, Defect, toggled
from mammo.studies.fits import fit_key
from mammo.studies.variants import Study, Variant, effect, prepare, read_study_file, with_overrides
from tests.evaluation.made_scores import made
from tests.studies.tiny_studies import PROJECT, tiny_config, tiny_rois

SHIPPED = Config.load(PROJECT / "params.yaml")


def study(config: Config | None = None) -> Study:
    config = config or tiny_config()
    return Study("compact-baseline", config, tiny_rois(), config.study)


def test_a_variant_differs_in_its_keys_alone() -> None:
    overrides = {"patches.size_px": 96, "recipe.augment.zoom": 0.0, "vote.rule": "mean_score"}
    before, after = SHIPPED.model_dump(), with_overrides(SHIPPED, overrides).model_dump()
    before["patches"]["size_px"] = 96
    before["recipes"]["scratch"]["augment"]["zoom"] = 0.0
    before["vote"]["rule"] = "mean_score"
    assert after == before


def test_a_key_of_the_recipe_is_one_of_the_recipe_that_the_variant_chooses() -> None:
    keys = {"recipe.epochs": 3, "train.recipe": "frozen"}
    for overrides in (keys, dict(reversed(keys.items()))):
        chosen = with_overrides(SHIPPED, overrides)
        assert chosen.recipe == SHIPPED.recipes["frozen"].model_copy(update={"epochs": 3})
        assert chosen.recipes["scratch"] == SHIPPED.recipes["scratch"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patches.sise_px": 96}, "patches.sise_px must be a setting"),
        ({"size_px": 96}, "size_px must be a setting"),
        *(
            ({key: value}, f"{key} must be a setting of params.yaml that changes a fit or a vote")
            for key, value in {
                "evaluate.seed": 1,
                "tune.epochs": 3,
                "serve.standby": 0,
                "promote.over_floor": 0.1,
                "referral.coverage": 0.5,
            }.items()
        ),
        ({"patches.size_px.deep": 1}, "must be a setting"),
        ({"patches.size_px": 200}, "less than or equal to 120, got 200"),
        ({"recipe.augment.fill": "mirror"}, "fill"),
    ],
)
def test_an_impossible_override_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides(SHIPPED, overrides)


@pytest.mark.parametrize("defect", FITTED, ids=lambda defect: defect.name)
@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_a_defect_can_be_switched_on_and_off(defect: Defect, weights: str) -> None:
    system = "vgg16-model2" if weights == "imagenet" else "compact-model2"
    config = with_overrides(SHIPPED, {"model.weights": weights})
    on, off = (with_overrides(config, change(config)) for change in (defect.on, defect.off))
    assert (defect.present(on, system), defect.present(off, system)) == ("yes", "no")
    section, _, _ = defect.setting.partition(".")
    assert on.model_dump()[section] != off.model_dump()[section]


@pytest.mark.parametrize("defect", FITTED, ids=lambda defect: defect.name)
@pytest.mark.parametrize("preprocessing", ["samplewise_standardize", "samplewise_center", "fixed_scale"])
def test_the_two_sides_of_a_comparison_differ_in_the_defect_alone(defect: Defect, preprocessing: str) -> None:
    config = with_overrides(SHIPPED, {"model.preprocessing": preprocessing})
    reference = study(config)
    toggles = toggled(defect, reference)
    sides = {variant.name: with_overrides(config, variant.overrides) for variant in toggles}
    in_part = defect is MEAN_SUBTRACTION and preprocessing == "samplewise_standardize"
    assert len(toggles) == (2 if in_part else 1)
    with_it = sides.get(f"{defect.name}, with it", config)
    without_it = sides.get(f"{defect.name}, without it", config)
    assert defect.present(with_it, reference.system) == "yes"
    assert defect.present(without_it, reference.system) == "no"
    section = "recipes" if defect.setting.startswith("recipes") else defect.setting.split(".")[0]
    others = {section, "patches"}
    assert with_it.model_dump(exclude=others) == without_it.model_dump(exclude=others)
    if section == "patches":
        key = defect.setting.split(".")[1]
        assert with_it.patches.model_dump(exclude={key}) == without_it.patches.model_dump(exclude={key})


def test_reference_and_variants_share_folds_and_seeds() -> None:
    reference, rate, vote, other = (
        prepare(Workspace(), study(), Variant("v", overrides))
        for overrides in (
            {},
            {"patches.last_offset": False},
            {"vote.rule": "mean_score"},
            {"system": "compact-model1"},
        )
    )
    for a, b in zip(reference, rate, strict=True):
        assert a.seed == b.seed
        assert a.rois.table.equals(b.rois.table)
    keys = {fit_key(task) for task in reference}
    assert keys.isdisjoint({fit_key(task) for task in rate})
    assert keys == {fit_key(task) for task in vote}  # a vote rule needs no fits of its own
    assert {task.system for task in other} == {"compact-model1"}


@pytest.mark.parametrize("name", ["choices", "patch_sizes", "roads"])
def test_the_shipped_studies_can_be_fitted(name: str) -> None:
    asked = read_study_file(PROJECT / "pipelines" / "studies" / f"{name}.yaml")
    reference = with_overrides(SHIPPED, asked.reference)
    for variant, overrides in asked.variants.items():
        prepare(Workspace(), study(reference), Variant(variant, overrides))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"does not exist; .*choices\.yaml"),
        ("", "must hold a mapping"),
        ("variants: {}", r"bad\.yaml: variants: .* at least 1 item.*choices\.yaml is an example"),
        ("variants: {a: 3}", r"bad\.yaml: variants\.a: .* dictionary, got 3"),
        ("variants: {a: {patches.size_px: 96}}\nextra: 1", r"bad\.yaml: extra is not a known key"),
        ("variants: {reference: {patches.size_px: 96}}", "no variant may be called reference"),
        ("variants: [", "is not valid YAML"),
    ],
)
def test_a_bad_study_file_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_study_file(path)


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ({}, True),
        ({"system": "compact-baseline"}, True),
        ({"recipes.paper.epochs": 99}, True),  # the fits take the recipe called scratch
        ({"patches.size_px": 72, "recipe.epochs": 16}, True),
        ({"recipe.epochs": 3}, False),
        ({"recipes.scratch.epochs": 3}, False),
        ({"vote.views": 8}, False),
        ({"system": "compact-model1"}, False),
    ],
)
def test_a_variant_that_changes_nothing_that_is_read_is_the_reference(overrides: dict[str, Any], same: bool) -> None:
    assert study(SHIPPED).is_reference(Variant("v", overrides)) is same


def test_a_variant_that_cuts_other_rois_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"phantom|raw"):
        prepare(Workspace(tmp_path), study(), Variant("v", {"ingest.bounding_box": False}))


def judged(right: np.ndarray) -> Scores:
    """One run over independent ROIs, half of them Tumor, decided rightly where `right` says so."""
    labels = np.arange(len(right), dtype=np.int64) % 2
    return made(labels, np.where(right, labels, 1 - labels))


def test_a_difference_that_chance_gives_in_one_of_thirty_rows_does_not_survive_a_table_of_ten() -> None:
    n = np.arange(400)
    # 17 ROIs only the first decides rightly, 6 only the second: McNemar's exact p is 0.035.
    first, second = judged((n >= 6) & (n < 380)), judged((n >= 6) & (n < 363) | (n < 6))
    assert mcnemar_exact(first.labels, first.decisions[0], second.decisions[0])[2] == pytest.approx(0.0347, abs=1e-3)
    alone = effect(first, second, SHIPPED.evaluate, metrics=("accuracy",), n_rows=10)
    assert (alone["verdict"], alone["together"]["verdict"]) == ("accuracy higher", "not distinguishable")
    # Ten rows of two intervals each: 5% / 20 may miss.
    assert alone["together"]["cells"]["accuracy"]["confidence"] == pytest.approx(0.9975)
    large = effect(judged(n >= 6), judged(n >= 100), SHIPPED.evaluate, metrics=("accuracy",), n_rows=10)
    assert large["together"]["verdict"] == "accuracy higher"
