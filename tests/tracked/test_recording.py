"""Runs in MLflow: what they hold, how they survive a kill, how they are rebuilt."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mammo.core.config import Config
from mammo.core.files import Workspace
from mammo.models.bundle import load_bundle, save_bundle
from mammo.systems import fit
from mammo.systems.assess import operation_estimates
from mammo.track import record as recording
from mammo.track.record import ensure_run, record_evaluation, story, train_recorded
from mammo.track.store import connect
from tests.study_records import write_record


def test_a_run_holds_settings_epochs_datasets_weights_and_identity(space: Workspace, config: Config) -> None:
    client = connect(space)
    run = client.get_run(ensure_run(space, config, "compact-model1"))
    weights = (space.bundle("compact-model1") / "model.safetensors").read_bytes()

    assert run.info.run_name == "compact-model1"
    assert run.info.status == "FINISHED"
    assert run.data.params["patches.size_px"] == "48"
    assert run.data.params["recipe.optimizer"] == "adamw"
    assert run.data.tags["mammo.weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert run.data.tags["mammo.synthetic"] == "true"
    assert [found.name for found in client.search_experiments()] == ["phantom-grouped_cv"]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")] == [0, 1]
    datasets = {i.dataset.name: {tag.key: tag.value for tag in i.tags} for i in run.inputs.dataset_inputs}
    uses = {"phantom-train": "training", "phantom-val": "validation", "phantom-test": "testing"}
    assert datasets == {name: {"mlflow.data.context": use, "dvc_md5": "not versioned"} for name, use in uses.items()}
    (output,) = run.outputs.model_outputs
    kept = Path(client.get_logged_model(output.model_id).artifact_location.removeprefix("file://"))
    assert (kept / "artifacts" / "model.safetensors").read_bytes() == weights


def test_the_headlines_are_metrics_and_everything_stands_in_a_table_with_intervals(
    space: Workspace, config: Config
) -> None:
    client = connect(space)
    run = client.get_run(ensure_run(space, config, "compact-model1"))
    results = json.loads((space.reports / "evaluate" / "results.json").read_text())
    judged = results["systems"]["compact-model1"]
    described = json.loads((space.bundle("compact-model1") / "model.json").read_text())
    table = client.load_table(run.info.experiment_id, "test_estimates.json", [run.info.run_id])
    estimates = table.set_index("metric").to_dict("index")

    own = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
    assert len(own) <= 20
    assert len(own) < len(run.data.metrics)
    assert own["test/auc"] == pytest.approx(judged["roi"]["auc_score"]["value"], abs=1e-4)
    assert own["test/referral_rate"] == pytest.approx(judged["referral"]["referral_rate"]["value"], abs=1e-4)
    assert own["val/loss"] == pytest.approx(judged["validation"]["val_loss"], abs=1e-4)
    accuracy, brier = judged["roi"]["accuracy"], judged["calibration"]["calibrated"]["brier"]
    for name, estimate in (("accuracy", accuracy), ("brier_calibrated", brier)):
        assert estimates[name]["value"] == pytest.approx(estimate["value"])
        assert estimates[name]["ci_low"] == pytest.approx(estimate["ci_low"])
        assert estimates[name]["n"] == estimate["n"]
    assert estimates["patch_recall"]["value"] == pytest.approx(judged["patch"]["recall"]["value"])
    assert float(run.data.tags["mammo.threshold"]) == pytest.approx(described["vote"]["share_threshold"])
    assert float(run.data.tags["mammo.calibrator_slope"]) == pytest.approx(described["calibrator"]["slope"], abs=1e-6)


def test_a_run_s_note_says_the_result_the_data_and_that_they_are_phantoms_in_its_first_line(
    space: Workspace, config: Config
) -> None:
    run = connect(space).get_run(ensure_run(space, config, "compact-model1"))
    results = json.loads((space.reports / "evaluate" / "results.json").read_text())
    judged = results["systems"]["compact-model1"]["roi"]["accuracy"]
    accuracy = f"{judged['value']:.3f} ({judged['ci_low']:.3f} to {judged['ci_high']:.3f})"
    first, *lines = run.data.tags["mlflow.note.content"].splitlines()
    assert first.startswith("PHANTOM: AUC ")
    assert f", accuracy {accuracy}; " in first
    assert first.endswith("compact-model1 on PHANTOM (synthetic) ROIs, patients known, grouped cv split, 8 test ROIs.")
    assert f"| test/accuracy | {accuracy} | 8 |" in lines
    assert "| metric | value (95% interval) | n |" in lines
    entry = results["systems"]["compact-model1"]
    estimates = {name: one | {"confidence": 0.975} for name, one in entry["roi"].items()}
    wider = story("", results["data"], estimates | operation_estimates(entry), entry["thresholds"][0])
    assert "| metric | value (97.5% interval) | n |" in wider


def test_a_run_holds_the_pictures_of_its_own_system_alone(space: Workspace, config: Config) -> None:
    client = connect(space)
    run_id = ensure_run(space, config, "compact-model1")
    files = {file.path for file in client.list_artifacts(run_id, "evaluate")}
    assert {
        "evaluate/reliability.png",
        "evaluate/results.md",
        "evaluate/training-compact-model1.png",
    } <= files
    assert not any("compact-baseline" in path for path in files)
    assert "params.yaml" in {file.path for file in client.list_artifacts(run_id)}


def test_a_test_result_links_its_voter_and_its_data_and_leaves_the_duration_that_of_training(
    files_only: tuple[Workspace, Config],
) -> None:
    space, config = files_only
    client, system = connect(space), "compact-model1"
    before = client.get_run(ensure_run(space, config, system))
    record_evaluation(space, config, system)
    run = client.get_run(before.info.run_id)
    voter = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    judged = {metric.key: metric for metric in voter.metrics}

    assert (run.info.end_time, run.info.status) == (before.info.end_time, "FINISHED")
    assert voter.name == system
    assert {name.partition("/")[0] for name in judged} == {"val", "test"}
    assert judged["test/auc"].value == run.data.metrics["test/auc"]
    assert (judged["test/auc"].dataset_name, judged["val/auc"].dataset_name) == (
        "phantom-test",
        "phantom-val",
    )
    record_evaluation(space, config, system)
    assert len(client.get_run(run.info.run_id).outputs.model_outputs) == 1


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


def killed(*_: object) -> None:
    raise Killed


def trained_files(root: Path) -> dict[str, bytes]:
    """What training one system writes for DVC."""
    files = (*root.glob("models/compact-model1/*"), *root.glob("reports/train/compact-model1.*"))
    return {path.name: path.read_bytes() for path in files}


def test_a_killed_run_goes_on_in_the_same_mlflow_run_and_writes_the_same_bytes_as_an_undisturbed_one(
    prepared: tuple[Workspace, Config], finished: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = prepared
    with monkeypatch.context() as patch:
        patch.setattr(recording, "epoch_line", killed)
        with pytest.raises(Killed):
            train_recorded(space, config, "compact-model1")
    killed_id = json.loads(space.run_note("compact-model1").read_text())["run_id"]
    train_recorded(space, config, "compact-model1")
    note = json.loads(space.run_note("compact-model1").read_text())
    client = connect(space)

    assert note["run_id"] == killed_id
    assert client.get_run(killed_id).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(killed_id, "val_loss")] == [1, 0]
    assert trained_files(space.root) == trained_files(finished[0].root)


def test_a_network_that_two_systems_share_is_fitted_once(
    prepared: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space, config = prepared
    alone, beside = "compact-baseline", "compact-baseline-floor"
    train_recorded(space, config, alone)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_train_epoch", lambda *_: pytest.fail("fitted again"))
        train_recorded(space, config, beside)
    weights = [(space.bundle(system) / "model.safetensors").read_bytes() for system in (alone, beside)]
    curves = [(space.reports / "train" / f"{system}.csv").read_text() for system in (alone, beside)]
    run_id = json.loads(space.run_note(beside).read_text())["run_id"]

    assert weights[0] == weights[1]
    assert curves[0] == curves[1]
    assert "compact-baseline-floor: 2 epochs taken over from before" in capsys.readouterr().err
    assert [m.step for m in connect(space).get_metric_history(run_id, "val_loss")] == [0, 1]
    # All is trained again: the first system anew, the second takes that over.
    train_recorded(space, config, alone)
    train_recorded(space, config, beside)
    assert [name for name in capsys.readouterr().err.split() if name.startswith("compact")] == [
        *["compact-baseline"] * 2,
        "compact-baseline-floor:",
    ]
    # A system alone that is trained again is fitted anew.
    monkeypatch.setattr(fit, "_train_epoch", killed)
    with pytest.raises(Killed):
        train_recorded(space, config, beside)
