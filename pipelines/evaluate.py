"""Stage `evaluate`: the only one that opens the test part → results, tables and pictures."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.report.evaluation_files import write_results
from mammo.systems.assess import assess


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    write_results(workspace, assess(workspace, Config.load(workspace.params)))


if __name__ == "__main__":
    guarded(main)
