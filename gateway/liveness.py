"""Which processes live: each holds a lock for its life (an advisory lock on PostgreSQL, flock beside SQLite's file).

Who can take the lock of another knows that it is dead. A lock goes with its process, however that ends; on PostgreSQL
with its connection, which keepalives end within half a minute where a host was powered off.
"""

import fcntl
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

_LOCK_SPACE = 7401

IsDead = Callable[[str], AbstractContextManager[bool]]


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
    with psycopg.connect(plain, autocommit=True, keepalives_idle=10, keepalives_interval=5, keepalives_count=3) as connection:
        connection.execute("SET tcp_keepalives_idle = 10")
        connection.execute("SET tcp_keepalives_interval = 5")
        connection.execute("SET tcp_keepalives_count = 3")
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
