"""Lookout: looks every minute for what should have happened and has not, which no event of the trail tells.

silence      somebody who is expected to send has not (silence.py)
no result    jobs wait, and none has come to its end for long
model away   jobs wait for a model that does not answer
disk low     the store's disk has little room left
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from gateway.configuration.oversight import DAYS, AlarmsSection, SilenceSection
from gateway.db import Database
from gateway.decisions.silence import Expectation
from gateway.errors import ModelUnavailable
from gateway.rows.tables import Association, Job, JobState
from gateway.telling.alarms import Alarm, compare, open_alarms
from gateway.telling.happening import Kind

_KINDS = (Kind.SILENCE, Kind.NO_RESULT, Kind.MODEL_AWAY, Kind.DISK_LOW)
_WAITING = (JobState.QUEUED, JobState.RUNNING)
_AWAY = timedelta(minutes=1)
_CLEARLY = 1.1


def look_out(
    now: datetime,
    *,
    settings: AlarmsSection,
    silences: Iterable[SilenceSection],
    time_zone: str,
    free_bytes: int,
    keep_free_bytes: int,
    db: Database,
) -> None:
    """One look; what is new or over is told in the trail. `free_bytes` are those of the store's disk."""
    with db.begin() as session:
        present = [
            *_silent(session, now, expectations(silences, time_zone)),
            *_no_result(session, now, timedelta(minutes=settings.no_result_minutes)),
            *_models_away(session, now),
            *_disk_low(session, now, free_bytes, max(settings.free_bytes, keep_free_bytes)),
        ]
        compare(session, present, now, kinds=_KINDS)


def expectations(silences: Iterable[SilenceSection], time_zone: str) -> list[Expectation]:
    return [
        Expectation(
            one.calling_ae_title, frozenset(DAYS.index(day) for day in one.days), one.begins, one.ends,
            timedelta(minutes=one.after_minutes), ZoneInfo(time_zone),
        )
        for one in silences
    ]  # fmt: skip


def _silent(session: Session, now: datetime, expected: Iterable[Expectation]) -> Iterator[Alarm]:
    """One that was told lasts until somebody is heard, also when the hours are over."""
    known = open_alarms(session)
    for one in expected:
        last = _last_heard(session, one.calling_ae_title, now)
        told = known.get((Kind.SILENCE, one.calling_ae_title))
        since = one.silent_since(now, last)
        if told is not None and (last is None or last <= told.since):
            since = told.since
        if since is not None:
            yield Alarm(Kind.SILENCE, one.calling_ae_title, since, one.says(last))


def _last_heard(session: Session, calling_ae_title: str, now: datetime) -> datetime | None:
    mine = Association.calling_ae_title == calling_ae_title
    if session.scalar(select(exists().where(mine, Association.ended_at.is_(None)))):
        return now
    return session.scalar(select(func.max(Association.ended_at)).where(mine))


def _no_result(session: Session, now: datetime, patience: timedelta) -> Iterator[Alarm]:
    if not patience:
        return
    waiting = (Job.state.in_(_WAITING), Job.created_at <= now - patience)
    count, oldest = session.execute(select(func.count(), func.min(Job.created_at)).where(*waiting)).one()
    if count and not session.scalar(select(exists().where(Job.ended_at > now - patience, Job.state == JobState.DONE))):
        minutes = f"{patience.total_seconds() / 60:g}"
        yield Alarm(Kind.NO_RESULT, "", oldest, f"no result for {minutes} minutes, and {count} jobs wait as long")


def _models_away(session: Session, now: datetime) -> Iterator[Alarm]:
    away = (Job.state == JobState.QUEUED, Job.code == ModelUnavailable.code, Job.due_at < now - _AWAY)
    for model, since in session.execute(select(Job.model, func.min(Job.due_at)).where(*away).group_by(Job.model)).all():
        yield Alarm(Kind.MODEL_AWAY, model, since, f"model {model} does not answer; its jobs wait until it does")


def _disk_low(session: Session, now: datetime, free_bytes: int, wanted: int) -> Iterator[Alarm]:
    """Over when there is clearly more again: retention keeps a disk at the bytes that it is told, a little more or less."""
    is_told = (Kind.DISK_LOW, "") in open_alarms(session)
    if free_bytes < wanted * (_CLEARLY if is_told else 1):
        gibibytes = f"{wanted / 1024**3:.1f}"
        yield Alarm(
            Kind.DISK_LOW, "", now, f"the store's disk has less than {gibibytes} GiB left; when it is full nothing is taken"
        )
