"""The project's own settings load; every impossible one is refused with its key, its rule and its value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mammo.core.config import Config
from mammo.core.errors import ConfigError
from mammo.core.systems import title_of
from tests.settings import PARAMS, params

DELETE = object()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The project's settings with some keys (dotted) set or deleted."""
    values = params()
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = values
        for name in sections:
            section = section[name]
        if value is DELETE:
            del section[key]
        else:
            section[key] = value
    return values


def message_for(changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.parse(changed(changes))
    return str(caught.value)


def test_the_recipe_called_paper_is_the_papers() -> None:
    recipe = Config.load(PARAMS).recipes["paper"]

    assert (recipe.batch_size, recipe.epochs, recipe.optimizer) == (32, 5, "sgd")
    assert (recipe.head_lr, recipe.backbone_lr, recipe.momentum) == (1e-4, 0.0, 0.9)
    assert (recipe.class_balance, recipe.schedule, recipe.validate_on) == (False, "constant", "draws")
    assert recipe.patches_per_epoch is None
    augment = recipe.augment
    assert (augment.rotation_deg, augment.zoom, augment.fill) == (180.0, 0.2, "patch")
    assert (augment.flip_horizontal, augment.flip_vertical) == (True, False)


IMPOSSIBLE: list[tuple[dict[str, Any], str, str]] = [
    ({"patches.size_px": 121}, "patches.size_px: ", "less than or equal to 120, got 121"),
    ({"patches.size_px": 72.0}, "patches.size_px: Input should be a valid integer", "got 72.0"),
    ({"patches.whole_roi": 1}, "patches.whole_roi: Input should be a valid boolean", "got 1"),
    ({"split.n_folds": 5, "split.fold": 5}, "split.fold must be below n_folds (5)", "got 5"),
    ({"split.n_repeats": 1, "split.repeat": 1}, "split.repeat must be below n_repeats (1)", "got 1"),
    ({"ingest.source": "own", "split.protocol": "published"}, "split.protocol must be grouped_cv", "own"),
    ({"systems": ["vgg16-model3"]}, "systems are written BACKBONE-FUSION", "got 'vgg16-model3'"),
    (
        {"systems": ["compact-model1+vgg16-model3"]},
        "systems are written BACKBONE-FUSION",
        "got 'vgg16-model3'",
    ),
    ({"tune.system": "compact-model2-floor"}, "tune.system must be one network", "['compact-model2']"),
    (
        {"tune.system": "compact-model1+compact-model2"},
        "tune.system must be one network",
        "['compact-model1', 'compact-model2']",
    ),
    ({"systems": ["compact-model1"] * 2}, "systems must differ", "'compact-model1', 'compact-model1'"),
    ({"train.recipe": "scrath"}, "train.recipe must be one of ['frozen', 'paper', 'scratch']", "'scrath'"),
    (
        {"recipes.scratch.head_lr": "1e-3"},
        "recipes.scratch.head_lr: Input should be a valid number",
        "got '1e-3'; write a number, without quotes",
    ),
    ({"recipes.scratch.augment": None}, "recipes.scratch.augment: ", "got None"),
    ({"vote.share_threshold": float("nan")}, "vote.share_threshold: ", "got nan"),
]


@pytest.mark.parametrize(("changes", "key_and_rule", "value"), IMPOSSIBLE, ids=[str(case[0]) for case in IMPOSSIBLE])
def test_an_impossible_value_is_refused_with_key_rule_and_value(
    changes: dict[str, Any], key_and_rule: str, value: str
) -> None:
    message = message_for(changes)

    assert message.startswith(f"params.yaml: {key_and_rule}")
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["patchez", "patches.size", "recipes.scratch.augment.blur", "register.alias"])
def test_an_unknown_key_is_refused(key: str) -> None:
    assert message_for({key: 1}) == f"params.yaml: {key} is not a known key; remove it or correct its spelling"


def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key, sections too; but not which recipes there are, nor what `tune.space` holds."""
    for name, value in values.items():
        if prefix != "recipes.":
            yield prefix + name
        if isinstance(value, dict) and f"{prefix}{name}" != "tune.space":
            yield from keys(value, f"{prefix}{name}.")


def test_no_key_has_a_value_but_in_params_yaml() -> None:
    for key in keys(params()):
        assert message_for({key: DELETE}) == f"params.yaml: {key} is required and missing"


def test_params_yaml_names_every_setting_but_the_fold_that_code_sets() -> None:
    absent = set(keys(Config.load(PARAMS).model_dump(by_alias=True))) - set(keys(params()))

    assert absent == {"tune.held_out_fold"}


def test_what_train_sets_replaces_the_recipes_own_value() -> None:
    config = Config.parse(changed({"train.epochs": 2, "train.backbone_lr": 0.0, "train.head_lr": 0.5}))
    own = params()["recipes"]["scratch"]

    assert (config.recipe.epochs, config.recipe.backbone_lr, config.recipe.head_lr) == (2, 0.0, 0.5)
    assert config.recipe.patches_per_epoch == own["patches_per_epoch"]
    assert config.recipes["scratch"].backbone_lr == own["backbone_lr"]


@pytest.mark.parametrize("written", ["3e-05", "3E-5", "0.3e-4", "0.00003"])
def test_a_number_with_an_exponent_is_one_with_and_without_a_point(tmp_path: Path, written: str) -> None:
    text = PARAMS.read_text()
    assert "  head_lr: null\n" in text
    (tmp_path / "params.yaml").write_text(text.replace("  head_lr: null\n", f"  head_lr: {written}\n"))
    assert Config.load(tmp_path / "params.yaml").recipe.head_lr == 0.00003


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "does not exist; run from the project's root"),
        (b"patches: [", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        (b"", "must hold a mapping of sections, got NoneType"),
        (b"!!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_file_that_is_missing_or_no_mapping_in_yaml_is_refused(
    tmp_path: Path, content: bytes | None, rule: str
) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)

    with pytest.raises(ConfigError, match=rf"params\.yaml: {rule}"):
        Config.load(tmp_path / "params.yaml")


def test_a_systems_title_names_the_weights_of_hed_alone() -> None:
    assert title_of("vgg16-model1", "hed") == "vgg16 (HED)-model1"
    assert title_of("vgg16-model1", "imagenet") == "vgg16-model1"
    assert title_of("vgg16-model1+vgg16-model2", "hed") == "vgg16 (HED)-model1+vgg16 (HED)-model2"
