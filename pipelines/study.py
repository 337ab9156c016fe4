"""Stage `study`: the variants of a file compared within train and val → one table."""

import sys
from pathlib import Path

from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.studies.fits import default_jobs
from mammo.studies.variants import run_study


def main() -> None:
    """Compare the variants of the file named on the command line, in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    run_study(space, config, Path(sys.argv[1]), default_jobs(config), Console())


if __name__ == "__main__":
    guarded(main)
