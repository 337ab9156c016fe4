"""Stage `train`: one system under an MLflow run → bundle, history, validation results."""

import sys

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.systems.parallel import is_launched, relaunch
from mammo.track.record import train_recorded


def main() -> None:
    """Train the system named on the command line, in the current folder; with `train.processes` by torchrun."""
    space = Workspace()
    config = Config.load(space.params)
    if config.train.processes > 1 and not is_launched():
        relaunch(config.train.processes, sys.argv, config.train.threads)
    train_recorded(space, config, sys.argv[1])


if __name__ == "__main__":
    guarded(main)
