"""Stage `train`: one system under an MLflow run → bundle, history, validation results."""

import sys

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.track.record import train_recorded


def main() -> None:
    """Train the system named on the command line, in the current folder."""
    workspace = Workspace()
    train_recorded(workspace, Config.load(workspace.params), sys.argv[1])


if __name__ == "__main__":
    guarded(main)
