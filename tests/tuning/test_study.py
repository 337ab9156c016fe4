"""The whole command: study, workers, MLflow, files; and what is never looked at."""

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import ConfigError, MammoError
from mammo.core.files import Workspace, read_table
from mammo.core.settings import study_tags
from mammo.evaluation.metrics import auc
from mammo.studies.variants import read_study_file, with_overrides
from mammo.tuning.apply import apply_best
from mammo.tuning.claims import claim, mend
from mammo.tuning.coordinator import Plan, check_plan, run_tuning
from mammo.tuning.material import read_trial_rois, training_data
from mammo.tuning.objective import coarse_stride, fit_seed, roi_value
from mammo.tuning.storage import open_storage
from mammo.tuning.study import make_study, study_mark
from mammo.tuning.trials import OWN
from tests.study_records import write_record
from tests.tuning.conftest import make_workspace

Store = Callable[[Workspace], None]


def quiet() -> Console:
    return Console(quiet=True)


def test_no_fold_holds_a_test_roi_or_splits_a_group(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    material = read_trial_rois(space, config)
    split = read_table(space.split).set_index("roi_id")
    assert len(material.table) == 32
    assert set(split["split"].loc[material.table["roi_id"]]) == {"train", "val"}
    groups = material.table["group_id"].to_numpy()
    held_out = np.concatenate([fold.held_out for fold in material.folds])
    assert sorted(held_out) == list(range(32))
    for fold in material.folds:
        parts = [set(groups[rows]) for rows in (fold.train, fold.val, fold.held_out)]
        assert sum(len(part) for part in parts) == len(set.union(*parts))
        assert all(len(set(material.labels[rows])) == 2 for rows in (fold.train, fold.val, fold.held_out))


def test_patches_of_any_size_share_the_images_on_the_device(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    material = read_trial_rois(space, config)
    rows = material.folds[0].train
    for size_px in (64, 101):
        patches = config.patches.model_copy(update={"size_px": size_px})
        data = training_data(material, rows, patches)
        assert data.images.data_ptr() == material.images.data_ptr()
        assert set(data.patches.roi.tolist()) == set(rows.tolist())
        assert set(data.patches.size.tolist()) == {size_px, 120}  # and the whole ROI
        np.testing.assert_array_equal(data.labels, material.labels[data.patches.roi])


def test_the_value_follows_the_vote_rule() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.1, 0.9, 0.9], [0.2, 0.2, 0.2], [0.45, 0.45, 0.6], [0.9, 0.9, 0.9]])
    config = Config.load(Path(__file__).parents[2] / "params.yaml").vote
    majority = config.model_copy(update={"rule": "majority"})
    mean = config.model_copy(update={"rule": "mean_score"})
    assert roi_value("auc", labels, scores, majority) == auc(labels, np.array([2 / 3, 0, 1 / 3, 1]))
    assert roi_value("auc", labels, scores, mean) == auc(labels, scores.mean(axis=1))
    assert roi_value("accuracy", labels, scores, majority) == 0.5
    lower = majority.model_copy(update={"share_threshold": 0.3})
    assert roi_value("accuracy", labels, scores, lower) == 0.75


@pytest.mark.parametrize("size_px", [32, 72, 119, 120])
def test_an_epoch_is_judged_by_three_votes_along_an_axis_at_most(size_px: int) -> None:
    from mammo.data.patches import grid_offsets

    assert len(grid_offsets(size_px, coarse_stride(size_px))) in ({3} if size_px < 119 else {1, 2})


def test_seeds_differ_between_trials_and_folds_and_nothing_else() -> None:
    seeds = {fit_seed(0, index, fold) for index in range(20) for fold in range(5)}
    assert len(seeds) == 100
    assert fit_seed(0, 3, 1) == fit_seed(0, 3, 1)


def test_what_a_value_depends_on_changes_the_mark_and_what_not_does_not(
    workspace: tuple[Workspace, Config],
) -> None:
    space, config = workspace
    material = read_trial_rois(space, config)
    mark = study_mark(config, material)

    def with_tune(**changes: object) -> str:
        tune = config.tune.model_copy(update=changes)
        return study_mark(config.model_copy(update={"tune": tune}), material)

    assert with_tune(trials=99, max_retries=1, heartbeat_s=9) == mark
    assert with_tune(epochs=3) != mark
    assert with_tune(metric="f1") != mark


def test_other_weights_under_the_same_name_are_another_study(
    workspace: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, config = workspace
    material, weights = read_trial_rois(space, config), tmp_path / "vgg16.safetensors"
    config = config.model_copy(update={"model": config.model.model_copy(update={"weights": str(weights)})})
    weights.write_bytes(b"one")
    mark = study_mark(config, material)
    weights.write_bytes(b"another")
    assert study_mark(config, material) != mark


def test_the_settings_of_params_yaml_are_tried_first_and_again_if_their_worker_dies(tmp_path: Path) -> None:
    rate = {"head_lr": {"type": "float", "low": 0.0005, "high": 0.01}}
    space, config = make_workspace(tmp_path / "space", space=rate)
    opened = make_study(
        space, config, open_storage(space, None, None), read_trial_rois(space, config), fresh=False
    )
    first = claim(opened, 3)
    assert first is not None
    assert first.params == {"head_lr": config.recipe.head_lr}
    opened.study.tell(first.number, state=TrialState.FAIL)  # as `mend` does for a dead worker
    mend(opened)
    retry = claim(opened, 3)
    assert retry is not None
    assert (retry.params, retry.user_attrs[OWN]) == (first.params, True)
    drawn = claim(opened, 3)
    assert drawn is not None
    assert OWN not in drawn.user_attrs
    assert drawn.params != first.params
    make_study(space, config, opened.storage, read_trial_rois(space, config), fresh=False)
    assert (
        sum(bool(trial.user_attrs.get(OWN)) for trial in opened.trials) == 2
    )  # none is added by a resumption


def test_params_of_a_dead_taker_that_were_never_drawn_are_kept(tmp_path: Path) -> None:
    rate = {"head_lr": {"type": "float", "low": 0.0005, "high": 0.01}}
    space, config = make_workspace(tmp_path / "space", space=rate)
    opened = make_study(
        space, config, open_storage(space, None, None), read_trial_rois(space, config), fresh=False
    )
    opened.study.ask()  # the taker of the first trial is killed before it draws anything
    mend(opened)
    retry = claim(opened, 3)
    assert retry is not None
    assert retry.params == {"head_lr": config.recipe.head_lr}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(0, 1), "--trials must be at least 1"),
        (Plan(1, 0), "--workers must be at least 1"),
        (Plan(1, -1, "postgresql+psycopg://x"), "--workers must be at least 1"),
    ],
)
def test_a_plan_that_makes_no_study_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(MammoError, match=message):
        check_plan(plan)


@pytest.mark.slow
def test_a_study_is_made_continued_applied_and_begun_anew(
    workspace: tuple[Workspace, Config], store_of: Store
) -> None:
    from mammo.track.store import connect

    space, config = workspace
    store_of(space)
    first = run_tuning(space, config, Plan(2, 1), quiet())
    more = run_tuning(space, config, Plan(4, 1), quiet())
    assert (first["trials"]["ended"], more["trials"]["ended"]) == (2, 4)
    assert more["study"]["id"] == first["study"]["id"]
    folder = space.reports / "tune"
    written = yaml.safe_load((folder / "best.yaml").read_text())
    assert written["best"] == more["best"]
    assert written["best"]["value"] == pytest.approx(np.mean(written["best"]["folds"]))
    assert written["study"]["synthetic"] is True
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["index"]) == [0, 1, 2, 3]
    assert table.loc[table["state"] == "complete", "value"].max() == written["best"]["value"]
    assert {path.name for path in folder.glob("*.png")} >= {"history.png", "slice.png"}

    client = connect(space)
    experiment = client.get_experiment_by_name("phantom-grouped_cv")
    parents = client.search_runs([experiment.experiment_id], "tags.`mammo.trial` = 'study'")
    assert [(run.info.status, run.data.metrics["trials_ended"]) for run in parents] == [("FINISHED", 4.0)]
    assert {f.path for f in client.list_artifacts(parents[0].info.run_id, "tune")} >= {"tune/best.yaml"}
    can_be_judged(folder / "tuned.yaml", space, config)
    applies(space, written)

    heard = StringIO()
    anew = run_tuning(space, config, Plan(1, 1, fresh=True), Console(file=heard))
    assert anew["study"]["id"] != first["study"]["id"]
    assert f"best.yaml is that of study {first['study']['id']}; at the end" in heard.getvalue()
    assert anew["trials"]["ended"] == 1  # and it draws the first trial of the same seed again
    drawn = table.iloc[0].filter(like="param_").rename(lambda name: str(name).removeprefix("param_"))
    assert anew["best"]["params"] == drawn.to_dict()


def can_be_judged(file: Path, space: Workspace, config: Config) -> None:
    """The file for `mammo study` holds the settings that `train` reads, at the full budget."""
    asked = read_study_file(file)
    variant = dict(asked.variants["tuned"])
    params = space.params.read_text()
    apply_best(space)
    applied = Config.load(space.params)
    space.params.write_text(params)
    assert asked.seed == config.tune.seed + 1
    assert variant.pop("system") in applied.systems
    judged = with_overrides(config, variant)
    assert judged.recipe == applied.recipe
    assert (judged.patches, judged.vote) == (applied.patches, applied.vote)


def applies(space: Workspace, written: dict[str, dict[str, object]]) -> None:
    """The stages then read the record, the study its own settings, and a second time changes nothing."""
    (space.params).write_text("# settings of a test\n" + space.params.read_text())
    params = written["best"]["params"]
    changes = apply_best(space)
    assert changes[0] == "settings_from: params.yaml → reports/tune/best.yaml"
    config = Config.load(space.params)
    assert study_tags(space.root / config.settings_from) == {
        "mammo.study": written["study"]["id"],
        "mammo.best_trial": str(written["best"]["trial"]),
    }
    assert config.recipe.head_lr == params["head_lr"]  # type: ignore[index]
    assert config.patches.size_px == params["size_px"]  # type: ignore[index]
    assert f"compact-{params['fusion']}" in config.systems  # type: ignore[index]
    assert f"recipe.head_lr: 0.001 → {config.recipe.head_lr}" in changes
    assert space.params.read_text().startswith("# settings of a test\n")
    before = space.params.read_bytes()
    own = Config.load_own(space.params)
    assert own.recipe.head_lr == 0.001
    assert study_mark(own, read_trial_rois(space, own)) == written["study"]["mark"]  # the study can go on
    assert apply_best(space) == []
    assert space.params.read_bytes() == before


def test_applying_without_a_study_says_how_to_make_one(workspace: tuple[Workspace, Config]) -> None:
    with pytest.raises(ConfigError, match=r"best\.yaml: does not exist; run `mammo tune`"):
        apply_best(workspace[0])


def test_a_choice_that_breaks_a_rule_is_not_written(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    write_record(space, config, patches={"size_px": 300})
    before = space.params.read_bytes()
    with pytest.raises(ConfigError, match=r"best\.yaml: patches.*got 300"):
        apply_best(space)
    assert space.params.read_bytes() == before


def test_nothing_else_of_params_yaml_changes_by_a_choice(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", space.params)
    write_record(space, Config.load(space.params), system="vgg16-model2", recipe={"head_lr": 1e-05})
    before = space.params.read_text()
    changes = apply_best(space)
    assert changes[:2] == ["settings_from: params.yaml → reports/tune/best.yaml", "systems: + vgg16-model2"]
    chosen = before.replace("settings_from: params.yaml", "settings_from: reports/tune/best.yaml")
    last = "  - compact-model2\n"
    assert before.count(last) == 1
    assert space.params.read_text() == chosen.replace(last, f"{last}  - vgg16-model2\n")
    assert Config.load(space.params).recipe.head_lr == 1e-05


@pytest.mark.parametrize(
    ("systems", "more"),
    [
        ("systems: [compact-model1]  # one", "systems: [compact-model1, compact-model2]  # one"),
        (
            "systems:\n- compact-model1 # one",
            "systems:\n- compact-model1\n- compact-model2 # one",
        ),
    ],
)
def test_the_chosen_system_joins_a_list_of_any_style(tmp_path: Path, systems: str, more: str) -> None:
    space = Workspace(tmp_path)
    config = Config.load(Path(__file__).parents[2] / "params.yaml")
    write_record(space, config)
    recipe = yaml.safe_dump({"recipes": {"scratch": config.recipe.model_dump(mode="json")}})
    space.params.write_text(f"settings_from: params.yaml\n{systems}\n{recipe}")
    apply_best(space)
    assert space.params.read_text() == f"settings_from: reports/tune/best.yaml\n{more}\n{recipe}"
    space.params.write_text(f"{systems}\n{recipe}")
    with pytest.raises(ConfigError, match="settings_from is required and missing"):
        apply_best(space)
