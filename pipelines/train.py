"""Stage `train`: one system under an MLflow run → bundle, history, validation results."""

import sys

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.recording import train_recorded


def main() -> None:
    """Train the system named on the command line, in the current folder."""
    space = Workspace()
    train_recorded(space, Config.load(space.params), sys.argv[1])


if __name__ == "__main__":
    guarded(main)
