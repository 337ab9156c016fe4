"""Stage `ledger`: every system under the published and the honest protocols → one table."""

from rich.console import Console

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.studies.ledger import run_ledger
from mammo.studies.pool import default_jobs


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    run_ledger(space, config, default_jobs(config), Console())


if __name__ == "__main__":
    guarded(main)
