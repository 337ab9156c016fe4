"""PostgreSQL as the storage of a study, and how an outage of it is waited for."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from time import monotonic, sleep
from typing import Any, Final, TypeVar
from zlib import crc32

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from mammo.core.errors import TrackingError

T = TypeVar("T")

PATIENCE_S: Final = 300.0
"""How long a database may be away, for example while it is restarted or updated."""
RETRY_S: Final = (0.1, 1.0)
"""The first and the longest pause between two tries."""
NEVER_SILENT: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""For libpq: a server that says nothing any more is an error within a minute, not a call that never returns."""
MISSED_SOON: Final = (
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '60000', false)"
)
"""For the server: a client whose machine has gone lets its locks go within a minute, not after two hours."""
REPEATABLE: Final = (
    "_get_best_trial_id",
    "_get_stale_trial_ids",
    "_get_trials",
    "_set_trial_param",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "record_heartbeat",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
)
"""Operations that may be done twice: reads, and writes of a value under a key. Making and deleting are not."""


class LockLostError(Exception):
    """What was done under the study's lock has to be done again."""


class Database(RDBStorage):
    """Optuna's storage, that waits where the server is away for a while.

    What may be done twice is tried again by itself. What happens under the study's lock is not: the lock is lost with
    its connection, so all of it is done again. It uses that connection alone: on another one it would go on without
    the lock.

    Args:
        url: the address.
        heartbeat_interval: seconds, see Optuna.
        grace_period: likewise.
        shown: the address for people, without a password.
        say: told when the server does not answer, and when it answers again.
        is_known: the address has answered before, so that the server is waited for from the start.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat_interval: int | None,
        grace_period: int | None,
        shown: str,
        say: Callable[[str], None],
        is_known: bool = False,
    ) -> None:
        self._shown = shown
        self._say = say
        self._holder: int | None = None
        self._away_since: float | None = None
        self._said = False
        self._given_up = False

        def connect() -> None:
            super(Database, self).__init__(
                url,
                heartbeat_interval=heartbeat_interval,
                grace_period=grace_period,
                engine_kwargs={"pool_pre_ping": True, "connect_args": dict(NEVER_SILENT)},
            )

        if is_known:
            self.patiently(connect)
        else:
            connect()
        event.listen(self.engine, "connect", _be_missed_soon)
        event.listen(self.engine, "checkout", self._refuse_second_connection)
        self.engine.dispose()  # what is connected already was not told

    def patiently(self, action: Callable[[], T]) -> T:
        """Do something that may be done twice; while the server is away, try again.

        Raises:
            TrackingError: it has been away for too long. From then on every failure is one.
        """
        pause = RETRY_S[0]
        while True:
            try:
                result = action()
            except Exception as error:
                if self._holds_lock() or not _is_outage(error):
                    raise
                self._note_outage(error)
                sleep(pause)
                pause = min(2 * pause, RETRY_S[1])
            else:
                self._note_answer()
                return result

    def give_up(self) -> None:
        """Wait no more: from now on an outage is an error at once."""
        self._given_up = True

    def _note_outage(self, error: Exception) -> None:
        # A trial's heartbeat may set it back at any moment, from a thread of its own.
        since = self._away_since = self._away_since or monotonic()
        if self._given_up:
            raise self._away(since, error) from error
        if not self._said:
            self._said = True
            self._say(
                f"{self._shown}: the study's database does not answer ({reason_of(error)}); waiting up to "
                f"{PATIENCE_S:.0f} s for it"
            )
        if monotonic() - since > PATIENCE_S:
            self.give_up()
            raise self._away(since, error) from error

    def _note_answer(self) -> None:
        since, self._away_since = self._away_since, None
        said, self._said = self._said, False
        if said and since is not None:
            self._say(f"the study's database answers again, after {monotonic() - since:.0f} s")

    def _away(self, since: float, error: Exception) -> TrackingError:
        return TrackingError(
            f"{self._shown}: the study's database must answer, and has not for {monotonic() - since:.0f} s "
            f"({reason_of(error)}); ended trials are kept in it: start it, then run the same command"
        )

    def exclusively(self, study_name: str, action: Callable[[], T]) -> T:
        """Do `action` while no other process does anything under the same name.

        Raises:
            TrackingError: the server has been away for too long.
        """
        return self.patiently(lambda: self._under_lock(study_name, action))

    def _under_lock(self, study_name: str, action: Callable[[], T]) -> T:
        key = {"key": crc32(study_name.encode())}
        with self.engine.connect() as connection:
            try:
                connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
                # The lock is the connection's; what happens under it has transactions of its own.
                connection.commit()
                with self._only_on(connection):
                    return action()
            finally:
                _unlock(connection, key)

    @contextmanager
    def _only_on(self, connection: Connection) -> Iterator[None]:
        """Let this thread's operations use a connection, and no other."""
        session = self.scoped_session()
        session.bind, self._holder = connection, get_ident()
        try:
            yield
        finally:
            session.bind, self._holder = self.engine, None

    def _holds_lock(self) -> bool:
        return self._holder == get_ident()

    def _refuse_second_connection(self, *_: object) -> None:
        """SQLAlchemy replaces a lost connection by itself, and Optuna tries some operations again by itself."""
        if self._holds_lock():
            raise LockLostError("the study's lock is lost with its connection")


def _be_missed_soon(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MISSED_SOON)
    connection.commit()


def _unlock(connection: Connection, key: dict[str, int]) -> None:
    """Let the lock go, with the connection itself if it does not answer."""
    try:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
    except SQLAlchemyError:
        connection.invalidate()
    except BaseException:  # a stop: the pool would keep the lock
        connection.invalidate()
        raise


def _patient(name: str) -> Callable[..., Any]:
    original = getattr(RDBStorage, name)

    def patient(self: Database, *args: Any, **kwargs: Any) -> Any:
        return self.patiently(lambda: original(self, *args, **kwargs))

    return patient


def _is_news(record: logging.LogRecord) -> bool:
    """Optuna warns that it falls back to another query, which meets the same outage; `say` tells of that."""
    return "Caught an error from sqlalchemy" not in record.getMessage()


def _is_outage(error: Exception) -> bool:
    """Whether the server or the way to it is at fault, not what was asked of it.

    Optuna and SQLAlchemy wrap what the driver said, and stumble over it once more (a transaction that cannot go on).
    """
    if isinstance(error, LockLostError):
        return True
    return isinstance(error, SQLAlchemyError | StorageInternalError) and _root(error) is not None


def _root(error: BaseException) -> OperationalError | InterfaceError | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OperationalError | InterfaceError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def reason_of(error: BaseException) -> str:
    """What the driver said, in a line."""
    lines = str(_root(error) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


logging.getLogger("optuna.storages._rdb.storage").addFilter(_is_news)
for _name in REPEATABLE:
    setattr(Database, _name, _patient(_name))
