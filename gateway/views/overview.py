"""Everything at a glance: how much goes through, what waits, and what needs a person. Bounded, however much there is."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, literal, select
from sqlalchemy.orm import Session

from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.rows.tables import Delivery, DeliveryState, Job, JobState, Series, SeriesState
from gateway.rows.trail import AuditEvent, AuditSink, OpenAlarm
from gateway.telling import herald
from gateway.telling.collector import SINK
from gateway.views.wanted import undecided, unmatched
from gateway.work.delivery import OPEN, UNPROVED

HOURS = 24
COUNTED = 10_000
"""Rows of one kind are counted up to here: what is counted is this many, or more."""
_WAITING_JOBS = (JobState.QUEUED, JobState.RUNNING)
_HELD = tuple(state for state in SeriesState if state not in {SeriesState.RECEIVING, SeriesState.COMPLETE})
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Hour:
    """What ended in the hour that began `at`."""

    at: datetime
    series: int
    jobs: int
    deliveries: int


@dataclass(frozen=True)
class Away:
    """A peer that did not take what it was sent, or did not prove it; `waiting` deliveries are tried again, or looked for."""

    peer: str
    waiting: int
    since: datetime
    reason: str


@dataclass(frozen=True)
class Overview:
    """`receiving`, `jobs`, `deliveries`: how many are in each state that does not last. Then what needs a person.

    `undecided` are series that rules in force could not decide on, `alarms` those that are on; `unmatched` are series of the last
    day that no rule wanted; `door` and `collector` say why senders are refused and why the audit trail is not told elsewhere, and
    are empty while all is well; `notices` say of whom no notice reaches why that is.
    """

    hours: Sequence[Hour]
    receiving: int
    jobs: Mapping[str, int]
    deliveries: Mapping[str, int]
    oldest_job: datetime | None
    oldest_delivery: datetime | None
    failed_jobs: int
    failed_deliveries: int
    held_deliveries: int
    held_series: int
    undecided: int
    unmatched: int
    away: Sequence[Away]
    unproved: Sequence[Away]
    alarms: Sequence[OpenAlarm]
    door: str
    collector: str
    notices: Mapping[str, str]


def overview(db: Database, now: datetime, *, obstacle: Callable[[str], str] = lambda _peer: "") -> Overview:
    """`obstacle` says why nothing goes to a peer now (roster.py)."""
    with db() as session:
        return Overview(
            hours=_hours(session, now),
            receiving=_count(session, Series.state == SeriesState.RECEIVING),
            jobs={str(state): _count(session, Job.state == state) for state in _WAITING_JOBS},
            deliveries={str(state): _count(session, Delivery.state == state) for state in OPEN},
            oldest_job=_oldest(session, Job, JobState.QUEUED),
            oldest_delivery=_oldest(session, Delivery, DeliveryState.QUEUED),
            failed_jobs=_count(session, Job.state == JobState.FAILED),
            failed_deliveries=_count(session, Delivery.state == DeliveryState.FAILED),
            held_deliveries=_count(session, Delivery.state == DeliveryState.HELD),
            held_series=_count(session, Series.state.in_(_HELD)),
            undecided=_count(session, undecided()),
            unmatched=_count(session, Series.last_received_at >= now - _DAY, unmatched()),
            away=_away(session, Delivery.state.in_(OPEN), obstacle),
            unproved=_away(session, UNPROVED & (Delivery.late_at >= Delivery.sent_at)),
            alarms=session.scalars(select(OpenAlarm).order_by(OpenAlarm.kind, OpenAlarm.subject)).all(),
            door=_door(session),
            collector=session.scalar(select(AuditSink.reason).where(AuditSink.name == SINK)) or "",
            notices=_unreached(session),
        )


def _unreached(session: Session) -> dict[str, str]:
    mine = AuditSink.name.startswith(herald.SINK, autoescape=True) & (AuditSink.reason != "")
    rows = session.execute(select(AuditSink.name, AuditSink.reason).where(mine).order_by(AuditSink.name))
    return {name.removeprefix(herald.SINK): reason for name, reason in rows}


def _count(session: Session, *conditions: ColumnElement[bool]) -> int:
    few = select(literal(1)).where(*conditions).limit(COUNTED).subquery()
    return session.scalar(select(func.count()).select_from(few)) or 0


def _oldest(session: Session, table: type[Job] | type[Delivery], state: str) -> datetime | None:
    """The rows were made in the order of their numbers."""
    return session.scalar(select(table.created_at).where(table.state == state).order_by(table.id).limit(1))


def _hours(session: Session, now: datetime) -> list[Hour]:
    """The last of them is the present one."""
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    series = _by_hour(session, Series.last_received_at, first)
    jobs, deliveries = _by_hour(session, Job.ended_at, first), _by_hour(session, Delivery.proved_at, first)
    hours = [first + timedelta(hours=number) for number in range(HOURS)]
    keys = [f"{hour:%Y-%m-%d %H}" for hour in hours]
    return [Hour(at, series.get(key, 0), jobs.get(key, 0), deliveries.get(key, 0)) for at, key in zip(hours, keys, strict=True)]


def _by_hour(session: Session, column: Any, since: datetime) -> dict[str, int]:
    """Counts by year, month, day and hour; both databases write a time in this order."""
    hour = func.substr(cast(column, String), 1, 13).label("hour")
    return dict(session.execute(select(hour, func.count()).where(column >= since).group_by(hour)).all())


def _away(session: Session, condition: ColumnElement[bool], obstacle: Callable[[str], str] = lambda _peer: "") -> list[Away]:
    """By peer, of the deliveries that have waited longest; one with a reason was tried, also while it is tried again."""
    tried = select(Delivery.peer, Delivery.created_at, Delivery.reason).where(condition)
    away: dict[str, Away] = {}
    for peer, since, reason in session.execute(tried.order_by(Delivery.id).limit(COUNTED)):
        first = away.get(peer) or Away(peer, 0, since, obstacle(peer))
        away[peer] = Away(peer, first.waiting + 1, first.since, first.reason or reason)
    return [one for one in away.values() if one.reason]


def took(db: Database, peers: Collection[str]) -> set[str]:
    """Those of them that ever took a result."""
    sent = Delivery.sent_at.is_not(None)
    with db() as session:
        return {one for one in peers if session.scalar(select(Delivery.id).where(Delivery.peer == one, sent).limit(1))}


def _door(session: Session) -> str:
    """Why the door is closed; empty while it is open. A start opens it."""
    acts = (Act.DOOR_CLOSED, Act.DOOR_OPENED, Act.GATEWAY_STARTED)
    last = [session.scalar(select(func.max(AuditEvent.id)).where(AuditEvent.act == act)) or 0 for act in acts]
    if last[0] != max(last) or not last[0]:
        return ""
    return str(session.get_one(AuditEvent, last[0]).detail.get("reason", ""))
