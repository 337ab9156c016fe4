"""Calling DVC from the project's own commands, with this environment's programs and with analytics off."""

import os
import subprocess
import sys
from pathlib import Path

from mammo.config import Config
from mammo.entry import OFFLINE
from mammo.errors import MammoError
from mammo.layout import Workspace


def run_dvc(folder: Path, *arguments: str) -> None:
    """Run a DVC command in `folder`; its output goes to the terminal.

    Raises:
        MammoError: the command failed; its own message stands above.
    """
    binaries = Path(sys.executable).parent
    # The stages say `python`: it must be this environment's.
    environment = {**os.environ, **OFFLINE, "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, check=False)
    if done.returncode != 0:
        raise MammoError(f"{folder}: `dvc {' '.join(arguments)}` failed; mend what its message above names")


def version_file(path: Path) -> None:
    """Put a file that has a `.dvc` file beside it into DVC's cache, so that `dvc push` can take it anywhere."""
    if path.with_name(f"{path.name}.dvc").is_file():
        run_dvc(path.parent, "commit", "--quiet", "--force", f"{path.name}.dvc")


def ensure_split(space: Workspace) -> None:
    """Where ROIs or groups are missing, as in a fresh clone, let DVC make them from the raw data.

    Raises:
        MammoError: the raw data are missing, or DVC could not.
    """
    missing = not space.split.is_file() or not space.overlaps.is_file() or not space.rois.is_dir()
    if missing and (space.root / "dvc.yaml").is_file():
        raw = space.root / Config.load_own(space.params).ingest.raw
        if not raw.exists():
            raise MammoError(
                f"{raw}: does not exist; run `mammo fetch` to get the raw data (`mammo phantom` makes synthetic films) "
                "and then the same command"
            )
        run_dvc(space.root, "repro", "split")
