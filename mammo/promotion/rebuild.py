"""A version made again from its commit, its settings and the raw data, and what of it comes out the same."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mammo.core.errors import MammoError, TrackingError
from mammo.core.files import WEIGHTS_FILE, Workspace, read_json, sha256_of
from mammo.promotion.trace import text_of, trace

RAW = ("data/raw", "data/weights")


@dataclass(frozen=True)
class Compared:
    """One thing that was made again."""

    name: str
    registered: str
    rebuilt: str

    @property
    def agrees(self) -> bool:
        """Whether it came out the same."""
        return self.registered == self.rebuilt


def rebuild(workspace: Workspace, name: str, number: str, say: Callable[[str], None]) -> list[Compared]:
    """Run the pipeline for a version's system in a clean worktree of its commit; compare weights and test metrics.

    Nothing is taken from DVC's cache: every stage runs. It takes as long as `dvc repro` does for one system.

    Raises:
        TrackingError: the version is not there, or its run keeps too little.
        MammoError: the commit is not there or was not clean, or a stage failed.
    """
    made = trace(workspace, name, number)
    system, params = made.version["system"], text_of(made.run_id, "params.yaml")
    results = text_of(made.run_id, "evaluate/results.json")
    if params is None or results is None:
        raise TrackingError(
            f"{name} version {number}: its run {made.run_id} keeps no params.yaml or no test results; register the "
            "system with `dvc repro`, which logs both"
        )
    with worktree(workspace.root, made.commit) as root:
        settings = yaml.safe_load(params) | {"systems": [system]}
        (root / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        for folder in RAW:
            if (workspace.root / folder).is_dir():
                shutil.copytree(workspace.root / folder, root / folder, dirs_exist_ok=True)
        say(f"{root}: running the pipeline of commit {made.commit[:10]} for {system}")
        run_stages(root)
        rebuilt = Workspace(root)
        again = read_json(rebuilt.reports / "evaluate" / "results.json")["systems"][system]["roi"]
        before = json.loads(results)["systems"][system]["roi"]
        weights = sha256_of(rebuilt.bundle(system) / WEIGHTS_FILE)
        compared = [Compared("weights", made.version["weights_sha256"], weights)]
        return compared + [Compared(one, _shown(before[one]), _shown(again.get(one))) for one in before]


def _shown(estimate: dict[str, Any] | None) -> str:
    return "none" if estimate is None else str(estimate["value"])


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A clean checkout of a commit, in a folder of its own that goes at the end."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root.resolve()), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if not commit or commit.endswith("-dirty") or " " in commit:
        raise MammoError(
            f"commit: the version must come from a clean commit to be made again, its run says {commit or 'none'!r}; "
            "commit the code and train again with `dvc repro`"
        )
    folder = Path(tempfile.mkdtemp(prefix="mammo-rebuild-"))
    try:
        within = git("rev-parse", "--show-prefix")
        git("worktree", "add", "--detach", str(folder / "tree"), commit)
        yield folder / "tree" / within
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise MammoError(
            f"{root.resolve()}: has no commit {commit[:10]} ({said.strip().splitlines()[-1]}); fetch it with git"
        ) from error
    finally:
        subprocess.run(
            ["git", "-C", str(root.resolve()), "worktree", "remove", "--force", str(folder / "tree")],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(folder, ignore_errors=True)


def run_stages(root: Path) -> None:
    """`dvc repro evaluate` with the checkout's own code and a cache and a store of its own."""
    environment = os.environ | {"PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        environment.pop(name, None)
    (root / "dvc.lock").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "evaluate"], cwd=root, env=environment, check=False
    )
    if done.returncode:
        raise MammoError(f"{root}: `dvc repro evaluate` failed; mend what its message above names")
