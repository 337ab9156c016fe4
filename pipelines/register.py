"""Stage `register`: what MLflow's store lacks of the results → runs with test results, a version, a champion.

It runs in every `dvc repro` and imports little before it knows that there is something to do.
"""

import sys

from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.track.check import lacking


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    lacks = lacking(workspace)
    if lacks == []:
        sys.stdout.write("MLflow's store is up to date: runs, version and champion are there\n")
        return
    sys.stdout.write(f"MLflow's store gets {'what it lacks' if lacks is None else ', '.join(lacks)}\n")
    sys.stdout.flush()
    from mammo.core.config import Config
    from mammo.track.record import fill_store

    version = fill_store(workspace, Config.load(workspace.params))
    aliases = ", ".join(version.aliases) or "none"
    sys.stdout.write(f"version {version.number} ({version.system}): {version.reason}; aliases: {aliases}\n")


if __name__ == "__main__":
    guarded(main)
