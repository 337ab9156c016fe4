"""Stage `ledger`: every system under the published and the honest protocols → one table."""

from rich.console import Console

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.studies.ledger import run_ledger
from mammo.workers import usable_cpus


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    run_ledger(space, Config.load(space.params), usable_cpus(), Console())


if __name__ == "__main__":
    guarded(main)
