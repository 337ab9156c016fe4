"""A project whose pipeline has run, clones of it, and a reader who types in a clone what a document says."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from PIL import Image

from mammo.core.config import OWN_SETTINGS, Config
from mammo.core.errors import OFFLINE
from mammo.core.files import Workspace, read_array
from mammo.core.provenance import STUDIES
from mammo.data.phantom import write_phantom
from tests.data.pictures import dicom
from tests.docker.processes import answers, free_port, wait_until
from tests.pipeline.workspaces import PROJECT, run
from tests.settings import TINY_MODEL

IDENTITY: Final = {"user.name": "tests", "user.email": "tests@localhost"}
SYSTEM: Final = "compact-model2"
FITS: Final = {"n_folds": 3, "n_seeds": 1}
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "phantom": {"n_patients": 24, "seed": 3},
    "ingest": {"source": "phantom"},
    "patches": {"tumor_draws": 4, "normal_draws": 4, "stride_px": 24},
    "model": TINY_MODEL,
    "train": {"epochs": 1, "patches_per_epoch": 64, "device": "cpu"},
    "evaluate": {"n_bootstrap": 100},
    "ledger": FITS | {"n_repeats": 1, "published_seeds": 1},
    "ablate": FITS,
    "study": FITS,
    "tune": {"trials": 2, "n_folds": 3, "nested_folds": 3, "nested_seeds": 1, "startup_trials": 1}
    | {"epochs": 1, "patches_per_epoch": 64, "warmup_epochs": 0, "pruner_startup": 1},
}
PICTURES: Final = ("roi.png", "a.png", "b.dcm", "film.pgm", "rois/", "more.zip", "own.csv", "scores.parquet*")
"""What the documents' commands read and write beside the project."""


def git(folder: Path, *arguments: str) -> str:
    """What git says."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def must(space: Workspace, *command: str) -> str:
    """What a program that succeeds says."""
    done = run(space, *command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def add_films(space: Workspace) -> None:
    """The phantom films, which no repository holds."""
    write_phantom(Config.load(space.params).phantom, space.root / "data" / "raw" / "phantom")


def make_origin(root: Path) -> Workspace:
    """The project's tree with small settings, its pipeline run, committed to git and pushed to a DVC remote."""
    space = Workspace(root / "project")
    names = git(PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (space.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, space.root / name)
    values = yaml.safe_load(space.params.read_text()) | {"settings_from": OWN_SETTINGS, "systems": [SYSTEM]}
    for section, changes in SETTINGS.items():
        values[section] |= changes
    space.params.write_text(yaml.safe_dump(values, sort_keys=False))
    graph = space.root / STUDIES
    graph.write_text(re.sub(r"file: \[choices, .*\]", "file: [choices, roads]", graph.read_text()))
    git(space.root, "init", "--quiet")
    must(space, "dvc", "remote", "add", "--default", "results", str(root / "remote"))
    add_films(space)
    must(space, "dvc", "repro")
    must(space, "dvc", "push", "dvc.yaml")
    git(space.root, "add", "--all")
    for name, value in IDENTITY.items():
        git(space.root, "config", name, value)
    git(space.root, "commit", "--quiet", "--message", "results")
    return space


def clone_of(origin: Workspace, folder: Path) -> Workspace:
    """What `git clone` gives, with the films in place."""
    clone = Workspace(folder)
    git(folder.parent, "clone", "--quiet", str(origin.root), str(clone.root))
    for name, value in IDENTITY.items():
        git(clone.root, "config", name, value)
    add_films(clone)
    return clone


def commands(document: str) -> list[str]:
    """The lines of a document's shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (PROJECT / document).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def give_pictures(clone: Workspace) -> None:
    """The pictures that the documents name, outside of git."""
    images = read_array(clone.rois / "images.npy")
    for name in ("roi.png", "a.png", "rois/0.png", "rois/1.png"):
        (clone.root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(images[0]).save(clone.root / name)
    film = next((clone.root / "data" / "raw" / "phantom").glob("*.pgm"))
    with Image.open(film) as picture:
        picture.resize((1024, 1024)).save(clone.root / "film.pgm")
    (clone.root / "b.dcm").write_bytes(dicom(images[1], ImagerPixelSpacing=[0.2, 0.2]))
    shutil.make_archive(str(clone.root / "more"), "zip", clone.root / "rois")
    (clone.root / "own.csv").write_text("path\nroi.png\na.png\n")
    (clone.root / ".git" / "info" / "exclude").write_text("\n".join(PICTURES))


@dataclass
class Reader:
    """Somebody who types commands in a clone; `words` are written in place of the documents' own."""

    clone: Workspace
    home: Path
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell that has been opened for this: the clone's code, nothing set but data and home."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MAMMO_"))} | OFFLINE
        kept |= {"HOME": str(self.home), "PYTHONPATH": str(self.clone.root)}
        kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return kept

    def spelled(self, line: str) -> str:
        """The line with the reader's words; `make` takes the environment of the tests as it is."""
        for word, other in self.words.items():
            line = line.replace(word, other)
        return re.sub(r"^make ", f"make -o link -o install VENV={sys.prefix} ", line)

    def follow(self, lines: Iterable[str]) -> list[str]:
        """What the shell says to each line."""
        return [self.type(line) for line in lines]

    def type(self, line: str, *ends_with: int) -> str:
        """What the shell says to the line, which ends with one of these codes; 0, if none is named."""
        done = subprocess.run(
            ["bash", "-c", self.spelled(line)],
            cwd=self.clone.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode in (ends_with or (0,)), f"{line}\n{said[-3000:]}"
        assert "Traceback" not in said
        return said

    @contextmanager
    def keep_open(self, line: str, path: str = "/") -> Iterator[str]:
        """The address of a server that the line starts, until Ctrl-C; it takes a port that is free."""
        port = free_port()
        with subprocess.Popen(
            ["bash", "-c", f"exec {self.spelled(line)} --port {port}"],
            cwd=self.clone.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            address = f"http://127.0.0.1:{port}"
            try:
                wait_until(lambda: answers(address + path), 120, lambda: f"{line} does not answer")
                yield address
                server.send_signal(signal.SIGINT)
                server.wait(60)
            finally:
                server.kill()
        assert server.returncode in (0, 130), line
