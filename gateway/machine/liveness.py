"""Which processes live: each holds a lock for its life (an advisory lock on PostgreSQL, flock beside SQLite's file).

Who can take the lock of another knows that it is dead. A lock goes with its process, however that ends; on PostgreSQL
with its connection, which ends within half a minute where a host was powered off or cut off: by keepalives while nothing is on
its way, and by the time that what was sent may stay unacknowledged, which TCP alone would wait for a quarter of an hour.
"""

import fcntl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import structlog
from sqlalchemy import make_url

from gateway.errors import ConfigError

_LOCK_SPACE = 7401
_FIRST_SECONDS, _LOOK_SECONDS, _AGAIN_SECONDS, _BACK_SECONDS = 0.1, 1.0, 2.0, 6.0

GIVES_UP = ("tcp_keepalives_idle = 9", "tcp_keepalives_interval = 4", "tcp_keepalives_count = 3", "tcp_user_timeout = 21000")
"""Settings of a session by which PostgreSQL gives it up, and its locks with it, after 21 seconds of silence."""
PATIENCE: dict[str, Any] = {
    "keepalives_idle": 9, "keepalives_interval": 4, "keepalives_count": 3, "tcp_user_timeout": 21_000, "connect_timeout": 10,
}  # fmt: skip
"""The same for our side of a connection to PostgreSQL."""

IsDead = Callable[[str], AbstractContextManager[bool]]

_logger = structlog.get_logger()


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Two gateways on one folder would sweep each other's files: the second refuses to start."""
    with (data_dir / "gateway.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError([f"{data_dir}: another gateway serves from this folder"]) from error
        yield


class Presence:
    """Holds the lock of `me` from `start` to `stop`, and has `look` look after others every second."""

    def __init__(self, url: str, me: str, look: Callable[[IsDead], None]) -> None:
        self._url, self._me, self._look = url, me, look
        self._held, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="presence", daemon=True)

    def start(self) -> None:
        """The lock is held when this returns, unless the database is away: then it is as soon as that is back."""
        self._thread.start()
        self._held.wait(10 * _LOOK_SECONDS)

    def stop(self) -> None:
        """From here on others may know us for dead."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _hold(self) -> None:
        look_at = time.monotonic()
        while not self._stopped.is_set():
            try:
                with locks(self._url, self._me) as dead:
                    self._held.set()
                    seconds = _FIRST_SECONDS  # who restarts one that died does not wait for its work
                    while not self._stopped.wait(seconds):
                        seconds = _LOOK_SECONDS
                        with dead(self._me):  # raises where the connection is gone, and our lock with it
                            pass
                        if time.monotonic() > look_at:
                            self._look(dead)
            except Exception as error:  # noqa: BLE001 - boundary: if this ended, dead processes would stay unnoticed
                _logger.warning("reaper.interrupted", error=type(error).__name__)
                self._stopped.wait(_AGAIN_SECONDS)
                look_at = time.monotonic() + _BACK_SECONDS  # a database that comes back is not known at once to all who live


@contextmanager
def locks(url: str, me: str) -> Iterator[IsDead]:
    """Hold the lock of `me`; yield a function that says of another executor whether its lock is free."""
    if url.startswith("sqlite"):
        folder = Path(f"{make_url(url).database}.executors")
        folder.mkdir(exist_ok=True)
        with (folder / me).open("w") as mine:
            fcntl.flock(mine, fcntl.LOCK_EX)
            yield lambda executor: _flock_is_free(folder / executor)
            (folder / me).unlink(missing_ok=True)
        return
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True, **PATIENCE) as connection:
        for setting in GIVES_UP:
            connection.execute(f"SET {setting}")
        connection.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCK_SPACE, _number(me)))
        yield lambda executor: _advisory_lock_is_free(connection, executor)


@contextmanager
def _flock_is_free(path: Path) -> Iterator[bool]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        path.unlink(missing_ok=True)


@contextmanager
def _advisory_lock_is_free(connection: psycopg.Connection[Any], executor: str) -> Iterator[bool]:
    key = (_LOCK_SPACE, _number(executor))
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone()
    if row is None or not row[0]:
        yield False
        return
    try:
        yield True
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)


def _number(executor: str) -> int:
    return zlib.crc32(executor.encode()) - 2**31
