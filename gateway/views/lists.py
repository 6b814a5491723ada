"""Lists and searches of what came, what was made of it, and where it went, a page at a time; a page costs a few queries.

The cursor of a page is the key of its last row, so that the next one is found by an index, however far back it lies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Integer, Select, exists, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.columns import UtcDateTime
from gateway.rows.tables import (
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobState,
    OutputInstance,
    Series,
    SeriesState,
    Study,
    Version,
)
from gateway.views.wanted import CONSEQUENCES, Wanted, in_state, of_series, sought, within

T = TypeVar("T")
_PARTED = "~"
_MOST_APART, _NAMED = 200, 12
INCOMPLETE = "incomplete"
"""Series that lacked something at their deadline, or that a person held."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """`following` is the cursor of the next page, empty where there is none."""

    rows: Sequence[T]
    following: str = ""


@dataclass(frozen=True)
class SeriesRow:
    """`deliveries` are counted by job and state; of the jobs `retracted` results were taken back."""

    series: Series
    study: Study
    instances: int
    jobs: Sequence[Job]
    deliveries: Mapping[int, Mapping[str, int]]
    retracted: frozenset[int]


@dataclass(frozen=True)
class StudyRow:
    study: Study
    series: Sequence[SeriesRow]


@dataclass(frozen=True)
class JobRow:
    job: Job
    study: Study
    modality: str
    deliveries: Mapping[str, int]
    is_retracted: bool


@dataclass(frozen=True)
class DeliveryRow:
    delivery: Delivery
    output: OutputInstance
    study: Study | None
    series_instance_uid: str


def studies(db: Database, wanted: Wanted, *, after: str = "", limit: int = 50) -> Page[StudyRow]:
    """The studies that came last, first, with all of their series. Raises ConfigError where `after` is no cursor of ours."""
    query = select(Study)
    if wanted.text:
        query = query.where(Study.study_instance_uid.in_(sought(wanted.text)))
    query = within(query, Study.first_received_at, wanted)
    if wanted.modality:
        of_it = Series.study_instance_uid == Study.study_instance_uid
        query = query.where(exists().where(of_it, Series.modality == wanted.modality))
    with db() as session:
        page = _page(session, query, (Study.first_received_at, Study.study_instance_uid), after, limit)
        mine = select(Series).where(Series.study_instance_uid.in_([study.study_instance_uid for (study,) in page.rows]))
        series = _series_rows(session, session.scalars(mine.order_by(Series.first_received_at)).all())
        return Page([StudyRow(one, [row for row in series if row.study is one]) for (one,) in page.rows], page.following)


def series(db: Database, wanted: Wanted, *, after: str = "", limit: int = 50) -> Page[SeriesRow]:
    """The series that grew last, first. Raises ConfigError where there is no such state, or `after` is no cursor of ours."""
    query = select(Series)
    if wanted.text:
        query = query.where(Series.study_instance_uid.in_(sought(wanted.text)))
    if wanted.state in CONSEQUENCES:
        query = query.where(CONSEQUENCES[wanted.state]())
    else:
        query = in_state(query, Series.state, wanted.state, SeriesState)
    query = within(query, Series.last_received_at, wanted)
    with db() as session:
        query = of_series(session, query, wanted)
        page = _page(session, query, (Series.last_received_at, Series.series_instance_uid), after, limit)
        return Page(_series_rows(session, [one for (one,) in page.rows]), page.following)


def jobs(db: Database, wanted: Wanted, *, after: str = "", limit: int = 50) -> Page[JobRow]:
    """The latest first. Raises ConfigError where no job can be in that state, or `after` is no cursor of ours."""
    query = in_state(select(Job), Job.state, wanted.state, JobState)
    if wanted.text:
        mine = select(Series.series_instance_uid).where(Series.study_instance_uid.in_(sought(wanted.text)))
        query = query.where(Job.series_instance_uid.in_(mine))
    if wanted.pipeline:
        query = query.where(Job.pipeline == wanted.pipeline)
    query = within(query, Job.created_at, wanted)
    with db() as session:
        page = _page(session, query, (Job.id,), after, limit)
        found = [job for (job,) in page.rows]
        ids, whose = [job.id for job in found], _whose(session, found)
        counts, retracted = _delivery_counts(session, ids), _retracted(session, ids)
        rows = [JobRow(job, *whose[job.series_instance_uid], counts.get(job.id, {}), job.id in retracted) for job in found]
        return Page(rows, page.following)


def deliveries(db: Database, wanted: Wanted, *, after: str = "", limit: int = 50) -> Page[DeliveryRow]:
    """The latest first. Raises ConfigError where no delivery can be in that state, or `after` is no cursor of ours."""
    columns: tuple[Any, ...] = (Delivery, OutputInstance, Job.series_instance_uid)
    query: Select[Any] = select(*columns)
    query = query.join(OutputInstance, OutputInstance.sop_instance_uid == Delivery.sop_instance_uid)
    query = query.join(Job, Job.id == Delivery.job)
    query = in_state(query, Delivery.state, wanted.state, DeliveryState)
    if wanted.text:
        mine = select(Series.series_instance_uid).where(Series.study_instance_uid.in_(sought(wanted.text)))
        query = query.where(Job.series_instance_uid.in_(mine))
    if wanted.peer:
        query = query.where(Delivery.peer == wanted.peer)
    query = within(query, Delivery.created_at, wanted)
    with db() as session:
        page = _page(session, query, (Delivery.id,), after, limit)
        whose = _studies(session, [one.study_instance_uid for one, _, _ in page.rows])
        return Page(
            [DeliveryRow(one, output, whose.get(one.study_instance_uid), uid) for one, output, uid in page.rows], page.following
        )


def kept_apart(db: Database, series_instance_uid: str) -> Sequence[Version]:
    """The first of what came for the series and is no instance of it."""
    mine = select(Version).where(Version.series_instance_uid == series_instance_uid)
    with db() as session:
        return session.scalars(mine.order_by(Version.received_at, Version.sop_instance_uid).limit(_MOST_APART)).all()


def _series_rows(session: Session, found: Sequence[Series]) -> list[SeriesRow]:
    uids = [one.series_instance_uid for one in found]
    counted = select(Instance.series_instance_uid, func.count()).where(Instance.series_instance_uid.in_(uids))
    instances = dict(session.execute(counted.group_by(Instance.series_instance_uid)).all())
    whose = _studies(session, [one.study_instance_uid for one in found])
    made: dict[str, list[Job]] = {}
    for job in session.scalars(select(Job).where(Job.series_instance_uid.in_(uids)).order_by(Job.id)):
        made.setdefault(job.series_instance_uid, []).append(job)
    ids = [job.id for mine in made.values() for job in mine]
    counts, retracted = _delivery_counts(session, ids), _retracted(session, ids)
    return [
        SeriesRow(
            one,
            whose[one.study_instance_uid],
            instances.get(one.series_instance_uid, 0),
            mine := made.get(one.series_instance_uid, []),
            {job.id: counts[job.id] for job in mine if job.id in counts},
            retracted,
        )
        for one in found
    ]


def _delivery_counts(session: Session, job_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    counted = select(Delivery.job, Delivery.state, func.count()).where(Delivery.job.in_(job_ids))
    counts: dict[int, dict[str, int]] = {}
    for job, state, count in session.execute(counted.group_by(Delivery.job, Delivery.state)):
        counts.setdefault(job, {})[state] = count
    return counts


def _retracted(session: Session, job_ids: Sequence[int]) -> frozenset[int]:
    notes = select(OutputInstance.job).where(OutputInstance.job.in_(job_ids), OutputInstance.retracts != "")
    return frozenset(session.scalars(notes))


def _whose(session: Session, found: Sequence[Job]) -> dict[str, tuple[Study, str]]:
    """The study and the modality of each job's series."""
    mine = select(Series, Study).join(Study, Study.study_instance_uid == Series.study_instance_uid)
    rows = session.execute(mine.where(Series.series_instance_uid.in_({job.series_instance_uid for job in found})))
    return {series.series_instance_uid: (study, series.modality) for series, study in rows}


def _studies(session: Session, uids: Sequence[str]) -> dict[str, Study]:
    found = session.scalars(select(Study).where(Study.study_instance_uid.in_(set(uids))))
    return {study.study_instance_uid: study for study in found}


def _page(session: Session, query: Select[Any], keys: Sequence[Any], after: str, limit: int) -> Page[Any]:
    """Rows of the query in the falling order of `keys`, columns of what it selects first, behind the one with the key `after`."""
    ordered = _after(query.order_by(*(key.desc() for key in keys)), keys, after)
    found = session.execute(ordered.limit(limit + 1)).all()
    if len(found) <= limit:
        return Page(found)
    last = (getattr(found[limit - 1][0], key.key) for key in keys)
    return Page(found[:limit], _PARTED.join(one.isoformat() if isinstance(one, datetime) else str(one) for one in last))


def _after(query: Select[Any], keys: Sequence[Any], cursor: str) -> Select[Any]:
    """Rows behind the one with the key `cursor`, in the falling order of `keys`."""
    if not cursor:
        return query
    try:
        told = [_read(key, text) for key, text in zip(keys, cursor.split(_PARTED), strict=True)]
    except (ValueError, OverflowError) as error:
        raise ConfigError(["expected the cursor of a page"]) from error
    return query.where(tuple_(*keys) < tuple_(*(literal(value, key.type) for key, value in zip(keys, told, strict=True))))


def _read(key: Any, text: str) -> object:
    if not isinstance(key.type, UtcDateTime):
        return int(text) if isinstance(key.type, Integer) else text
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("expected a time zone")
    return at.astimezone(UTC)


def held_series(db: Database, *, why: str = "", limit: int = 50) -> list[Series]:
    """Those that a person should look at, the latest first; `why` is one of verdicts.Held, or `INCOMPLETE`."""
    lacking = Series.state.in_((SeriesState.HELD, SeriesState.FAILED))
    waiting = {"": or_(lacking, Series.held != ""), INCOMPLETE: lacking}.get(why, Series.held == why)
    query = select(Series).where(waiting, Series.state != SeriesState.RECEIVING)
    with db() as session:
        return list(session.scalars(query.order_by(Series.last_received_at.desc()).limit(limit)))


def brief(value: object) -> object:
    """Of a long list in an event's detail the first ones, and how many more there are: a job may have hundreds of results."""
    return [*value[:_NAMED], f"and {len(value) - _NAMED} more"] if isinstance(value, list) and len(value) > _NAMED else value


def in_words(detail: Mapping[str, object]) -> str:
    """An event's detail on one line."""
    return ", ".join(f"{key}={brief(value)}" for key, value in detail.items())
