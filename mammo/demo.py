"""`mammo demo`: the same pipeline on phantoms, in a workspace of its own."""

import os
import shutil
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, Final

import yaml
from rich.console import Console
from typer import echo

from mammo.core.config import OWN_SETTINGS, Config
from mammo.core.errors import PHANTOM, MammoError
from mammo.core.files import Workspace, read_json, write_bytes
from mammo.core.provenance import AUTHOR, commit_all, git, run_dvc
from mammo.core.settings import parse_yaml
from mammo.data.phantom import write_phantom
from mammo.data.splits import read_parts
from mammo.report.rois import vote_picture
from mammo.report.terminal import results_table, versions_table
from mammo.serve.predict import explain_rois
from mammo.track.registry import versions

Settings = dict[str, dict[str, Any]]

COPIED: Final = ("dvc.yaml", ".dvcignore", ".gitignore", "pipelines", "mammo", "data/raw/mini_mias/README.md")
"""With what the stages depend on: DVC then sees in the workspace what has changed."""

COMMAND_REPORTS: Final = ("ablate", "ledger", "seeds", "study", "tune")
"""Folders of `reports/` that commands fill, and that the page's stage reads whether or not they have run."""

SETTINGS: Final[Settings] = {
    "phantom": {"n_patients": 60},
    "ingest": {"source": "phantom"},
    "patches": {"tumor_draws": 100, "normal_draws": 100},
    "split": {"protocol": "auto"},
    "train": {"epochs": 6, "patches_per_epoch": 640},
}
"""What differs from params.yaml, so that the demo ends within minutes."""

TUNE_SETTINGS: Final[Settings] = {
    "ingest": SETTINGS["ingest"],
    "phantom": {"n_patients": 28},
    "split": SETTINGS["split"],
    "tune": {"epochs": 3, "patches_per_epoch": 128, "n_folds": 3}
    | {"warmup_epochs": 1, "startup_trials": 3, "pruner_startup": 2},
}
"""A study on phantoms that ends within minutes: a demonstration, whose choice means nothing for real films."""


def run_demo(folder: Path) -> None:
    """Make or refresh the demo's workspace; show the results, the champion and one vote. Errors as `reproduce`."""
    echo(f"phantom films of {SETTINGS['phantom']['n_patients']} patients (synthetic) …")
    workspace = reproduce(folder, SETTINGS, "mammo demo")
    results = results_table(read_json(workspace.reports / "evaluate" / "results.json"))
    name = Config.load(workspace.params).register_.model_name
    Console().print(results, versions_table(versions(workspace, name)))
    picture = draw_one_vote(workspace)
    commit_all(workspace.root, "what it made")
    echo(
        f"picture of a vote: {picture}\n"
        f"results: {workspace.reports / 'evaluate' / 'results.md'}\n"
        "next: make ui    (compare the runs in MLflow)\n"
        "      make serve (send a ROI to the champion)"
    )


def reproduce(folder: Path, settings: Settings, command: str, *stages: str) -> Workspace:
    """Make or refresh a workspace from the checkout we are in: draw its films, run its stages (all, if none is named).

    Raises:
        MammoError: this is no checkout, or a stage failed.
    """
    if os.environ.pop("MLFLOW_TRACKING_URI", None):
        echo("phantoms have a store of their own: unset MLFLOW_TRACKING_URI before you look at it")
    workspace = prepare(Path(), folder, settings, command)
    config = Config.load(workspace.params)
    write_phantom(config.phantom, workspace.raw(config.ingest.source))
    run_dvc(workspace.root, "repro", *stages)
    return workspace


def prepare(project: Path, folder: Path, settings: Settings = SETTINGS, command: str = "mammo demo") -> Workspace:
    """Copy the pipeline into `folder` with other settings; files that are equal stay untouched.

    What a study chose stays behind: its patches and rates are no settings for a pipeline of minutes.
    """
    if not (project / "dvc.yaml").is_file():
        raise MammoError(f"{project.resolve()}: has no dvc.yaml; run `{command}` from the project's root")
    if folder.resolve() == project.resolve():
        raise MammoError(
            f"{folder.resolve()}: is the project itself, whose params.yaml would be replaced; name another folder, for "
            f"example `{command} --workspace demo`"
        )
    if folder.is_dir() and {path.name for path in folder.iterdir()} - {".git"} and not _is_ours(folder):
        raise MammoError(
            f"{folder}: must be new, empty or an earlier demo, whose files are replaced; name another folder, for "
            f"example `{command} --workspace demo`"
        )
    Config.load_own(project / "params.yaml")
    values = parse_yaml((project / "params.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():  # a repository of its own, for `dvc exp` and `dvc metrics diff`
        commit_all(folder, "nothing yet", "--allow-empty")
    values["settings_from"] = OWN_SETTINGS
    for section, changes in settings.items():
        values[section] |= changes
    Config.parse(values)
    write_bytes(folder / "params.yaml", yaml.safe_dump(values, sort_keys=False).encode())
    for name in git(folder, "ls-files", "--", *COPIED).splitlines():
        if name.endswith(".py") and not (project / name).exists():  # it had it when the folder was made
            (folder / name).unlink(missing_ok=True)
    left_out = shutil.ignore_patterns("__pycache__", "*.parquet")
    for source, target in ((project / name, folder / name) for name in COPIED):
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=left_out)
        else:
            shutil.copy2(source, target)
    for name in COMMAND_REPORTS:
        # DVC warns of every empty folder that a stage depends on.
        note = f"`mammo {name}` writes its tables here; `dvc repro report` then shows them in `reports/index.html`.\n"
        write_bytes(folder / "reports" / name / "README.md", note.encode())
    if not (folder / ".dvc").exists():
        run_dvc(folder, "init", "--quiet", "--force")
        for name, value in (("core.analytics", "false"), ("core.autostage", "true")):
            run_dvc(folder, "config", name, value)
    commit_all(folder, f"the pipeline of {command}")
    return Workspace(folder)


def _is_ours(folder: Path) -> bool:
    """Whether the folder's repository began as a demo's."""
    try:
        return (folder / ".git").exists() and git(folder, "log", "--format=%ae").split()[-1:] == [AUTHOR]
    except CalledProcessError:  # without a commit
        return False


def draw_one_vote(workspace: Workspace) -> Path:
    """Let the registered champion vote on the first Tumor ROI of the test part, and draw it."""
    test = read_parts(workspace).part("test")
    name = str(test.table["roi_id"][int(test.labels.argmax())])
    ((_, found),) = explain_rois(workspace, [name])
    path = workspace.reports / "vote.png"
    vote_picture(found.image, found.vote, found.corners, found.size_px, path, f"{PHANTOM} ROI {name}")
    return path
