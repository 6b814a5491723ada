"""The audit trail as people look through it: the latest first, a page at a time, within a bounded stretch of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.db import Database
from gateway.rows.tables import Series
from gateway.rows.trail import AuditEvent

PAGE = 50
STRETCH = 200_000
"""So many events are looked through for a page; where it is not full then, who looks may go on further back."""


@dataclass(frozen=True)
class Told:
    """Which events are wanted; an empty field wants all. `uid`: of a study, a series or an instance. `is_bad`: no successes."""

    act: str = ""
    actor: str = ""
    uid: str = ""
    job: int | None = None
    is_bad: bool = False


@dataclass(frozen=True)
class Events:
    """The latest first; `before` is where the next page goes on, None at the beginning of the trail.

    `looked_to`: the number of the earliest event that was looked at, where the page is not full because of that.
    """

    rows: Sequence[AuditEvent]
    before: int | None
    looked_to: int | None


def events(db: Database, told: Told, *, before: int | None = None) -> Events:
    with db() as session:
        head = audit.head_of(session)
        end = min(before or head.position + 1, head.position + 1) if head else 1
        is_found_by_index = bool(told.uid) or told.job is not None
        begin = 1 if is_found_by_index else max(1, end - STRETCH)
        query = select(AuditEvent).where(AuditEvent.id < end, AuditEvent.id >= begin).order_by(AuditEvent.id.desc())
        query = query.where(*_conditions(session, told))
        found = session.scalars(query.limit(PAGE + 1)).all()
    if len(found) > PAGE:
        return Events(found[:PAGE], found[PAGE - 1].id, None)
    return Events(found, begin if begin > 1 else None, begin if begin > 1 else None)


def latest(db: Database, *, limit: int = 50, series: str | None = None, job: int | None = None) -> list[AuditEvent]:
    """The latest events, oldest of them first."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if series:
        query = query.where(AuditEvent.series_instance_uid == series)
    if job is not None:
        query = query.where(AuditEvent.job == job)
    with db() as session:
        return list(session.scalars(query))[::-1]


def _conditions(session: Session, told: Told) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if told.act:
        conditions.append(AuditEvent.act == told.act)
    if told.actor:
        conditions.append(AuditEvent.actor == told.actor)
    if told.is_bad:
        conditions.append(AuditEvent.outcome > 0)
    if told.job is not None:
        conditions.append(AuditEvent.job == told.job)
    if told.uid:
        series = session.scalars(select(Series.series_instance_uid).where(Series.study_instance_uid == told.uid)).all()
        conditions.append(
            or_(AuditEvent.sop_instance_uid == told.uid, AuditEvent.series_instance_uid.in_([told.uid, *series]))
        )  # fmt: skip
    return conditions
