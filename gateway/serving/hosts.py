"""What the processes of one database have to know of each other: that they share one store, and how far each has filed.

Their clocks are compared with each other, so hosts need NTP. The database's is the judge: nobody settles as of a time that has
not come there, and a clock that differs is told in the log.
"""

import os
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import structlog
from sqlalchemy import delete, func, select, text, update

from gateway.db import Database, changed, insert_once
from gateway.errors import ConfigError
from gateway.machine.disk import sync_folder
from gateway.rows.columns import UtcDateTime
from gateway.rows.hosts import Filed, StoreMark

_MARK = "store.id"
_PATIENCE = timedelta(seconds=60)
_FRESH = timedelta(seconds=10)
_APART, _TELL = timedelta(seconds=2), timedelta(seconds=60)
_CLOCK = select(func.timezone("UTC", func.clock_timestamp(), type_=UtcDateTime()))

_logger = structlog.get_logger()


def share(folder: Path, *, db: Database) -> None:
    """Raise ConfigError unless `folder` is the one where all files of this database are: not another, nor one not mounted."""
    mark = _mark(folder)
    with db.begin() as session:
        insert_once(session, StoreMark, id=1, mark=mark)
    check_shared(folder, db=db)


def check_shared(folder: Path, *, db: Database) -> None:
    """The same, and nothing is made."""
    path = folder / _MARK
    mark = path.read_text().strip() if path.exists() else ""
    with db() as session:
        first = session.get(StoreMark, 1)
    if first is not None and first.mark != mark:
        where = f"one that holds a {_MARK} with {first.mark}"
        raise ConfigError([f"[store] folder {folder}: expected the folder in which all files of this database are, {where}"])


def wrong_clock(db: Database, now: datetime) -> str:
    """How far the clock of this machine is from the database's, where that is too far; empty with SQLite, which has none."""
    with db() as session:
        if session.get_bind().dialect.name == "sqlite":
            return ""
        ahead = now - session.execute(_CLOCK).scalar_one()
    if abs(ahead) <= _APART:
        return ""
    how = f"{abs(ahead).total_seconds():.0f} s {'ahead of' if ahead > _APART else 'behind'} the database's"
    return f"the clock of this machine is {how}: quiet times are not what they seem; expected both to be set by NTP"


class Hosts:
    """The process `executor` among those of its database; one that is `alone` has nobody to tell or to wait for."""

    def __init__(self, db: Database, executor: str, *, alone: bool = False) -> None:
        self._db, self._executor, self._is_alone = db, executor, alone
        self._told_at: datetime | None = None

    def tell(self, at: datetime | None, opened_at: datetime | None = None) -> None:
        """Everything is filed that we had promised by `at`, our doors have been open since `opened_at`; `at` None: we are gone.

        May get lost: we have filed less then.
        """
        if self._is_alone:
            return
        mine = Filed.executor == self._executor
        with self._db.begin() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SET LOCAL synchronous_commit TO off"))
            if at is None:
                session.execute(delete(Filed).where(mine))
                return
            ours = {"filed_at": at, "opened_at": opened_at}
            if not changed(session, update(Filed).where(mine).values(ours)):
                insert_once(session, Filed, executor=self._executor, **ours)

    def forget(self, with_folders: set[str], now: datetime, *, dead: Collection[str] = ()) -> None:
        """Nobody waits for receivers that are `dead` and have no folder any more, nor for one that left none: its row is old.

        A clock that is wrong is told, for then others may look old.
        """
        if self._is_alone:
            return
        self._tell_clock(now)
        old = select(Filed.executor).where(Filed.filed_at < now - _FRESH)
        with self._db.begin() as session:
            gone = {*session.scalars(old), *dead} - with_folders
            if gone:
                session.execute(delete(Filed).where(Filed.executor.in_(gone)))

    def filed(self, moment: datetime) -> datetime:
        """Until when, `moment` at most, everything is filed that others promised.

        One that has been silent for a minute is not waited for: it would hold up every series. What it brings in the end
        makes a revision.
        """
        if self._is_alone:
            return moment
        with self._db() as session:
            least = session.scalar(select(func.min(Filed.filed_at)).where(Filed.executor != self._executor))
            if session.get_bind().dialect.name == "postgresql":
                moment = min(moment, session.execute(_CLOCK).scalar_one())
        return moment if least is None else min(moment, max(least, moment - _PATIENCE))

    def listening_since(self) -> datetime | None:
        """Since when one of the other receivers has been listening without a pause; None: none says."""
        if self._is_alone:
            return None
        with self._db() as session:
            return session.scalar(select(func.min(Filed.opened_at)).where(Filed.executor != self._executor))

    def _tell_clock(self, now: datetime) -> None:
        is_new = self._told_at is None or not self._told_at <= now < self._told_at + _TELL
        if is_new and (wrong := wrong_clock(self._db, now)):
            self._told_at = now
            _logger.warning("clock.differs", reason=wrong)


def _mark(folder: Path) -> str:
    path, half = folder / _MARK, folder / f"{_MARK}.{uuid4().hex}"
    if not path.exists():
        with half.open("x") as file:
            file.write(f"{uuid4().hex}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(half)
        except FileExistsError:  # another process was faster
            pass
        finally:
            half.unlink()
        sync_folder(folder)
    return path.read_text().strip()
