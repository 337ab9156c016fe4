"""Commits, hashes of data and code, library versions, and calling DVC."""

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

from mammo.core.config import Config
from mammo.core.errors import MammoError, set_environment
from mammo.core.files import Workspace

LIBRARIES: Final = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "mlflow", "dvc", "optuna")
STUDIES: Final = Path("pipelines", "studies", "dvc.yaml")


def git(root: Path, *arguments: str) -> str:
    """What git prints in a folder; `subprocess.CalledProcessError` where it refuses."""
    command = ["git", "-C", str(root.resolve()), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def git_commit(root: Path) -> str | None:
    """The commit of the checkout that holds `root`, with `-dirty` if tracked files differ; None outside git."""
    try:
        commit = git(root, "rev-parse", "HEAD")
        # What the pipeline itself writes (dvc.lock, reports) does not change what the code does.
        changed = git(root, "status", "--porcelain", "--untracked-files=no", "--", ":!dvc.lock", ":!reports")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def data_hashes(root: Path) -> dict[str, str]:
    """DVC's hash of each data set, from `dvc.lock`: path → md5. Empty before the first `dvc repro`."""
    lock = root / "dvc.lock"
    return hashes_in(lock.read_text()) if lock.exists() else {}


def hashes_in(text: str) -> dict[str, str]:
    """Those in a `dvc.lock`'s text, without models and reports: what it still holds of them is an earlier run's."""
    lock = yaml.safe_load(text) or {}
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


@cache
def code_mark(names: tuple[str, ...]) -> str:
    """A hash of the code in files and folders of the package; comments, docstrings and layout do not change it."""
    paths = (Path(__file__).parents[1] / name for name in names)
    modules = (sorted(path.rglob("*.py")) if path.is_dir() else [path] for path in paths)
    return fingerprint([syntax_of(module.read_text()) for of_name in modules for module in of_name])


def syntax_of(source: str) -> str:
    """What Python makes of a module, without its comments, layout and docstrings."""

    def is_text(line: ast.stmt) -> bool:
        match line:
            case ast.Expr(ast.Constant(str())):
                return True
        return False

    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Module(body) | ast.ClassDef(body=body) | ast.FunctionDef(body=body):
                node.body = [line for line in body if not is_text(line)]
    return ast.dump(tree)


def run_dvc(folder: Path, *arguments: str, **variables: str) -> None:
    """Run a DVC command in `folder`, with variables; its output goes to the terminal. `MammoError` where it failed."""
    set_environment()
    # The stages say `python`: it must be this environment's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"PATH": path} | variables
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, check=False)
    if done.returncode != 0:
        remedy = "mend what its message above names"
        if not in_git(folder):
            remedy = "DVC works in a git repository, and this is none; clone the project, or run `git init` in it"
        raise MammoError(f"{folder}: `dvc {' '.join(arguments)}` failed; {remedy}")


def in_git(folder: Path) -> bool:
    """Whether the folder lies in a git repository."""
    return any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents))


def note_made(workspace: Workspace, stage: str, file: Path | None = None) -> None:
    """Write down what a study rested on when its command ended, so that `dvc status` lists it only after a change.

    A study of another file than those of the graph, or of a workspace without it, is unknown to DVC. Within
    `dvc repro` DVC writes it down itself.
    """
    graph = workspace.root / STUDIES
    if "DVC_STAGE" in os.environ or not graph.is_file() or not (workspace.root / ".dvc").is_dir():
        return
    name = stage if file is None else f"{stage}@{file.stem}"
    stages = yaml.safe_load(graph.read_text())["stages"]
    if stage in stages and (file is None or file.stem in stages[stage]["matrix"]["file"]):
        run_dvc(workspace.root, "commit", "--quiet", "--force", f"{STUDIES}:{name}")


AUTHOR: Final = "mammo@localhost"
"""Of the commits in folders that the program makes."""


def commit_all(folder: Path, message: str, *options: str) -> None:
    """Commit what has changed in `folder`, a git repository of its own; it becomes one first, if need be.

    Raises:
        MammoError: git is missing, or refuses.
    """
    who = ("-c", "user.name=mammo", "-c", f"user.email={AUTHOR}", "-c", "commit.gpgsign=false")
    author = f"--author=mammo <{AUTHOR}>"  # also where the environment names another
    calls = [
        *([] if (folder / ".git").exists() else [("init", "--quiet")]),
        ("add", "--all"),
        (*who, "commit", "--quiet", author, "--message", message, *options),
    ]
    try:
        for call in calls:
            done = subprocess.run(["git", *call], cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0 and "nothing to commit" not in done.stdout:
                raise MammoError(f"{folder}: `git {call[0]}` failed ({done.stderr.strip()}); mend what it names")
    except FileNotFoundError as error:
        raise MammoError("git: must be installed, was not found; install it and run again") from error


def version_file(path: Path) -> None:
    """Put a file that has a `.dvc` file beside it into DVC's cache, so that `dvc push` can take it anywhere."""
    if path.with_name(f"{path.name}.dvc").is_file():
        run_dvc(path.parent, "commit", "--quiet", "--force", f"{path.name}.dvc")


def ensure_split(workspace: Workspace) -> None:
    """Where ROIs or groups are missing, as in a fresh clone, let DVC make them from the raw data, or `MammoError`."""
    there = all(path.exists() for path in (workspace.split, workspace.overlaps, workspace.rois))
    if not there and (workspace.root / "dvc.yaml").is_file():
        raw = workspace.raw(Config.load_own(workspace.params).ingest.source)
        if not raw.exists():
            raise MammoError(
                f"{raw}: does not exist; run `mammo fetch` to get the raw data (`mammo phantom` makes synthetic films) "
                "and then the same command"
            )
        run_dvc(workspace.root, "repro", "split")
