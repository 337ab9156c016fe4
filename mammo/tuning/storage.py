"""Where studies are kept: a journal on one machine, PostgreSQL on many; and the lock that both need.

SQLite is left out: simultaneous workers collide in it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace

GRACE_BEATS: Final = 4
"""Missed heartbeats after which a worker counts as dead."""
NEVER_SILENT: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
    "-c tcp_user_timeout=60000",
}
"""For both ends: one that has gone without a word is noticed within a minute, and keeps no lock for longer."""
POSTGRESQL: Final = "postgresql+psycopg"


class KernelLock(JournalFileOpenLock):
    """A lock that the kernel releases when its holder is killed; Optuna's own stay behind for 30 s.

    Whoever takes it cuts off the half line that a killed writer may have left: the next one would stick to it.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        """Wait for the lock and mend the journal's end."""
        self._lock.acquire()
        with self._journal.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next writer in."""
        self._lock.release()


def journal_path(workspace: Workspace) -> Path:
    """The journal of a workspace. Outside reports/: DVC empties a stage's outputs before it runs."""
    return workspace.root / ".cache" / "tune" / "journal.log"


@contextmanager
def using_storage(workspace: Workspace, url: str | None, heartbeat_s: int | None) -> Iterator[BaseStorage]:
    """The PostgreSQL database that `url` names, or the workspace's journal; connections are closed at the end.

    `heartbeat_s` is how often a worker on PostgreSQL says that it lives; None for readers.

    Raises:
        TrackingError: the address is no PostgreSQL's, the server does not answer, then or within the block, or the
            journal cannot be read.
    """
    # Its warnings would tell of an outage too, in many lines.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        path = journal_path(workspace)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            journal = JournalStorage(JournalFileBackend(str(path), KernelLock(path)))
        except ValueError as error:
            raise TrackingError(
                f"{path}: every line must be a JSON record as Optuna wrote it, and one is not ({error}); put a copy of "
                "the file back, or move it away to start anew"
            ) from error
        yield journal
        return
    shown = hidden(url)
    try:
        storage = RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True, "connect_args": NEVER_SILENT},
            heartbeat_interval=heartbeat_s,
            grace_period=None if heartbeat_s is None else GRACE_BEATS * heartbeat_s,
        )
        try:
            yield storage
        finally:
            storage.engine.dispose()
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        reason = str(cause).splitlines()[0]
        raise TrackingError(
            f"{shown}: the study's database must answer, and does not ({reason}); ended trials are kept: "
            "check that the server runs, that the database exists and that the password is right, then run the same "
            "command again"
        ) from error


def hidden(url: str) -> str:
    """An address without its password.

    Raises:
        TrackingError: it is no address of a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
        name, shown = parsed.drivername, parsed.render_as_string(hide_password=True)
    except (ArgumentError, NoSuchModuleError, ValueError):
        name = shown = "an address that cannot be read"
    if name != POSTGRESQL:
        raise TrackingError(
            f"--storage must be a PostgreSQL database ({POSTGRESQL}://USER@HOST/DATABASE), got {shown}; leave it out "
            "to use the journal of one machine"
        )
    return shown


@contextmanager
def alone(workspace: Workspace, storage: BaseStorage, study_name: str) -> Iterator[None]:
    """One process at a time may make a study or take one of its trials; a holder that dies lets go."""
    if isinstance(storage, RDBStorage):
        with storage.engine.begin() as connection:
            lock = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
            connection.execute(lock, {"name": f"mammo {study_name}"})
            yield
    else:
        with FileLock(journal_path(workspace).with_name("take.lock")):
            yield
