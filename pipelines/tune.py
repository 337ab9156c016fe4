"""Stage `tune`: an Optuna study on folds inside train and val → reports/tune."""

from rich.console import Console

from mammo.config import Config
from mammo.entry import guarded
from mammo.layout import Workspace
from mammo.tuning.coordinator import Plan, default_workers, run_study


def main() -> None:
    """Make or continue the study of the current folder."""
    space = Workspace()
    config = Config.load(space.params)
    run_study(space, config, Plan(config.tune.trials, default_workers()), Console())


if __name__ == "__main__":
    guarded(main)
