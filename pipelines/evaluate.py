"""Stage `evaluate`: the only one that opens the test part → results, tables and pictures."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.report.results import write_results
from mammo.systems.assess import assess


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    write_results(space, assess(space, Config.load(space.params)))


if __name__ == "__main__":
    guarded(main)
