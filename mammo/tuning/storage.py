"""Where a study is kept: a journal on one machine, PostgreSQL on many; and the lock that both need.

SQLite is left out: simultaneous workers collide in it, and the journal is several times as fast.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zlib import crc32

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from mammo.errors import TrackingError
from mammo.layout import Workspace
from mammo.tuning.quiet import experimental

GRACE_BEATS: Final = 4
"""Missed heartbeats after which a worker counts as dead."""
POSTGRESQL: Final = "postgresql+psycopg"


class KernelLock(JournalFileOpenLock):
    """A lock that the kernel releases when its holder is killed.

    Optuna's own locks stay behind a killed writer for 30 s. Whoever takes this one also cuts off the half line that
    such a writer may have left; the next line would stick to it and spoil the journal.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        """Wait for the lock and mend the journal's end."""
        self._lock.acquire()
        _cut_half_line(self._journal)
        return True

    def release(self) -> None:
        """Let the next writer in."""
        self._lock.release()


def _cut_half_line(journal: Path) -> None:
    if not journal.exists() or journal.stat().st_size == 0:
        return
    with journal.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)


def journal_path(space: Workspace) -> Path:
    """The journal of a workspace. Outside reports/: DVC empties a stage's outputs before it runs."""
    return space.root / ".cache" / "tune" / "journal.log"


def open_storage(space: Workspace, url: str | None, heartbeat_s: int | None) -> BaseStorage:
    """The storage that `url` names, or the workspace's journal.

    Args:
        space: the workspace.
        url: `postgresql+psycopg://…` or None.
        heartbeat_s: PostgreSQL: how often a worker says that it lives; None for readers.

    Raises:
        TrackingError: the address is no PostgreSQL's, or the server cannot be reached.
    """
    if url is None:
        path = journal_path(space)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), KernelLock(path)))
    shown = hidden(url)
    try:
        with experimental():
            return RDBStorage(
                url,
                heartbeat_interval=heartbeat_s,
                grace_period=None if heartbeat_s is None else GRACE_BEATS * heartbeat_s,
                engine_kwargs={"pool_pre_ping": True},
            )
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise TrackingError(
            f"{shown}: the study's database cannot be used ({reason}); check that the server runs, that the database "
            "exists and that the password is right"
        ) from error


@contextmanager
def using_storage(space: Workspace, url: str | None, heartbeat_s: int | None) -> Iterator[BaseStorage]:
    """As `open_storage`; the database's connections are closed at the end."""
    storage = open_storage(space, url, heartbeat_s)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def hidden(url: str) -> str:
    """An address without its password.

    Raises:
        TrackingError: it is no address of a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise _not_postgresql("an address that cannot be read") from error
    if parsed.drivername != POSTGRESQL:
        raise _not_postgresql(parsed.render_as_string(hide_password=True))
    return parsed.render_as_string(hide_password=True)


def _not_postgresql(got: str) -> TrackingError:
    return TrackingError(
        f"--storage must be a PostgreSQL database ({POSTGRESQL}://USER@HOST/DATABASE), got {got}; leave it out to use "
        "the journal of one machine"
    )


@contextmanager
def exclusive(space: Workspace, storage: BaseStorage, study_name: str) -> Iterator[None]:
    """Let one process at a time mend the study and take a trial; a killed holder lets go by itself."""
    if isinstance(storage, RDBStorage):
        key = crc32(study_name.encode())
        with storage.engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
        return
    with FileLock(journal_path(space).with_name("claim.lock")):
        yield
