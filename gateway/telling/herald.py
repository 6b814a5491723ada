"""Herald: tells people of what the trail says, each event at least once; what happens together comes in one notice.

The trail is its own spool, as for the collector: a row for each `[[notices]]` table says how far it was told and moves on after
the notice has arrived. While a mail server is away nothing is lost; then one notice tells how many events there were, and the
latest of them. Of the processes on one database one tells. A notice that arrived just before its process died comes again with
the same key.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, changed, insert_once
from gateway.engine import backoff
from gateway.errors import NoticeError
from gateway.machine.rounds import Rounds
from gateway.rows.trail import AuditEvent, AuditSink
from gateway.telling.digest import Digest
from gateway.telling.happening import TOLD, Kind, happening
from gateway.telling.notices import Addressee, Way
from gateway.telling.wording import Told
from gateway.turn import Turn

SINK = "notice."
"""The row of an addressee begins with it."""
_BATCH = 1000
_LOOK_AGAIN, _LOOK_AT_OTHERS = timedelta(seconds=1), timedelta(seconds=5)
_GATHER = timedelta(seconds=5)
"""After the first event: what happens with it goes with it."""
_AGAIN, _AGAIN_AT_MOST = timedelta(seconds=5), timedelta(minutes=10)
_FAR = 10_000
"""So many events after which nobody is told of may be read once more after a start."""

_NO_END = "its server neither takes nor refuses a notice: the attempt does not end"

_logger = structlog.get_logger()


class Herald:
    """Tells one addressee from `start` to `stop`, in a thread of its own: one whose mail server hangs delays no other."""

    def __init__(
        self, db: Database, addressee: Addressee, *, clock: Callable[[], datetime], patience: timedelta = timedelta(minutes=5)
    ) -> None:
        """`patience`: so long an attempt may take before it counts as failed; it goes on, and no other beside it."""
        self._db, self._addressee, self._clock, self._patience = db, addressee, clock, patience
        self._under_way: threading.Thread | None = None
        self._name = f"{SINK}{addressee.name}"
        self._turn = Turn(db, self._name)
        self._rounds = Rounds(
            self._name, lambda: self.look().total_seconds(), first=0, again=_AGAIN_AT_MOST.total_seconds(),
            event="notice.interrupted",
        )  # fmt: skip
        self._digest, self._read, self._failures, self._arrived = Digest(), -1, 0, 0
        self._due_at: datetime | None = None

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """Tells what has not been told yet, once."""
        self._rounds.stop()
        self._due_at = self._clock() if not self._failures else None
        self.look()
        self._turn.give_back()

    def look(self) -> timedelta:
        """Read on, and tell what is due; returns when to look again."""
        try:
            if self._turn.is_mine():
                return self._look(self._clock())
            self._forget()
        except SQLAlchemyError as error:
            _logger.warning("notice.waiting", reason="the database does not answer", error=type(error).__name__)
        return _LOOK_AT_OTHERS

    def _forget(self) -> None:
        """Another process tells; what was read here is read anew when it is our turn."""
        self._digest, self._read, self._due_at, self._failures, self._arrived = Digest(), -1, None, 0, 0

    def _look(self, now: datetime) -> timedelta:
        with self._db() as session:
            sink = self._sink(session, now)
        if self._arrived:  # and the database took nothing then: it is not to come again with every look
            self._write_down(sink, now)
            return timedelta(0)
        with self._db() as session:
            self._read = max(self._read, sink.position)
            more = self._read_on(session)
        if more:
            return timedelta(0)
        if not self._digest.total:
            if self._read - sink.position >= _FAR:
                with self._db.begin() as session:
                    _moved(session, sink, position=self._read)
            return _LOOK_AGAIN
        if self._due_at is None:
            self._due_at = max(now + _GATHER, sink.at + self._addressee.every)
        if Kind.FINDING in self._digest.counts and not self._failures:
            self._due_at = min(self._due_at, now + _GATHER)
        if now >= self._due_at:
            self._tell(sink, now)
        return _LOOK_AGAIN

    def _sink(self, session: Session, now: datetime) -> AuditSink:
        """Who is new is told of what happens from now on."""
        sink = session.get(AuditSink, self._name)
        if sink is None:
            newest = session.scalar(select(func.max(AuditEvent.id))) or 0
            insert_once(
                session, AuditSink, name=self._name, position=newest, at=now - self._addressee.every, reason=""
            )  # fmt: skip
            session.commit()
            sink = session.get_one(AuditSink, self._name)
        return sink

    def _read_on(self, session: Session) -> bool:
        """Whether there is more to read."""
        newest = session.scalar(select(func.max(AuditEvent.id))) or 0
        if newest <= self._read:
            return False
        columns = (AuditEvent.id, AuditEvent.at, AuditEvent.act, AuditEvent.outcome, AuditEvent.job, AuditEvent.detail)
        wanted = select(*columns).where(AuditEvent.id > self._read, AuditEvent.id <= newest, AuditEvent.act.in_(TOLD))
        rows = session.execute(wanted.order_by(AuditEvent.id).limit(_BATCH)).all()
        for row in rows:
            one = happening(*row)
            if one is not None and self._addressee.wants(one):
                self._digest.add(one)
        is_full = len(rows) == _BATCH
        self._read = rows[-1].id if is_full else newest
        return is_full

    def _tell(self, sink: AuditSink, now: datetime) -> None:
        try:
            self._give(self._addressee.wording.told(self._digest, self._addressee.name, now))
        except (NoticeError, ValueError) as error:
            self._failed(sink, now, str(error))
            return
        crash_point("notice.told")
        self._arrived = self._digest.total
        self._digest, self._due_at, self._failures = Digest(), None, 0
        self._write_down(sink, now)

    def _write_down(self, sink: AuditSink, now: datetime) -> None:
        with self._db.begin() as session:
            if _moved(session, sink, position=self._read, at=now, reason=""):
                audit.record(
                    session, Act.NOTICE_SENT, at=now, notice=self._addressee.name, events=self._arrived, told=self._read
                )  # fmt: skip
        self._arrived = 0

    def _give(self, told: Told) -> None:
        """Raises NoticeError also where a server that answers a byte now and then would keep us for ever, and nobody knew."""
        if self._under_way is not None and self._under_way.is_alive():
            raise NoticeError(_NO_END)
        ended: Future[None] = Future()
        self._under_way = threading.Thread(
            target=_tell, args=(self._addressee.way, told, ended), name=f"{self._name}.under_way", daemon=True
        )
        self._under_way.start()
        try:
            ended.result(self._patience.total_seconds())
        except TimeoutError as error:
            raise NoticeError(_NO_END) from error

    def _failed(self, sink: AuditSink, now: datetime, reason: str) -> None:
        self._failures += 1
        self._due_at = now + backoff(self._failures, first=_AGAIN, at_most=_AGAIN_AT_MOST)
        _logger.warning("notice.failed", notice=self._addressee.name, reason=reason, count=self._digest.total)
        if reason == sink.reason:
            return
        with self._db.begin() as session:
            if _moved(session, sink, reason=reason) and not sink.reason:
                audit.record(
                    session, Act.NOTICE_FAILED, at=now, outcome=audit.MINOR, notice=self._addressee.name, reason=reason
                )  # fmt: skip


def _tell(way: Way, told: Told, ended: "Future[None]") -> None:
    try:
        way.tell(told)
        ended.set_result(None)
    except Exception as error:  # noqa: BLE001 - it is raised where somebody waits
        ended.set_exception(error)


def _moved(session: Session, sink: AuditSink, **values: object) -> bool:
    """Compare-and-swap: a process that has lost its turn without knowing changes nothing."""
    as_read = update(AuditSink).filter_by(name=sink.name, position=sink.position, reason=sink.reason)
    return changed(session, as_read.values(**values).execution_options(synchronize_session=False))
