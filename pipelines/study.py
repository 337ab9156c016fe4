"""Stage `study`: the variants of a file compared within train and val → one table."""

import sys
from pathlib import Path

from rich.console import Console

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.studies.choices import run_study
from mammo.studies.pool import default_jobs


def main() -> None:
    """Compare the variants of the file named on the command line, in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    run_study(space, config, Path(sys.argv[1]), default_jobs(config), Console())


if __name__ == "__main__":
    guarded(main)
