"""Turn: of the processes that share a database, one at a time does what two must not do at once.

It goes with its process, however that ends: an advisory lock on PostgreSQL, flock on a file beside SQLite's. A connection
that breaks takes the turn along, so what is done in it must still be safe to do twice.
"""

import fcntl
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from gateway.db import Database
from gateway.machine.liveness import GIVES_UP

_LOCK_SPACE = 7402


class Turn:
    """Of one thread; `name` says for what."""

    def __init__(self, db: Database, name: str) -> None:
        self._engine, self._name = db.kw["bind"], name
        self._file: TextIO | None = None
        self._connection: Connection | None = None

    def is_mine(self) -> bool:
        """Takes it where it is free."""
        if self._engine.dialect.name == "sqlite":
            return self._file is not None or self._take_file()
        return self._holds() if self._connection is not None else self._take_lock()

    def give_back(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.execute(text("SELECT pg_advisory_unlock_all()"))  # now; the end of the session takes a moment
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def _take_file(self) -> bool:
        with ExitStack() as stack:
            file = stack.enter_context(Path(f"{self._engine.url.database}.{self._name}").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._file = file
            stack.pop_all()
        return True

    def _take_lock(self) -> bool:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with ExitStack() as stack:
            stack.callback(connection.close)
            for setting in GIVES_UP:  # a host that was powered off keeps it for half a minute
                connection.execute(text(f"SET {setting}"))
            key = {"space": _LOCK_SPACE, "key": zlib.crc32(self._name.encode()) - 2**31}
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:space, :key)"), key):
                return False
            self._connection = connection
            stack.pop_all()
        return True

    def _holds(self) -> bool:
        assert self._connection is not None
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            self.give_back()
            return False
        return True
