"""How much of a trial is not training: `python benchmarks/tune_overhead.py [TRIALS]`, after `dvc repro split`.

Runs a study of the workspace's own size with one worker in this process, on a journal and an MLflow store of its own,
and says what each part costs of the time that fitting and judging take. The promise is 5%.
"""

import resource
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from rich.console import Console

from mammo.core.config import Config
from mammo.core.errors import guarded
from mammo.core.files import Workspace
from mammo.track.store import connect
from mammo.tuning.mlflow import write_runs
from mammo.tuning.objective import FIT_S, JUDGE_S, TRIAL_S, trial_folds
from mammo.tuning.record import study_record, write_record
from mammo.tuning.storage import using_storage
from mammo.tuning.study import make_study
from mammo.tuning.workers import work


def main() -> None:
    """Measure and print."""
    n_trials = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(Path(folder))
        shutil.copytree("data/rois", space.rois)
        space.split.parent.mkdir(parents=True)
        shutil.copy(Workspace().split, space.split)
        measure(space, Config.load_own(Workspace().params), n_trials)


def measure(space: Workspace, config: Config, n_trials: int) -> None:
    """Run the study and say what each part took, by the clock and in processor seconds of the command's part."""
    with using_storage(space, None, None) as storage:
        opened = make_study(space, config, storage, trial_folds(space, config), fresh=True)
        started = perf_counter()
        work(space, config, n_trials=n_trials)
        whole = perf_counter() - started
        attrs = [trial.user_attrs for trial in opened.ended]
        fit, judge, trials = (sum(float(a[name]) for a in attrs) for name in (FIT_S, JUDGE_S, TRIAL_S))
        before = _processor_s()
        connect(space)
        connected = _processor_s()
        record = study_record(opened)
        write_record(opened, record)
        drawn = _processor_s()
        write_runs(opened, record)
        ended = _processor_s()
    console = Console()
    training = fit + judge
    rows = {
        "fitting and judging": training,
        "worker's set-up, once (read, join)": whole - trials,
        "within trials (take, draw patches, build, report, prune)": trials - training,
        "MLflow's import and connection, once": connected - before,
        "reports and plots, once": drawn - connected,
        "MLflow's runs": ended - drawn,
    }
    console.print(f"{n_trials} trials, pruning saved {record['pruning']['saved_share']:.0%}", highlight=False)
    for name, seconds in rows.items():
        console.print(f"{seconds:8.2f} s  {seconds / training:6.1%}  {name}", highlight=False)
    each = (rows["within trials (take, draw patches, build, report, prune)"] + rows["MLflow's runs"]) / training
    once = sum(seconds for name, seconds in rows.items() if "once" in name)
    default = once / (training / n_trials * config.tune.trials)
    console.print(
        f"overhead: {each:.1%} in each trial, {default:.1%} once in a study of {config.tune.trials}; "
        f"together {each + default:.1%}",
        highlight=False,
    )


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    guarded(main)
