"""How every program of the project ends: a clear error and exit code 2, or silence and 0."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Final

from mammo.errors import MammoError

OFFLINE: Final = {
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""Nothing calls home, and no pickled model is ever loaded; child processes inherit it."""

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
STOPPED: Final = "stopped; run the same command to go on\n"


def guarded(main: Callable[[], None]) -> None:
    """Run `main`; turn what is the input's or the machine's fault into one message and exit code 2."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    try:
        main()
    except MammoError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(f"{error.filename or 'disk'}: no space is left; free some and run again, finished work is kept")
    except KeyboardInterrupt:
        sys.stderr.write(STOPPED)
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # Typer has caught Ctrl-C, and says nothing
            sys.stderr.write(STOPPED)
        raise


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(BAD_INPUT)
