"""From an answer back to what made it."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from mammo.core.config import Config
from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import Workspace, tree_sha256
from mammo.data.splits import read_parts
from mammo.promotion.trace import rebuild, trace
from mammo.serve.predict import predict_files
from mammo.track import registry
from mammo.track.check import BUNDLE_TAG
from mammo.track.store import connect
from tests.tracked.registered import NAME

PACKAGE = Path(registry.__file__).parents[1]


def test_a_version_is_traced_to_its_run_code_settings_and_rois(space: Workspace, config: Config) -> None:
    found = trace(space, NAME, "1")
    champion = registry.champion(space, NAME)
    assert found.run_id == champion.run_id
    assert found.version["weights_sha256"] == champion.weights_sha256
    assert found.code_sha256 == tree_sha256(PACKAGE)
    assert found.rois == {"train": 16, "val": 8}
    assert found.settings["patches.stride_px"] == str(config.patches.stride_px)
    assert found.training_roi is None


def test_an_answer_about_a_training_roi_is_traced_to_that_roi(space: Workspace, tmp_path: Path) -> None:
    parts = read_parts(space)
    for part in ("train", "test"):
        rois = parts.part(part)
        Image.fromarray(rois.images[0]).save(tmp_path / f"{part}.png")
    fitted, unseen = (
        row["prediction_id"] for row in predict_files(space, [tmp_path / "train.png", tmp_path / "test.png"])
    )
    assert trace(space, NAME, fitted).training_roi == parts.part("train").table["roi_id"].iloc[0]
    assert trace(space, NAME, unseen).training_roi is None


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nine", "must be a version of mammo-roi such as 2, or a prediction_id"),
        ("9", r"version must be one of \[1\], got '9'"),
        ("v1.00000000.0123456789abcdef", "another registry's version gave this answer"),
    ],
)
def test_what_cannot_be_traced_is_refused(space: Workspace, what: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message):
        trace(space, NAME, what)


def test_a_version_whose_run_is_gone_is_traced_by_another_of_its_bundle_or_refused(
    space: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(space.mlruns / "mlflow.db", tmp_path / "mlruns")
    copy, champion = Workspace(tmp_path), registry.champion(space, NAME)
    client = connect(copy)
    for tags in ({BUNDLE_TAG: champion.bundle_sha256}, {}):
        client.create_model_version(NAME, "s3://nowhere", run_id="0" * 32, tags=tags)
    assert trace(copy, NAME, "2").run_id == champion.run_id
    for look in (partial(trace, copy, NAME, "3"), partial(rebuild, copy, NAME, "3", print)):
        with pytest.raises(TrackingError, match=r"mammo-roi version 3: its run 0{32} cannot be read .*`dvc repro`"):
            look()


def test_a_version_of_uncommitted_code_is_not_rebuilt(space: Workspace) -> None:
    with pytest.raises(MammoError, match="must come from a clean commit"):
        rebuild(space, NAME, "1", lambda _: None)


def test_a_process_with_another_mammo_does_not_vote_for_a_version(
    files_only: tuple[Workspace, Config],
) -> None:
    import mlflow

    from mammo.serve.loaded import fetch_version
    from mammo.track.record import fill_store

    space, config = files_only
    fill_store(space, config)
    files = fetch_version(space, NAME, "1")
    decoder = files.code / "mammo" / "data" / "decode.py"
    decoder.write_text(decoder.read_text() + "\n")
    connect(space)
    with pytest.raises(MammoError, match="votes with its own code"):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    with pytest.raises(TrackingError, match="must be what was registered"):
        fetch_version(space, NAME, "1")
