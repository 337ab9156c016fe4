"""Where a result comes from: commit, data and parameter hashes, library versions."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import yaml

LIBRARIES: Final = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "mlflow", "dvc", "optuna")


def git_commit(root: Path) -> str | None:
    """The commit of the checkout that holds `root`, with `-dirty` if tracked files differ; None outside git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # What the pipeline itself writes (dvc.lock, reports) does not change what the code does.
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ":!dvc.lock", ":!reports")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root.resolve()), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def data_hashes(root: Path) -> dict[str, str]:
    """DVC's hash of each data set, from `dvc.lock`: path → md5. Empty before the first `dvc repro`.

    Models and reports are left out: what the lock still holds of them is an earlier run's.
    """
    try:
        lock = yaml.safe_load((root / "dvc.lock").read_text()) or {}
    except FileNotFoundError:
        return {}
    return {
        out["path"]: out["md5"]
        for stage in lock.get("stages", {}).values()
        for out in stage.get("outs", [])
        if "md5" in out and out["path"].startswith("data/")
    }


def fingerprint(values: Any) -> str:
    """A short hash of plain values: equal settings and data give equal fingerprints."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
