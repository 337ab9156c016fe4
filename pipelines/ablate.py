"""Stage `ablate`: each defect of the paper's recipe toggled alone → its effect."""

from rich.console import Console

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.studies.ablation import run_ablation
from mammo.workers import usable_cpus


def main() -> None:
    """Run the stage in the current folder."""
    space = Workspace()
    run_ablation(space, Config.load(space.params), usable_cpus(), Console())


if __name__ == "__main__":
    guarded(main)
