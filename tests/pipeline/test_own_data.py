"""docs/own-data.md, followed to the letter in a clone in an empty folder."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mammo.core.config import IngestConfig, PhantomConfig
from mammo.core.errors import OFFLINE
from mammo.data.film_rois import load_films
from mammo.data.phantom import write_phantom
from tests.docker.processes import free_port
from tests.pipeline.workspaces import PROJECT
from tests.settings import section

SMALL = {"patches": {"tumor_draws": 40, "normal_draws": 40}, "train": {"epochs": 1, "patches_per_epoch": 64}}


def commands() -> list[str]:
    """The block of commands of the page."""
    (block,) = re.findall(r"```sh\n(.*?)```", (PROJECT / "docs" / "own-data.md").read_text(), re.DOTALL)
    return str(block).splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with `rois/rois.csv`, and a clone whose training is short."""
    home = tmp_path_factory.mktemp("home")
    films = tmp_path_factory.mktemp("films") / "phantom"
    write_phantom(section(PhantomConfig, n_patients=24, seed=3), films)
    rois = load_films(films, section(IngestConfig, source="phantom"))
    (home / "rois").mkdir()
    with (home / "rois" / "rois.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "patient"))
        rows = zip(rois.images, rois.labels, rois.table["patient_id"], strict=True)
        for number, (image, label, patient) in enumerate(rows):
            Image.fromarray(image).save(home / "rois" / f"{number:04d}.png")
            table.writerow((f"{number:04d}.png", ("Normal", "Tumor")[label], patient))
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(home / "clone")], check=True)
    params = home / "clone" / "params.yaml"
    values = yaml.safe_load(params.read_text()) | {"systems": ["compact-baseline"]}
    for name, changes in SMALL.items():
        values[name] |= changes
    params.write_text(yaml.safe_dump(values, sort_keys=False))
    who = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    subprocess.run(["git", *who, "commit", "--quiet", "--all", "-m", "small"], cwd=home / "clone", check=True)
    return home


@pytest.mark.slow
@pytest.mark.usefixtures("hears_interrupts")
def test_five_commands_lead_from_pictures_to_a_served_champion(home: Path) -> None:
    programs = Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MAMMO_"))} | OFFLINE
    environment |= {"HOME": str(home), "PYTHONPATH": str(home / "clone")}
    environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', '')}"
    *batch, serve = commands()
    said = []
    for command in batch:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=home / "clone",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        said.append(done.stdout)
    assert "patients" in said[0]
    assert "v1" in said[-1]
    assert "PHANTOM" not in (home / "clone" / "reports" / "model_card.md").read_text()
    port = free_port()  # 8000 may be somebody's
    with subprocess.Popen(
        ["bash", "-c", f"exec {serve} --port {port}"],
        cwd=home / "clone",
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stderr is not None
        assert f"voting service: http://127.0.0.1:{port}" in service.stderr.readline()
        service.send_signal(signal.SIGINT)
