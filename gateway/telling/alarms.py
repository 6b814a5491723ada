"""Alarms that are on: something that should have happened has not. A row is there while it lasts; the trail tells the rest."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import changed, insert_once
from gateway.rows.trail import OpenAlarm

_GIVEN_UP = timedelta(days=1)

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Alarm:
    """One that should be on. `reason` holds our own words, names of the configuration and numbers."""

    kind: str
    subject: str
    since: datetime
    reason: str


def open_alarms(session: Session) -> dict[tuple[str, str], OpenAlarm]:
    return {(one.kind, one.subject): one for one in session.scalars(select(OpenAlarm))}


def compare(
    session: Session, present: Iterable[Alarm], now: datetime, *, kinds: Collection[str], subjects: Collection[str] | None = None
) -> None:
    """Raise those that are not on yet, end those of these kinds that are not present any more; each is told once.

    `subjects` are those of this machine, which knows of no others: it repeats its own, and ends what another one has not
    repeated for a day, for that one does not serve any more.
    """
    wanted = {(one.kind, one.subject): one for one in present}
    known = open_alarms(session)
    for key, alarm in wanted.items():
        if key not in known and insert_once(
            session, OpenAlarm, kind=alarm.kind, subject=alarm.subject, raised_at=now, since=alarm.since, reason=alarm.reason
        ):
            _logger.warning(str(Act.ALARM_RAISED), reason=alarm.reason)
            audit.record(
                session, Act.ALARM_RAISED, at=now, outcome=audit.MINOR, kind=alarm.kind, subject=alarm.subject,
                reason=alarm.reason, since=alarm.since.isoformat(),
            )  # fmt: skip
    if subjects is not None and wanted:
        again = OpenAlarm.kind.in_(kinds) & OpenAlarm.subject.in_({subject for _, subject in wanted})
        session.execute(update(OpenAlarm).where(again).values(raised_at=now))
    for (kind, subject), row in known.items():
        is_mine = subjects is None or subject in subjects or row.raised_at < now - _GIVEN_UP
        if kind in kinds and (kind, subject) not in wanted and is_mine:
            mine = delete(OpenAlarm).where(OpenAlarm.kind == kind, OpenAlarm.subject == subject)
            if changed(session, mine.execution_options(synchronize_session=False)):
                audit.record(session, Act.ALARM_ENDED, at=now, kind=kind, subject=subject, reason=row.reason)
