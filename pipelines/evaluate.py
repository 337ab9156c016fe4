"""Stage `evaluate`: the only one that opens the test part → results, tables and pictures."""

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.report.results import write_results
from mammo.systems.assess import assess
from mammo.track.record import record_evaluation


def main() -> None:
    """Run the stage in the current folder."""
    workspace = Workspace()
    config = Config.load(workspace.params)
    assessment = assess(workspace, config)
    write_results(workspace, assessment)
    record_evaluation(workspace, config, assessment.results)


if __name__ == "__main__":
    guarded(main)
