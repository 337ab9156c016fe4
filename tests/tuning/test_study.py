"""The whole command: study, workers, MLflow, files; and what is never looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, read_table
from mammo.core.settings import study_tags
from mammo.tuning.objective import INDEX, OWN, coarse_stride, fit_seed, trial_folds
from mammo.tuning.storage import using_storage
from mammo.tuning.study import make_study, study_mark, study_name
from mammo.tuning.workers import Plan, run_tuning, take
from tests.tuning.conftest import make_workspace, study_in

Store = Callable[[Workspace], None]


def test_no_fold_holds_a_test_roi_or_splits_a_group(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    split = read_table(space.split).set_index("roi_id")["split"]
    seen = sorted(split.index[split != "test"])
    held_out: list[str] = []
    for fold in trial_folds(space, config):
        assert sorted(fold.rois.table["roi_id"]) == seen
        parts = [fold.rois.part(name) for name in ("train", "val", "test")]
        groups = [set(part.groups) for part in parts]
        assert sum(len(part) for part in groups) == len(set.union(*groups))
        assert all(set(part.labels) == {0, 1} for part in parts)
        held_out += list(parts[2].table["roi_id"])
    assert sorted(held_out) == seen
    assert len(seen) == 32


@pytest.mark.parametrize("size_px", [32, 72, 119, 120])
def test_an_epoch_is_judged_by_three_votes_along_an_axis_at_most(size_px: int) -> None:
    from mammo.data.patches import grid_offsets

    assert len(grid_offsets(size_px, coarse_stride(size_px))) in ({3} if size_px < 119 else {1, 2})


def test_seeds_differ_between_trials_and_folds_and_nothing_else() -> None:
    seeds = {fit_seed(0, index, fold) for index in range(20) for fold in range(5)}
    assert len(seeds) == 100
    assert fit_seed(0, 3, 1) == fit_seed(0, 3, 1)


def test_what_a_value_depends_on_changes_the_mark_and_what_not_does_not(
    workspace: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, config = workspace
    folds, weights = trial_folds(space, config), tmp_path / "vgg16.safetensors"
    mark = study_mark(config, folds)

    def mark_with(section: str, **changes: object) -> str:
        changed = getattr(config, section).model_copy(update=changes)
        return study_mark(config.model_copy(update={section: changed}), folds)

    assert mark_with("tune", trials=99, heartbeat_s=9) == mark
    others = [
        mark_with("tune", epochs=3),
        mark_with("tune", metric="f1"),
        mark_with("train", features="kept"),
    ]
    for content in (b"one", b"another"):  # of weights under one name
        weights.write_bytes(content)
        others.append(mark_with("model", weights=str(weights)))
    assert len({mark, *others}) == 6


def test_the_settings_of_params_yaml_are_tried_first_and_again_if_their_worker_dies(tmp_path: Path) -> None:
    rate = {"head_lr": {"type": "float", "low": 0.0005, "high": 0.01}}
    space, config = make_workspace(tmp_path / "space", space=rate)
    with study_in(space, config) as opened:
        died = take(opened, 3)
        assert died is not None
    with study_in(space, config) as opened:
        first, second = take(opened, 3), take(opened, 3)
        assert first is not None
        assert second is not None
        assert [trial.state for trial in opened.trials] == [TrialState.FAIL, *2 * [TrialState.RUNNING]]
        for trial in (died, first):
            assert trial.params == {"head_lr": config.recipe.head_lr}
            assert (trial.user_attrs[INDEX], trial.user_attrs[OWN]) == (0, True)
        assert second.user_attrs[INDEX] == 1
        assert OWN not in second.user_attrs
        assert second.params != first.params


def test_other_settings_are_refused_by_name(workspace: tuple[Workspace, Config]) -> None:
    space, config = workspace
    tune = config.tune.model_copy(update={"epochs": 7})
    train = config.train.model_copy(update={"precision": "bfloat16"})
    other = config.model_copy(update={"tune": tune, "train": train})
    with study_in(space, config) as opened, pytest.raises(MammoError) as refused:
        make_study(space, other, opened.storage, trial_folds(space, config), fresh=False)
    lines = str(refused.value).splitlines()
    assert "  tune.epochs: 2 there, 7 here" in lines
    assert lines[-1] == "restore params.yaml and data, or start anew with --fresh"
    start = "  train.precision and the kind of device: ['float32', 'cpu'] there"
    assert any(line.startswith(start) for line in lines)
    assert not any("wilcoxon" in line for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_study_is_made_continued_and_begun_anew(workspace: tuple[Workspace, Config], store_of: Store) -> None:
    from mammo.track.store import connect

    space, config = workspace
    store_of(space)
    first = run_tuning(space, config, Plan(2, 1), Console(quiet=True))
    more = run_tuning(space, config, Plan(4, 1), Console(quiet=True))
    assert (first["trials"]["ended"], more["trials"]["ended"]) == (2, 4)
    assert more["study"]["id"] == first["study"]["id"]
    with using_storage(space, None, heartbeat_s=None) as storage:
        shown = optuna.load_study(study_name=study_name(config), storage=storage)  # as optuna-dashboard does
        assert shown.metric_names == [f"{config.tune.metric}, mean of the folds"]
        assert "the test part is never seen" in str(storage.get_study_system_attrs(shown._study_id))
    folder = space.reports / "tune"
    written = yaml.safe_load((folder / "best.yaml").read_text())
    assert written["best"] == more["best"]
    assert written["best"]["value"] == pytest.approx(np.mean(written["best"]["folds"]))
    assert written["study"]["synthetic"] is True
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["index"]) == [0, 1, 2, 3]
    assert table.loc[table["state"] == "complete", "value"].max() == written["best"]["value"]

    client = connect(space)
    experiment = client.get_experiment_by_name("phantom-grouped_cv")
    parents = client.search_runs([experiment.experiment_id], "tags.`mammo.trial` = 'study'")
    assert [(run.info.status, run.data.metrics["trials_ended"]) for run in parents] == [("FINISHED", 4.0)]
    assert {f.path for f in client.list_artifacts(parents[0].info.run_id, "tune")} >= {"tune/best.yaml"}
    can_be_taken(space, written)

    anew = run_tuning(space, config, Plan(1, 1, fresh=True), Console(quiet=True))
    assert anew["study"]["id"] != first["study"]["id"]
    assert anew["trials"]["ended"] == 1  # and it draws the first trial of the same seed again
    drawn = table.iloc[0].filter(like="param_").rename(lambda name: str(name).removeprefix("param_"))
    assert anew["best"]["params"] == drawn.to_dict()


def can_be_taken(space: Workspace, written: dict[str, Any]) -> None:
    """With `settings_from` the stages read the record, and the study its own settings, so that it can go on."""
    own = Config.load_own(space.params)
    values = yaml.safe_load(space.params.read_text())
    values |= {"settings_from": "reports/tune/best.yaml", "systems": [written["system"]]}
    space.params.write_text(yaml.safe_dump(values))
    params, config = written["best"]["params"], Config.load(space.params)
    assert (config.recipe.head_lr, config.patches.size_px) == (params["head_lr"], params["size_px"])
    assert written["system"] == f"compact-{params['fusion']}"
    assert study_tags(space.root / config.settings_from) == {
        "mammo.study": written["study"]["id"],
        "mammo.best_trial": str(written["best"]["trial"]),
    }
    assert study_mark(own, trial_folds(space, own)) == written["study"]["mark"]
