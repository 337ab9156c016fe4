"""Where a study is kept: a journal on one machine, PostgreSQL on many; and the lock that both need.

SQLite is left out: simultaneous workers collide in it, and the journal is several times as fast.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from mammo.core.errors import TrackingError
from mammo.core.files import Workspace
from mammo.tuning.database import Database, reason_of
from mammo.tuning.quiet import experimental

T = TypeVar("T")

GRACE_BEATS: Final = 4
"""Missed heartbeats after which a worker counts as dead."""
POSTGRESQL: Final = "postgresql+psycopg"


def silent(line: str) -> None:
    """Say nothing."""


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


def open_storage(
    space: Workspace,
    url: str | None,
    heartbeat_s: int | None,
    say: Callable[[str], None] = silent,
    is_known: bool = False,
) -> BaseStorage:
    """The storage that `url` names, or the workspace's journal.

    Args:
        space: the workspace.
        url: `postgresql+psycopg://…` or None.
        heartbeat_s: PostgreSQL: how often a worker says that it lives; None for readers.
        say: told when PostgreSQL does not answer, and when it answers again.
        is_known: the address has answered before: wait for it. Another one that does not answer is an error at once.

    Raises:
        TrackingError: the address is no PostgreSQL's, the server cannot be reached, or the journal is damaged.
    """
    if url is None:
        return _open_journal(journal_path(space))
    shown = hidden(url)
    try:
        with experimental():
            return Database(
                url,
                heartbeat_interval=heartbeat_s,
                grace_period=None if heartbeat_s is None else GRACE_BEATS * heartbeat_s,
                shown=shown,
                say=say,
                is_known=is_known,
            )
    except (SQLAlchemyError, ImportError) as error:
        raise TrackingError(
            f"{shown}: the study's database cannot be used ({reason_of(error)}); check that the server runs, that the "
            "database exists and that the password is right"
        ) from error


@contextmanager
def using_storage(
    space: Workspace,
    url: str | None,
    heartbeat_s: int | None,
    say: Callable[[str], None] = silent,
    is_known: bool = False,
) -> Iterator[BaseStorage]:
    """As `open_storage`; the database's connections are closed at the end."""
    storage = open_storage(space, url, heartbeat_s, say, is_known)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _open_journal(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(JournalFileBackend(str(path), KernelLock(path)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        line = _damaged_line(path)
        if line is None:
            raise
        raise TrackingError(
            f"{path}: every line must be a JSON record as Optuna wrote it, and line {line} is not; put a copy of the "
            "file back, or start anew with `mammo tune --fresh`, which keeps this one beside it"
        ) from error


def _damaged_line(journal: Path) -> int | None:
    """The first line that is no record of Optuna's, counted from 1; None where every line is one.

    Half a line at the end is what a killed writer leaves; `KernelLock` cuts it off.
    """
    with journal.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                continue
            try:
                record = json.loads(line)
            except ValueError:
                return number
            if not isinstance(record, dict) or "op_code" not in record:
                return number
    return None


def set_aside_damaged(space: Workspace) -> Path | None:
    """Make way for a new journal where the one that is there cannot be read; returns where the old one lies now."""
    path = journal_path(space)
    if not path.is_file() or _damaged_line(path) is None:
        return None
    aside = next(
        free for n in range(1, 1000) if not (free := path.with_name(f"{path.name}.damaged-{n}")).exists()
    )
    path.rename(aside)
    return aside


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


def exclusively(space: Workspace, storage: BaseStorage, study_name: str, action: Callable[[], T]) -> T:
    """Let one process at a time mend the study and take a trial; a killed holder lets go by itself.

    On PostgreSQL `action` is done again where an outage has cut it off, for the lock is lost with the connection.
    """
    if isinstance(storage, Database):
        return storage.exclusively(study_name, action)
    with FileLock(journal_path(space).with_name("claim.lock")):
        return action()
