"""`settings_from`: what a study chose stands above params.yaml, and nothing contradicts it in silence."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo.core.config import Config
from mammo.core.errors import ConfigError
from mammo.core.files import Workspace
from mammo.core.settings import study_tags
from tests.study_records import write_record

PROJECT = Path(__file__).parents[1]
BEST = "reports/tune/best.yaml"


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """The project's settings, beside a study that chose 96 px, another rate and the mean score."""
    space = Workspace(tmp_path)
    shutil.copy(PROJECT / "params.yaml", space.params)
    write_record(
        space,
        Config.load(space.params),
        recipe={"head_lr": 0.005},
        patches={"size_px": 96, "stride_px": 8},
        vote={"rule": "mean_score"},
    )
    return space


def change(space: Workspace, **sections: Any) -> None:
    values = yaml.safe_load(space.params.read_text())
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    space.params.write_text(yaml.safe_dump(values))


def test_a_record_that_is_not_asked_for_changes_nothing(space: Workspace) -> None:
    assert Config.load(space.params) == Config.load_own(space.params) == Config.load(PROJECT / "params.yaml")


def test_patches_votes_and_recipe_come_from_the_record_and_all_else_from_params_yaml(
    space: Workspace,
) -> None:
    own = Config.load(space.params)
    change(space, settings_from=BEST, train={"epochs": 3})
    config = Config.load(space.params)
    assert (config.patches.size_px, config.patches.stride_px, config.patches.tumor_draws) == (96, 8, 1000)
    assert config.vote.rule == "mean_score"
    assert config.train.recipe == "tuned"
    assert config.recipe == own.recipe.model_copy(update={"head_lr": 0.005, "epochs": 3})
    unchanged = {"settings_from", "patches", "vote", "train", "recipes"}
    assert config.model_dump(exclude=unchanged) == own.model_dump(exclude=unchanged)
    assert Config.load_own(space.params).patches == own.patches  # as a study starts
    assert study_tags(space.root / BEST) == {"mammo.study": "abc", "mammo.best_trial": "7"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"backbone_lr": 0.0}}, r"train\.backbone_lr must be null .* got 0\.0"),
        ({"systems": ["compact-baseline"]}, "systems must hold compact-model2, .* add it"),
        ({"settings_from": "reports/none.yaml"}, r"none\.yaml: does not exist; run `mammo tune`"),
    ],
)
def test_what_contradicts_the_choice_is_refused(space: Workspace, sections: dict[str, Any], message: str) -> None:
    change(space, **{"settings_from": BEST} | sections)
    with pytest.raises(ConfigError, match=message):
        Config.load(space.params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{study: {", "is not valid YAML"),
        ("{study: {}, best: {}, recipes: {a: {}}, patches: {}, vote: {}}", "system is required and missing"),
    ],
)
def test_a_file_that_is_no_record_is_refused(space: Workspace, text: str, message: str) -> None:
    change(space, settings_from=BEST)
    (space.root / BEST).write_text(text)
    with pytest.raises(ConfigError, match=rf"best\.yaml: {message}"):
        Config.load(space.params)


def test_a_record_that_breaks_a_rule_is_named_with_its_key(space: Workspace) -> None:
    write_record(space, Config.load(space.params), patches={"size_px": 300})
    change(space, settings_from=BEST)
    with pytest.raises(ConfigError, match=r"best\.yaml: patches.*size_px.*got 300"):
        Config.load(space.params)
