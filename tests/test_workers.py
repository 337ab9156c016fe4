"""Ctrl-C reaches the command alone: its workers neither die of it nor print. They end with it, a stage with its DVC."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mammo.core.processes import deaf_to_interrupts

pytestmark = pytest.mark.usefixtures("hears_interrupts")

INTERRUPTED_AT_ONCE = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"


def interrupted_at_once() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", INTERRUPTED_AT_ONCE], capture_output=True, text=True, check=False)


def test_a_worker_ignores_ctrl_c_from_its_first_moment() -> None:
    with deaf_to_interrupts():
        worker = interrupted_at_once()

    assert (worker.returncode, worker.stdout, worker.stderr) == (0, "goes on\n", "")


def test_ctrl_c_while_workers_start_is_heard_as_soon_as_they_have() -> None:
    started: list[str] = []

    def start_workers() -> None:
        with deaf_to_interrupts():
            started.append("first")
            signal.raise_signal(signal.SIGINT)
            started.append("second")

    with pytest.raises(KeyboardInterrupt):
        start_workers()
    assert started == ["first", "second"]
    assert interrupted_at_once().returncode == -signal.SIGINT


def test_ctrl_c_that_another_thread_hears_waits_until_the_workers_have_started() -> None:
    started: list[str] = []
    asleep = threading.Event()
    thread = threading.Thread(target=asleep.wait)
    thread.start()  # as a library's: it does not block the signal

    def start_workers() -> None:
        with deaf_to_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            subprocess.run(["true"], check=True)
            started.append("worker")

    try:
        with pytest.raises(KeyboardInterrupt):
            start_workers()
    finally:
        asleep.set()
        thread.join()
    assert started == ["worker"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


STAGE = (
    "import threading; from mammo.core.errors import guarded; "
    "guarded(lambda: print('runs', flush=True) or threading.Event().wait())"
)
DVC = """
import os, subprocess, sys
# `:` keeps the shell from making way for its only command.
command = f'{sys.executable} -c "{sys.argv[1]}"; :'
subprocess.run(["/bin/sh", "-c", command], env=os.environ | {"DVC_STAGE": "train"})
"""


def test_a_stage_ends_when_its_dvc_is_killed() -> None:
    dvc = subprocess.Popen([sys.executable, "-c", DVC, STAGE], stdout=subprocess.PIPE, text=True)
    assert dvc.stdout is not None
    assert dvc.stdout.readline() == "runs\n"
    dvc.kill()
    # The end of the pipe: nobody is left who could write to it.
    assert dvc.communicate(timeout=60)[0] == ""


COMMAND = """
from mammo.studies.crew import crew
with crew(1, [], "results", "--jobs") as executor:
    print(executor.submit(str, "works").result(), flush=True)
    input()
"""


def test_a_worker_that_waits_for_its_next_task_ends_when_its_command_is_killed() -> None:
    pipe = subprocess.PIPE
    command = subprocess.Popen([sys.executable, "-c", COMMAND], stdin=pipe, stdout=pipe, text=True)
    assert command.stdout is not None
    assert command.stdout.readline() == "works\n"
    command.kill()
    # The end of the pipe, as above.
    assert command.communicate(timeout=60)[0] == ""
