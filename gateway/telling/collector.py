"""Collector: tells the audit trail to a collector of DICOM audit messages, each event at least once, in its order.

The trail is its own spool: a row says how far it was told, and moves on after the messages went out. While the collector is
away nothing is lost and nothing else waits; that it went and that it came back are events of the trail themselves, one each.
Messages that went out last over a connection that has broken are repeated over the next, because syslog has no answer
(syslog.py): who gets one twice sees so by its number. Of the gateways on one database one tells.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.about import about
from gateway.auditing.audit import Act
from gateway.auditing.elements import Node
from gateway.auditing.message import message
from gateway.configuration.oversight import AuditSection
from gateway.crash import crash_point
from gateway.db import Database, changed, insert_once
from gateway.engine import backoff
from gateway.errors import CollectorError
from gateway.machine.rounds import Rounds
from gateway.rows.trail import AuditEvent, AuditSink
from gateway.telling.syslog import Line, frame, line
from gateway.turn import Turn

SINK = "syslog"
_BATCH = 100
_LOOK, _LOOK_WHEN_IDLE = timedelta(0), timedelta(seconds=1)
_LOOK_AT_OTHERS = timedelta(seconds=5)
_AGAIN, _AGAIN_AT_MOST = timedelta(seconds=1), timedelta(minutes=5)
_STEADY = timedelta(minutes=1)
"""A connection that has held for so long is good; one that breaks sooner does not make the next try any earlier."""

_logger = structlog.get_logger()


class Collector:
    """Tells from its start to its stop in a thread of its own; does nothing where [audit] names no collector."""

    def __init__(
        self,
        db: Database,
        section: AuditSection,
        *,
        clock: Callable[[], datetime],
        ae_title: str = "",
        peers: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """`ae_title` is ours, `peers()` the tables of the peers: messages name the AE titles and hosts of both."""
        self._db, self._section, self._clock, self._ae_title = db, section, clock, ae_title
        self._peers = peers
        self._turn, self._host = Turn(db, "collector"), socket.gethostname()
        self._rounds = Rounds(
            "collector", lambda: self.tell().total_seconds(), first=0, again=_AGAIN_AT_MOST.total_seconds(),
            event="collector.interrupted",
        )  # fmt: skip
        self._line: Line | None = None
        if section.syslog:
            self._line = line(
                section.syslog, authorities=section.authorities, certificate=section.certificate,
                certificate_key=section.certificate_key,
            )  # fmt: skip
        self._failures, self._opened_at = 0, clock()
        self._repeat_from: int | None = None
        self._sent = 0

    def start(self) -> None:
        if self._line is not None:
            self._rounds.start()

    def stop(self) -> None:
        """Tells what is left, if the collector takes it now."""
        self._rounds.stop()
        if self._line is not None:
            while self._line.is_open and self.tell() == _LOOK:
                pass
            self._line.close()
        self._turn.give_back()

    def tell(self) -> timedelta:
        """Tell the next events; returns when to look again."""
        assert self._line is not None, "expected a collector in [audit]"
        try:
            if self._turn.is_mine():
                return self._tell(self._line)
            self._line.close()
            self._repeat_from, self._sent = None, 0
        except SQLAlchemyError as error:
            _logger.warning("collector.waiting", reason="the database does not answer", error=type(error).__name__)
        return _LOOK_AT_OTHERS

    def _tell(self, way: Line) -> timedelta:
        with self._db() as session:
            sink, newest = self._sink(session), session.scalar(select(func.max(AuditEvent.id))) or 0
        if newest <= sink.position:
            return _LOOK_WHEN_IDLE
        if self._sent > sink.position:  # they went out, and the database took nothing then
            self._was_told(sink, self._sent)
            return _LOOK
        try:
            first = sink.position if way.is_open else self._open(way, sink.position)
            last, frames = self._frames(way, first)
            way.send(frames)
        except CollectorError as error:
            way.close()
            return self._failed(sink, newest, error)
        crash_point("collector.sent")
        self._repeat_from, self._sent = first, last
        self._was_told(sink, last)
        return _LOOK if last < newest else _LOOK_WHEN_IDLE

    def _open(self, way: Line, position: int) -> int:
        """After which event to begin over a new connection: what went out last over the one before comes again."""
        way.close()
        way.open()
        self._opened_at = self._clock()
        return position if self._repeat_from is None else min(position, self._repeat_from)

    def _frames(self, way: Line, first: int) -> tuple[int, list[bytes]]:
        following = select(AuditEvent).where(AuditEvent.id > first).order_by(AuditEvent.id).limit(_BATCH)
        frames = []
        with self._db() as session:
            events = session.scalars(following).all()
            nodes = {str(one.get("name")): Node(str(one.get("ae_title", "")), str(one.get("host", ""))) for one in self._peers()}
            known = about(session, events, ae_title=self._ae_title, peers=nodes, patients=self._section.patients)
            for event, whose in zip(events, known, strict=True):
                made = self._frame(event, message(event, whose, source=self._section.source))
                if way.longest is not None and len(made) > way.longest:
                    _logger.warning("collector.shortened", count=event.id, bytes=len(made))
                    made = self._frame(event, message(event, whose, source=self._section.source, is_brief=True))
                frames.append(made)
        return events[-1].id, frames

    def _frame(self, event: AuditEvent, xml: bytes) -> bytes:
        return frame(xml, at=event.at, host=self._host, process=os.getpid())

    def _sink(self, session: Session) -> AuditSink:
        sink = session.get(AuditSink, SINK)
        if sink is None:  # the trail is told from its beginning
            insert_once(session, AuditSink, name=SINK, position=0, at=self._clock(), reason="")
            session.commit()
            sink = session.get_one(AuditSink, SINK)
        return sink

    def _was_told(self, sink: AuditSink, last: int) -> None:
        now = self._clock()
        if now - self._opened_at >= _STEADY:
            self._failures = 0
        with self._db.begin() as session:
            if _moved(session, sink, position=max(last, sink.position), at=now, reason="") and sink.reason:
                _logger.warning("collector.back", url=self._section.syslog)
                audit.record(session, Act.COLLECTOR_UP, at=now, collector=self._section.syslog, told=last)
        self._sent = 0

    def _failed(self, sink: AuditSink, newest: int, error: CollectorError) -> timedelta:
        self._failures += 1
        now, reason, waiting = self._clock(), str(error), newest - sink.position
        _logger.warning("collector.unreachable", url=self._section.syslog, reason=reason, count=waiting)
        if reason != sink.reason:
            with self._db.begin() as session:
                if _moved(session, sink, at=now, reason=reason) and not sink.reason:
                    audit.record(
                        session, Act.COLLECTOR_DOWN, at=now, outcome=audit.SERIOUS, reason=reason, waiting=waiting,
                        collector=self._section.syslog,
                    )  # fmt: skip
        return backoff(self._failures, first=_AGAIN, at_most=_AGAIN_AT_MOST)


def _moved(session: Session, sink: AuditSink, **values: object) -> bool:
    """Compare-and-swap: a process that has lost its turn without knowing changes nothing."""
    as_read = update(AuditSink).filter_by(name=sink.name, position=sink.position, reason=sink.reason)
    return changed(session, as_read.values(**values).execution_options(synchronize_session=False))
