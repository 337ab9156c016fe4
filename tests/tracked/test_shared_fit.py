"""The stage `train` with two processes for one fit: one run, one bundle, and the same weights after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from mammo.core.config import Config
from mammo.core.errors import OFFLINE
from mammo.core.files import Workspace
from mammo.track.store import connect

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
SYSTEM = "compact-model1"


def start(space: Workspace) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "pipelines" / "train.py"), SYSTEM],
        cwd=space.root,
        env=os.environ | OFFLINE | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def shared_by_two(space: Workspace) -> None:
    values = yaml.safe_load(space.params.read_text())
    values["train"] |= {"processes": 2, "epochs": 8, "patches_per_epoch": 1024}
    space.params.write_text(yaml.safe_dump(values))


def weights(space: Workspace) -> bytes:
    return (space.bundle(SYSTEM) / "model.safetensors").read_bytes()


def test_two_processes_make_one_run_and_after_a_kill_the_same_weights(
    prepared: tuple[Workspace, Config],
) -> None:
    space, _ = prepared
    shared_by_two(space)
    with start(space) as doomed:
        assert doomed.stderr is not None
        assert any("epoch 1/8" in line for line in doomed.stderr)
        team = psutil.Process(doomed.pid).children(recursive=True)
        doomed.kill()
        _, alive = psutil.wait_procs(team, timeout=60)
    assert alive == []
    assert not space.bundle(SYSTEM).exists()
    killed_id = json.loads(space.run_note(SYSTEM).read_text())["run_id"]

    with start(space) as resumed:
        _, said = resumed.communicate()
    assert resumed.returncode == 0, said[-3000:]
    assert f"{SYSTEM} epoch 8/8" in said
    assert f"{SYSTEM} epoch 1/8" not in said
    after_kill = weights(space)
    client = connect(space)
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (killed_id, "FINISHED")
    assert run.data.params["train.processes"] == "2"
    steps = [metric.step for metric in client.get_metric_history(killed_id, "val_loss")]
    assert sorted(steps) == list(range(8))

    with start(space) as undisturbed:
        _, said = undisturbed.communicate()
    assert f"{SYSTEM} epoch 1/8" in said
    assert weights(space) == after_kill
