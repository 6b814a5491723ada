"""The notary: signs the head of the audit trail every so often, so that whoever rewrites the trail later is found out.

It is a witness, too: a standby that takes over without the last commits has forgotten instances that were acknowledged. Every new
connection is asked for the last event that was written or seen here. Where it does not have that one, its head is signed, so that
this machine does not serve before a person has said `gateway db restored`, and the process ends at once, as in a crash: what its
journals still hold is filed by the next one that serves. So it does where another file lies in the place of SQLite's: connections
that are open write on into the one before, of which nothing stays.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import structlog
from sqlalchemy import event

from gateway.attempt import AWAY
from gateway.auditing import audit
from gateway.auditing.chain import Head
from gateway.auditing.seal import attest, heads_file, key_file, private_key, seal
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.filing import told
from gateway.machine.rounds import Rounds
from gateway.telling.alarms import Alarm, compare
from gateway.telling.happening import Kind

_NOT_SIGNED = "audit.not_signed"
_LOOK_SECONDS = 1.0
_WHICH = "SELECT pg_is_in_recovery(), (SELECT hash FROM gw_audit_event WHERE id = %s)"

_logger = structlog.get_logger()


class Notary:
    """From `start` to `stop`; making it makes the key where there is none. Raises ConfigError for a key that cannot be used."""

    def __init__(self, db: Database, config: Config, *, clock: Callable[[], datetime]) -> None:
        self._db, self._clock, self._key, self._heads = db, clock, private_key(key_file(config)), heads_file(config)
        every = timedelta(seconds=config.audit.sign_seconds)
        self._rounds = Rounds("notary", lambda: self._sign(every), again=every.total_seconds(), event=_NOT_SIGNED)
        self._looks = Rounds("witness", self._look, again=_LOOK_SECONDS, event="witness.interrupted")
        self._seen, self._lock = Head(0, ""), threading.Lock()
        self._file: Path | None = None
        self._lies_there = (0, 0)

    def start(self) -> None:
        engine = self._db.kw["bind"]
        event.listen(self._db, "after_commit", lambda session: self._remember(audit.written(session)))
        if engine.dialect.name == "postgresql":
            event.listen(engine, "connect", self._compare)
        else:
            self._file = Path(engine.url.database).absolute()
            self._lies_there = _which(self._file)
            with self._db() as session:
                self._remember(audit.head_of(session))
        self._looks.start()
        self._rounds.start()

    def stop(self) -> None:
        """Signs what is there a last time."""
        self._looks.stop()
        self._rounds.stop()
        with told(_NOT_SIGNED):
            self._sign(timedelta(0))

    def _sign(self, every: timedelta) -> None:
        try:
            seal(self._clock(), db=self._db, key=self._key, heads=self._heads, every=every)
        except OSError as error:
            self._tell(f"the signed heads of the trail cannot be written: {(error.strerror or 'no reason is given').lower()}")
            raise
        self._tell("")

    def _tell(self, problem: str) -> None:
        now, where = self._clock(), f"{self._heads.absolute()} on {socket.gethostname()}"
        on = [Alarm(Kind.NOT_SIGNED, where, now, f"{where}: {problem}")] if problem else []
        with self._db.begin() as session:
            compare(session, on, now, kinds=(Kind.NOT_SIGNED,), subjects={where})

    def _look(self) -> None:
        """For what others wrote; with SQLite, whether its file is still the one that was opened."""
        if self._file is not None:
            if _which(self._file) != self._lies_there:
                self._end(self._seen, "its file was replaced or taken away while it was open")
            return
        with suppress(*AWAY), self._db() as session:
            self._remember(audit.head_of(session))

    def _remember(self, head: Head | None) -> None:
        with self._lock:  # threads come here in another order than their events stand in
            if head is not None and head.position > self._seen.position:
                self._seen = head

    def _compare(self, connection: Any, _record: object) -> None:
        seen = self._seen
        is_standby, found = connection.execute(_WHICH, (seen.position,)).fetchone()
        connection.rollback()
        if is_standby:  # it may be behind, and this connection would outlive that it takes over
            connection.close()
            raise psycopg.OperationalError("expected the primary server, not a standby")
        if found == seen.hash or not seen.position:
            return
        why = "it was restored from an older backup, or a standby took over that lacks the last commits"
        self._end(seen, f"it does not have event {seen.position}, which was there: {why}")

    def _end(self, seen: Head, reason: str) -> None:
        with told(_NOT_SIGNED):
            attest(seen, self._clock(), key=self._key, heads=self._heads)
        _logger.error("database.older", reason=reason)
        os._exit(1)


def _which(file: Path) -> tuple[int, int]:
    """Which file lies there, whatever is in it."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino
