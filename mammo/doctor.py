"""`mammo doctor`: what is here, what is missing, and how to get it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mammo.core.config import Config
from mammo.core.errors import MammoError
from mammo.core.files import Workspace
from mammo.core.provenance import library_versions


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "note", "error"]
    what: str
    found: str
    remedy: str = ""


def examine(space: Workspace) -> list[Finding]:
    """Look at everything; a check that fails is a finding, not an error."""
    return [
        *_versions(),
        _params(space),
        _device(),
        *_data(space),
        _weights(),
        *_models(space),
        _store(space),
        _disk(space),
    ]


def _versions() -> list[Finding]:
    versions = library_versions()
    return [Finding("ok", "versions", ", ".join(f"{name} {value}" for name, value in versions.items()))]


def _params(space: Workspace) -> Finding:
    try:
        config = Config.load(space.params)
    except MammoError as error:
        return Finding("error", "params.yaml", str(error), "mend the named key")
    return Finding("ok", "params.yaml", f"source {config.ingest.source}, systems {', '.join(config.systems)}")


def _device() -> Finding:
    import torch

    from mammo.systems.devices import choose_device, computes_bfloat16

    device = choose_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    precision = "bfloat16" if computes_bfloat16(device) else "float32"
    return Finding("ok", "device", f"{device.type} ({name}), {precision}")


def _data(space: Workspace) -> list[Finding]:
    try:
        raw = space.root / Config.load_own(space.params).ingest.raw
    except MammoError:
        return []
    if raw.exists():
        return [Finding("ok", "raw data", str(raw))]
    for name in ("MAMMO_MIAS_ROIS", "MAMMO_MINI_MIAS"):
        if os.environ.get(name):
            return [Finding("note", "raw data", f"{name}={os.environ[name]}, not fetched yet", "mammo fetch")]
    return [
        Finding("note", "raw data", f"{raw} is missing", "mammo fetch (or mammo phantom for synthetic films)")
    ]


def _weights() -> Finding:
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(path.name for path in folder.glob("*.pth"))
    if files:
        return Finding("ok", "ImageNet weights", ", ".join(files))
    remedy = "only needed for model.weights imagenet: torchvision downloads them on first use"
    return Finding("note", "ImageNet weights", f"none in {folder}", remedy)


def _models(space: Workspace) -> list[Finding]:
    try:
        systems = Config.load_own(space.params).systems
    except MammoError:
        return []
    missing = [system for system in systems if not space.bundle(system).is_dir()]
    if missing:
        return [
            Finding("note", "trained systems", f"missing: {', '.join(missing)}", "dvc repro (or dvc pull)")
        ]
    return [Finding("ok", "trained systems", ", ".join(systems))]


def _store(space: Workspace) -> Finding:
    from mammo.track.check import lacking, sqlite_path
    from mammo.track.registry import champion

    path = sqlite_path(space)
    if path is not None and not path.exists():
        return Finding("note", "tracking store", "empty", "dvc repro fills it")
    lacks = lacking(space)
    if lacks:
        return Finding("note", "tracking store", f"lacks {', '.join(lacks)}", "dvc repro brings it")
    try:
        version = champion(space, Config.load_own(space.params).register_.model_name)
    except MammoError as error:
        return Finding("note", "tracking store", str(error), "see the message")
    return Finding("ok", "tracking store", f"champion: version {version.number} ({version.system})")


def _disk(space: Workspace) -> Finding:
    if not space.root.is_dir():
        return Finding(
            "error", "free disk", f"no such folder: {space.root}", "name the project's root with --workspace"
        )
    free = shutil.disk_usage(space.root).free / 2**30
    level: Literal["ok", "note"] = "ok" if free > 2 else "note"
    return Finding(level, "free disk", f"{free:.1f} GiB", "" if free > 2 else "2 GiB are wanted")
