"""Stage `register`: what MLflow's store lacks of the results → runs with test results, a version, a champion.

It runs in every `dvc repro` and imports little before it knows that there is something to do. An experiment of DVC
gets its runs, and no version beside a champion: `dvc exp apply NAME` and `dvc repro` ask for that.
"""

import os
import sys
from shutil import rmtree

from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.track.check import EXPERIMENT, lacking


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    rmtree(workspace.checkpoints, ignore_errors=True)  # every system is trained
    lacks = lacking(workspace)
    if lacks == []:
        sys.stdout.write("MLflow's store is up to date: runs, version and champion are there\n")
        return
    sys.stdout.write(f"MLflow's store gets {'what it lacks' if lacks is None else ', '.join(lacks)}\n")
    sys.stdout.flush()
    from mammo.core.config import Config
    from mammo.track.record import fill_store, record_evaluations
    from mammo.track.registry import versions

    config = Config.load(workspace.params)
    registered = versions(workspace, config.register_.model_name)
    if (name := os.environ.get(EXPERIMENT)) and any("champion" in one.aliases for one in registered):
        record_evaluations(workspace, config)
        sys.stdout.write(
            f"experiment {name}: its runs are in MLflow; to register it: dvc exp apply {name} && dvc repro\n"
        )
        return
    version = fill_store(workspace, config)
    aliases = ", ".join(version.aliases) or "none"
    sys.stdout.write(f"version {version.number} ({version.system}): {version.reason}; aliases: {aliases}\n")


if __name__ == "__main__":
    guarded(main)
