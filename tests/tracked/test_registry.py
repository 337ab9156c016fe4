"""Versions and aliases."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from mammo.core.config import Config
from mammo.core.errors import TrackingError
from mammo.core.files import Workspace, tree_sha256
from mammo.data.rois import read_rois
from mammo.models.bundle import load_bundle
from mammo.promotion.moves import rollback
from mammo.serve import loaded
from mammo.serve.app import create_app
from mammo.serve.loaded import VersionFiles, fetch_version
from mammo.serve.predict import explain_rois, predict_files
from mammo.serve.service import Service
from mammo.track import registry
from mammo.track.history import CODE_TAG, Step, history_of, move
from mammo.track.record import ensure_run, fill_store, train_recorded
from mammo.track.registry import register
from mammo.track.store import connect
from tests.tracked.registered import NAME


def test_the_first_version_is_champion_and_the_next_is_challenger_each_by_an_entry_of_the_history(
    files_only: tuple[Workspace, Config],
) -> None:
    space, config = files_only
    runs = [(ensure_run(space, config, system), space.bundle(system)) for system in config.systems]
    first, second, again = (register(space, NAME, *run) for run in (*runs, runs[0]))
    assert (first.number, first.aliases) == (again.number, again.aliases) == ("1", ("champion",))
    assert (second.number, second.aliases) == ("2", ("challenger",))
    entries = history_of(space, NAME, verify=True).entries
    assert [(entry.kind, entry.moves) for entry in entries] == [
        ("register", {"champion": (None, "1")}),
        ("register", {"challenger": (None, "2")}),
    ]
    bundle = (runs[0][1] / "model.json").read_bytes()
    assert entries[0].hashes["bundle"] == hashlib.sha256(bundle).hexdigest()


def test_a_version_that_was_rolled_back_is_no_challenger_again(files_only: tuple[Workspace, Config]) -> None:
    space, config = files_only
    runs = [(ensure_run(space, config, system), space.bundle(system)) for system in config.systems]
    for run in runs:
        register(space, NAME, *run)
    client = connect(space)
    move(space, client, NAME, lambda now: Step("promote", now.crowning("2")))
    move(space, client, NAME, lambda _: Step("rollback", {"champion": "1"}, steps=1))
    assert register(space, NAME, *runs[1]).aliases == ()
    assert history_of(space, NAME, verify=True).told == {"champion": "1"}


def test_a_challenger_that_a_later_version_has_displaced_is_challenger_again_when_it_is_made_again(
    files_only: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = files_only
    runs = [(ensure_run(space, config, system), space.bundle(system)) for system in config.systems]
    for run in runs:
        register(space, NAME, *run)
    move(space, connect(space), NAME, lambda _: Step("register", {"challenger": "3"}))  # that of other settings
    assert register(space, NAME, *runs[1]).aliases == ("challenger",)


def test_a_store_that_fails_to_say_who_is_champion_gets_no_new_one(
    files_only: tuple[Workspace, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, config = files_only
    first, second = ((ensure_run(space, config, system), space.bundle(system)) for system in config.systems)
    register(space, NAME, *first)
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "get_registered_model", unavailable)
        with pytest.raises(TrackingError, match=r"tracking store cannot be used .*503"):
            register(space, NAME, *second)
        with pytest.raises(TrackingError, match=r"tracking store cannot be used .*503"):
            rollback(space, NAME)
    assert registry.champion(space, NAME).number == "1"
    assert register(space, NAME, *second).aliases == ("challenger",)


@pytest.mark.slow
def test_an_ensemble_is_registered_served_and_explained_like_any_other(
    prepared: tuple[Workspace, Config], picture: Path
) -> None:
    space, config = prepared
    members = ["compact-baseline", "compact-model1"]
    ensemble = "+".join(members)
    for system in (ensemble, *members):
        train_recorded(space, config, system)
    version = register(space, NAME, ensure_run(space, config, ensemble), space.bundle(ensemble))
    (answer,) = predict_files(space, [picture])
    alone = [predict_files(space, [picture], space.bundle(member))[0]["score"] for member in members]
    ((explained, _),) = explain_rois(space, [str(picture)])
    assert (version.system, version.aliases, answer["model_version"]) == (ensemble, ("champion",), "1")
    assert answer["score"] == pytest.approx(np.mean(alone), abs=1e-6)
    assert (explained["votes"], explained["label"]) == (answer["votes"], answer["label"])


def champion_files(space: Workspace) -> VersionFiles:
    return fetch_version(space, NAME, registry.champion(space, NAME).number)


def unavailable(*_: object) -> None:
    raise MlflowException("503: try again later")


def test_a_champion_whose_files_were_moved_is_an_error_with_a_way_out(
    files_only: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, config = files_only
    fill_store(space, config)
    shutil.move(space.mlruns / "artifacts", tmp_path / "elsewhere")
    with pytest.raises(TrackingError, match=r"mammo-roi version 1: its files cannot be read .*empty mlruns/"):
        champion_files(space)


def test_a_copy_from_a_server_that_is_damaged_or_not_whole_is_fetched_again(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, damages = champion_files(space).bundle.parent, ["not whole", "damaged", ""]
    copies = tmp_path / "copies"
    copies.mkdir()

    def download(artifact_uri: str, dst_path: str) -> str:
        assert artifact_uri == f"models:/{NAME}/1"
        copy, damage = Path(shutil.copytree(source, Path(dst_path) / "model")), damages.pop(0)
        if damage == "not whole":
            raise ConnectionError("reset by peer")
        if damage:
            (copy / "artifacts" / "model.safetensors").write_bytes(b"")
        return str(copy)

    monkeypatch.setattr(loaded, "_downloads", lambda: SimpleNamespace(name=copies))
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    monkeypatch.setattr(MlflowClient, "get_model_version_download_uri", lambda *_: "mlflow-artifacts:/1")
    with pytest.raises(TrackingError, match=r"cannot be read .*reset by peer"):
        champion_files(space)
    with pytest.raises(TrackingError, match=r"must be what was registered .*check the server and the"):
        champion_files(space)
    assert list(copies.rglob("*.safetensors")) == []
    assert champion_files(space).bundle.is_relative_to(copies)
    assert champion_files(space).bundle.is_relative_to(copies)  # the same


def test_a_version_that_was_registered_with_other_code_answers_with_its_own(
    files_only: tuple[Workspace, Config], tmp_path: Path
) -> None:
    space, config = files_only
    fill_store(space, config)
    path = tmp_path / "roi.png"
    Image.fromarray(read_rois(space.rois).images[1]).save(path)
    today = predict_files(space, [path])[0]
    code = champion_files(space).code / "mammo"
    worker = code / "serve" / "worker.py"
    worker.write_text(worker.read_text().replace('f"v{self.model_version}.', 'f"old{self.model_version}.'))
    connect(space).set_model_version_tag(NAME, "1", CODE_TAG, tree_sha256(code))
    then = predict_files(space, [path])[0]
    assert then["prediction_id"] == f"old{today['prediction_id'][1:]}"
    assert {**then, "prediction_id": ""} == {**today, "prediction_id": ""}
    with TestClient(create_app(Service(space))) as client:
        served = client.post("/v1/rois", content=path.read_bytes()).json()["rois"][0]
    assert served["prediction_id"] == then["prediction_id"]


def test_a_service_needs_no_record_of_a_study(files_only: tuple[Workspace, Config]) -> None:
    space, config = files_only
    fill_store(space, config)
    values = yaml.safe_load(space.params.read_text()) | {"settings_from": "reports/tune/best.yaml"}
    space.params.write_text(yaml.safe_dump(values))
    assert champion_files(space).system in config.systems


def test_every_system_can_be_registered_on_mlflow_s_page(files_only: tuple[Workspace, Config]) -> None:
    space, config = files_only
    first = fill_store(space, config)
    (other,) = set(config.systems) - {first.system}
    run = connect(space).get_run(ensure_run(space, config, other))
    (output,) = run.outputs.model_outputs
    made = mlflow.register_model(f"models:/{output.model_id}", NAME)  # as the page's button does
    assert [(one.number, one.system) for one in registry.versions(space, NAME)] == [
        (str(made.version), other),
        ("1", first.system),
    ]
    connect(space).set_registered_model_alias(NAME, "champion", str(made.version))
    assert champion_files(space).system == other


def test_a_version_tells_its_results_and_data_and_comes_of_its_run_s_logged_model(space: Workspace) -> None:
    client = connect(space)
    version = client.get_model_version(NAME, "1")
    run = client.get_run(version.run_id)
    assert version.description == run.data.tags["mlflow.note.content"]
    assert version.source == f"models:/{run.outputs.model_outputs[0].model_id}"


def test_a_version_s_page_has_its_threshold_its_card_and_an_example_that_it_answers_as_when_it_was_made(
    files_only: tuple[Workspace, Config],
) -> None:
    space, config = files_only
    card = "AUC [0.9 (0.8 to 1.0)][a.json], [paper](https://doi.org/x), [all](index.html).\n\n[a.json]: b/a.json\n"
    (space.reports / "model_card.md").write_text(card)
    first = fill_store(space, config)
    client = connect(space)
    version = client.get_model_version(NAME, first.number)
    threshold = load_bundle(space.bundle(first.system)).vote.share_threshold
    assert float(version.tags["mammo.threshold"]) == threshold
    assert f"threshold of {threshold:g} " in version.description

    linked = re.findall(r"\[Model card\]\(#/experiments/\d+/runs/(\w+)/artifacts/(.+)\)", version.description)
    assert linked == [(first.run_id, "model_card.md")]
    shown = "AUC 0.9 (0.8 to 1.0), [paper](https://doi.org/x), all.\n\n"  # what lies beside it stays behind
    assert mlflow.artifacts.load_text(f"runs:/{first.run_id}/model_card.md") == shown
    (other,) = set(config.systems) - {first.system}
    files = client.list_artifacts(ensure_run(space, config, other))
    assert "model_card.md" not in [file.path for file in files]

    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{first.number}")
    (row,) = model.predict(model.input_example).to_dict("records")
    assert row["votes"] == json.loads(version.tags[registry.REFERENCE_TAG])["votes"]


def test_every_road_gives_the_same_row(space: Workspace, picture: Path) -> None:
    """`mammo predict`, an MLflow client, `mlflow models serve` and the service, on one picture."""
    from mlflow.pyfunc import scoring_server

    row = {key: value for key, value in predict_files(space, [picture])[0].items() if key != "file"}
    assert {"probability", "threshold", "prediction_set", "referral"} <= row.keys()

    connect(space)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    by_client = model.predict(pd.DataFrame({"image": [picture.read_bytes()]})).to_dict("records")[0]
    by_pixels = model.predict(pd.DataFrame({"pixels": [np.array(Image.open(picture)).tolist()]}))
    sent = {"dataframe_records": [{"image": base64.b64encode(picture.read_bytes()).decode()}]}
    with TestClient(scoring_server.init(model)) as client:
        by_server = client.post("/invocations", json=sent).json()["predictions"][0]
    with TestClient(create_app(Service(space))) as client:
        by_service = client.post("/v1/rois", content=picture.read_bytes()).json()["rois"][0]

    assert by_client == by_pixels.to_dict("records")[0] == row
    assert by_server == row
    assert {key: by_service[key] for key in row} == row


def test_the_signature_names_every_field_of_the_row_with_its_type(space: Workspace, tmp_path: Path) -> None:
    connect(space)
    outputs = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").metadata.get_output_schema()
    path = tmp_path / "roi.png"
    Image.new("L", (120, 120)).save(path)  # of which every field has a value
    row = predict_files(space, [path])[0]
    types = {"string": str, "double": float, "boolean": bool}
    named = {column.name: column.type for column in outputs.inputs}
    assert list(named) == [key for key in row if key != "file"]
    for name, kind in named.items():
        assert isinstance(row[name], types.get(getattr(kind, "name", ""), list))


def test_no_pickle_lies_in_a_registered_version(space: Workspace) -> None:
    names = [path.name for path in Path(space.mlruns / "artifacts").rglob("*") if path.is_file()]
    assert "model.safetensors" in names
    assert [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))] == []
