"""Errors that people read, how programs end, and what stands wherever results are shown."""

import errno
import io
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mammo.core.processes import end_with_dvc


class MammoError(Exception):
    """Base of every error that is the input's or the environment's fault, not the program's."""


class ConfigError(MammoError):
    """`params.yaml` holds an unknown, missing or impossible value."""


class DataError(MammoError):
    """An archive, an image, a table or an annotation breaks its contract."""


class ExpectationError(DataError):
    """A critical data expectation failed; the message names it."""


class WeightsError(MammoError):
    """Model weights cannot be had or do not fit the architecture."""


class TrackingError(MammoError):
    """The MLflow store or registry is missing, locked or lacks what was asked for."""


OFFLINE: Final = {
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "2",
    "MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Nothing calls home, no pickled model is ever loaded, and runs of minutes have system metrics."""


def set_environment() -> None:
    """Set what libraries read from the environment (`OFFLINE`), but for what the user has set; children inherit it."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)


BAD_INPUT: Final = 2
_DENIED: Final = "access is denied; change its rights, or work in another folder"
REMEDIES: Final = {
    errno.ENOSPC: "no space is left; free some and run again",
    errno.EDQUOT: "the quota is used up; free some space and run again",
    errno.EROFS: "cannot be written, for its file system is read-only; work in another folder",
    errno.EFBIG: "the file would be larger than allowed; raise `ulimit -f` and run again",
    errno.ENOMEM: "memory is used up; end other programs or allow more, and run again",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOTDIR: "a file stands where a folder must be; correct the path",
    errno.EISDIR: "a folder stands where a file must be; correct the path",
    errno.ENAMETOOLONG: "the name is too long; correct the path",
}
"""What the machine refuses, and what people can do about it."""
NO_MEMORY: Final = re.compile("allocate memory|out of memory|start new thread|failed to map segment|bad_alloc")
"""How PyTorch, CUDA, Python's threads and the loader of libraries say that memory is short, in errors of any kind."""
INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM
KEPT: Final = ", finished work is kept"
STOPPED: Final = "stopped; run the same command to go on\n"


def guarded(main: Callable[[], None]) -> None:
    """Run `main`; turn what is the input's or the machine's fault into one message and exit code 2."""
    set_environment()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    end_with_dvc()
    try:
        main()
    except Exception as error:
        refused = str(error) if isinstance(error, MammoError) else _what_the_machine_refuses(error)
        if refused is None:
            raise
        sys.stderr.write(f"error: {refused}\n")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.stderr.write(STOPPED)
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, TERMINATED):  # Typer has caught Ctrl-C, and says nothing
            sys.stderr.write(STOPPED)
        raise


def _what_the_machine_refuses(error: BaseException) -> str | None:
    """Name what is short or forbidden, and the remedy, whichever library says so; None for any other error."""
    cause: BaseException | None = error
    while cause is not None:
        text = (str(cause).splitlines() or [""])[0][:200]
        if isinstance(cause, MemoryError) or NO_MEMORY.search(str(cause)):
            return f"memory is used up ({text or 'MemoryError'}); end other programs or allow more, and run again{KEPT}"
        if isinstance(cause, OSError) and cause.errno in REMEDIES:
            return f"{cause.filename or 'disk'}: {REMEDIES[cause.errno]}{KEPT}"
        if isinstance(cause, sqlite3.OperationalError):
            return f"a database cannot be used ({text}); free space, end what holds it, and run again{KEPT}"
        cause = cause.__cause__
    return None


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM ends the program as Ctrl-C does, so that what it has begun is left in order."""

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


NOTICE: Final = "Research software, no medical device."
PHANTOM: Final = "PHANTOM (synthetic)"


DATA_NAMES: Final = {"mias_rois": "MIAS", "mini_mias": "mini-MIAS film", "phantom": PHANTOM, "own": "own"}
"""What people call the ROIs of a source, before the word ROIs."""
