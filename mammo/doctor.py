"""`mammo doctor`: what is here, what is missing, and how to get it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace, read_table
from mammo.core.provenance import in_git, library_versions
from mammo.data.fetch import VARIABLES
from mammo.data.films import holds_films
from mammo.data.locate import located_line
from mammo.data.rois import load_rois


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "note", "error"]
    what: str
    found: str
    remedy: str = ""


def examine(workspace: Workspace) -> list[Finding]:
    """Look at everything; a check that fails is a finding, not an error."""
    versions = ", ".join(f"{name} {value}" for name, value in library_versions().items())
    findings = [Finding("ok", "versions", versions)]
    if not in_git(workspace.root):
        remedy = "clone the project, or run `git init`: DVC needs one"
        findings.append(Finding("note", "git", f"{workspace.root} lies in no repository", remedy))
    try:
        config = Config.load_own(workspace.params)
        Config.load(workspace.params)  # with the record of a study, if the settings come from one
    except MammoError as error:
        findings.append(Finding("error", "params.yaml", str(error), "mend the named key"))
        return [*findings, _device(), _disk(workspace)]
    systems = f"source {config.ingest.source}, systems {', '.join(config.systems)}"
    findings.append(Finding("ok", "params.yaml", systems))
    files = [*_data(workspace, config), _weights(workspace, config), _models(workspace, config)]
    return [*findings, _device(), *files, _store(workspace, config), _disk(workspace)]


def _device() -> Finding:
    import torch

    from mammo.systems.devices import choose_device, computes_bfloat16

    device = choose_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    precision = "bfloat16" if computes_bfloat16(device) else "float32"
    return Finding("ok", "device", f"{device.type} ({name}), {precision}")


def _data(workspace: Workspace, config: Config) -> list[Finding]:
    source = config.ingest.source
    place, variable = workspace.raw(source), VARIABLES.get(source, "")
    if not (holds_films(place) if source == "mini_mias" else place.exists()):
        remedy = {"phantom": "mammo phantom", "own": "mammo check CSV, then mammo fetch --archive CSV"}
        copy = os.environ.get(variable)
        found = f"{variable}={copy}, not fetched yet" if copy else f"{place} is missing"
        return [Finding("note", f"data of {source}", found, remedy.get(source, "mammo fetch"))]
    found = str(place)
    films = "films are there: `mammo locate`" if holds_films(workspace.films) else "unknown without the films"
    try:
        if source != "mini_mias":  # its films were checked when they came, and take half a minute
            counts, _, _ = load_rois(config.ingest, workspace.root).counts.partition(";")  # of patients below
            found = f"{place}: {counts}"
    except MammoError as error:
        return [Finding("error", f"data of {source}", str(error), "bring them again with `mammo fetch`")]
    data = Finding("ok", f"data of {source}", found)
    if source != "mias_rois":
        return [data]
    try:
        if workspace.located.is_file():
            films = located_line(read_table(workspace.located)) or films
    except MammoError as error:
        return [data, Finding("error", "patients", str(error), "make them again with `mammo locate`")]
    return [data, Finding("ok", "patients", films)]


def _weights(workspace: Workspace, config: Config) -> Finding:
    import torch

    wanted = config.model.weights
    if wanted == "hed":
        if not workspace.hed.is_file():
            return Finding("error", "weights", f"{workspace.hed} is missing", "mammo fetch --weights hed")
        return Finding("ok", "weights", str(workspace.hed))
    if wanted not in ("none", "imagenet"):
        if not (workspace.root / wanted).is_file():
            remedy = "set model.weights to none, imagenet, hed or the path of a state dict"
            return Finding("error", "weights", f"{wanted}: no such file", remedy)
        return Finding("ok", "weights", wanted)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(path.name for path in folder.glob("*.pth"))
    if files:
        return Finding("ok", "ImageNet weights", ", ".join(files))
    remedy = "only needed for model.weights imagenet: torchvision downloads them on first use"
    return Finding("note", "ImageNet weights", f"none in {folder}", remedy)


def _models(workspace: Workspace, config: Config) -> Finding:
    missing = [system for system in config.systems if not workspace.bundle(system).is_dir()]
    if missing:
        return Finding("note", "trained systems", f"missing: {', '.join(missing)}", "dvc repro (or dvc pull)")
    return Finding("ok", "trained systems", ", ".join(config.systems))


def _store(workspace: Workspace, config: Config) -> Finding:
    from mammo.serve.loaded import fetch_version
    from mammo.track.check import lacking, sqlite_path
    from mammo.track.registry import champion

    path = sqlite_path(workspace)
    if path is not None and not path.exists():
        return Finding("note", "tracking store", "empty", "dvc repro fills it")
    try:
        lacks = lacking(workspace)
        if lacks:
            return Finding("note", "tracking store", f"lacks {', '.join(lacks)}", "dvc repro brings it")
        version = champion(workspace, config.register_.model_name)
    except MammoError as error:
        return Finding("note", "tracking store", str(error), "see the message")
    try:
        fetch_version(workspace, config.register_.model_name, version.number)
    except MammoError as error:
        return Finding("error", "tracking store", str(error), "see the message")
    return Finding("ok", "tracking store", f"champion: version {version.number} ({version.system})")


def _disk(workspace: Workspace) -> Finding:
    if not workspace.root.is_dir():
        missing = f"no such folder: {workspace.root}"
        return Finding("error", "free disk", missing, "name the project's root with --workspace")
    free = shutil.disk_usage(workspace.root).free / 2**30
    if free > 2:
        return Finding("ok", "free disk", f"{free:.1f} GiB")
    return Finding("note", "free disk", f"{free:.1f} GiB", "2 GiB are wanted")
