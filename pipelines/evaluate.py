"""Stage `evaluate`: the only one that opens the test part → results, tables and pictures."""

from mammo.assessment import assess
from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.recording import record_evaluation
from mammo.reporting.results import write_results


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    assessment = assess(space, config)
    write_results(space, assessment)
    record_evaluation(space, config, assessment.results)


if __name__ == "__main__":
    guarded(main)
