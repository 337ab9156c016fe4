"""Stage `ledger`: every system under the published and the honest protocols → one table."""

from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.studies.fits import default_jobs
from mammo.studies.ledger import run_ledger


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    run_ledger(space, config, default_jobs(config), Console())


if __name__ == "__main__":
    guarded(main)
