"""Runs in MLflow: what they hold, how they survive a kill, how they are rebuilt."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.models.bundle import load_bundle, save_bundle
from mammo.systems.fit import EpochRecord
from mammo.track import record as recording
from mammo.track.record import ensure_run, train_recorded
from mammo.track.store import connect
from tests.study_records import write_record


def test_a_run_holds_settings_epochs_datasets_weights_and_identity(
    finished: tuple[Workspace, Config],
) -> None:
    space, config = finished
    client = connect(space)
    run = client.get_run(ensure_run(space, config, "compact-model1"))
    weights = (space.bundle("compact-model1") / "model.safetensors").read_bytes()

    assert run.info.run_name == "compact-model1"
    assert run.info.status == "FINISHED"
    assert run.data.params["patches.size_px"] == "48"
    assert run.data.params["recipe.optimizer"] == "adamw"
    assert run.data.tags["mammo.weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert run.data.tags["mammo.synthetic"] == "true"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")] == [0, 1]
    datasets = {i.dataset.name: {tag.key: tag.value for tag in i.tags} for i in run.inputs.dataset_inputs}
    assert datasets == {
        "phantom-train": {"mlflow.data.context": "training", "dvc_md5": "not versioned"},
        "phantom-val": {"mlflow.data.context": "validation", "dvc_md5": "not versioned"},
    }
    logged = {file.path for file in client.list_artifacts(run.info.run_id, "bundle")}
    assert logged == {"bundle/model.json", "bundle/model.safetensors"}


def test_results_with_intervals_calibration_referral_and_system_metrics_stand_in_the_run(
    finished: tuple[Workspace, Config],
) -> None:
    space, config = finished
    client = connect(space)
    run_id = ensure_run(space, config, "compact-model1")
    metrics = client.get_run(run_id).data.metrics
    results = json.loads((space.reports / "evaluate" / "results.json").read_text())
    judged = results["systems"]["compact-model1"]
    flat = json.loads((space.reports / "metrics.json").read_text())["test"]["compact-model1"]
    described = json.loads((space.bundle("compact-model1") / "model.json").read_text())

    accuracy = judged["roi"]["accuracy"]
    assert metrics["test_accuracy"] == pytest.approx(accuracy["value"])
    assert metrics["test_accuracy_ci_low"] == pytest.approx(accuracy["ci_low"])
    assert metrics["test_n_rois"] == 8
    assert any(name.startswith("system/") for name in metrics)
    brier = judged["calibration"]["calibrated"]["brier"]
    assert metrics["test_brier_calibrated"] == pytest.approx(brier["value"])
    assert metrics["test_brier_calibrated_ci_high"] == pytest.approx(brier["ci_high"])
    assert metrics["test_referral_rate"] == flat["referral_rate"]
    assert metrics["test_recall_at_specificity_0.90"] == flat["recall_at_specificity_0.90"]
    assert metrics["best_threshold"] == described["vote"]["share_threshold"]
    assert metrics["best_calibrator_slope"] == pytest.approx(described["calibrator"]["slope"])
    files = {file.path for file in client.list_artifacts(run_id, "evaluate")}
    assert {"evaluate/reliability.png", "evaluate/referral.png", "evaluate/results.md"} <= files


def test_a_clone_with_an_empty_store_gets_its_runs_back_from_the_files(
    files_only: tuple[Workspace, Config],
) -> None:
    space, config = files_only
    client = connect(space)
    rebuilt = client.get_run(ensure_run(space, config, "compact-model1"))
    history = (space.reports / "train" / "compact-model1.csv").read_text().splitlines()

    assert rebuilt.data.tags["mammo.rebuilt"] == "from DVC outputs"
    assert len(client.get_metric_history(rebuilt.info.run_id, "val_loss")) == len(history) - 1
    assert ensure_run(space, config, "compact-model1") == rebuilt.info.run_id


def test_the_same_weights_with_other_votes_are_another_run(files_only: tuple[Workspace, Config]) -> None:
    space, config = files_only
    system, folder = "compact-model1", space.bundle("compact-model1")
    first = ensure_run(space, config, system)
    bundle = load_bundle(folder)
    save_bundle(replace(bundle, vote=bundle.vote.model_copy(update={"share_threshold": 0.123})), folder)
    second = ensure_run(space, config, system)
    assert first != second
    save_bundle(bundle, folder)
    assert ensure_run(space, config, system) == first


def test_a_run_that_is_written_again_still_says_which_study_chose_its_settings(
    files_only: tuple[Workspace, Config],
) -> None:
    space, config = files_only
    write_record(space, config)
    chosen = config.model_copy(update={"settings_from": "reports/tune/best.yaml"})
    tags = connect(space).get_run(ensure_run(space, chosen, "compact-model1")).data.tags
    assert (tags["mammo.study"], tags["mammo.best_trial"]) == ("abc", "7")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_killed_run_goes_on_in_the_same_mlflow_run_with_the_same_weights(
    prepared: tuple[Workspace, Config], finished: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = prepared

    def kill(system: str, record: EpochRecord, n_epochs: int) -> str:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(recording, "epoch_line", kill)
        with pytest.raises(Killed):
            train_recorded(space, config, "compact-model1")
    killed_id = json.loads(space.run_note("compact-model1").read_text())["run_id"]
    train_recorded(space, config, "compact-model1")
    note = json.loads(space.run_note("compact-model1").read_text())
    client = connect(space)
    undisturbed = finished[0].bundle("compact-model1") / "model.safetensors"

    assert note["run_id"] == killed_id
    assert client.get_run(killed_id).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(killed_id, "val_loss")] == [1, 0]
    assert (space.bundle("compact-model1") / "model.safetensors").read_bytes() == undisturbed.read_bytes()
    assert not space.checkpoint("compact-model1").exists()


def test_training_again_writes_the_same_bytes(
    prepared: tuple[Workspace, Config], finished: tuple[Workspace, Config]
) -> None:
    space, config = prepared
    train_recorded(space, config, "compact-model1")

    def contents(root: Path) -> dict[str, bytes]:
        files = [
            *(root / "models" / "compact-model1").iterdir(),
            *(root / "reports" / "train").glob("compact-model1.*"),
        ]
        return {file.name: file.read_bytes() for file in files}

    assert contents(space.root) == contents(finished[0].root)
