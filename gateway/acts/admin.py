"""What a person may ask and do of rows. Every act is audited with who did it.

Lists are lists.py; acts and questions that are more than rows have files of their own, beside this one: provenance, resend,
retract, restored, seal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, lock
from gateway.engine import DELIVER, RUN, Queues, model_lane, rank, ticket
from gateway.errors import ConfigError
from gateway.outputs.rejection import note_uid
from gateway.rows import searches
from gateway.rows.candidates import Candidate
from gateway.rows.searches import Prior, PriorSearch
from gateway.rows.tables import (
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobInstance,
    JobState,
    OutputInstance,
    RuleOutcome,
    Series,
    Study,
    Version,
)
from gateway.rows.trail import AuditEvent
from gateway.rows.verdicts import SeriesVerdict
from gateway.work import delivery as rows


@dataclass(frozen=True)
class SeriesStory:
    """Everything that is known of one series: whose it is, why it settled as it did, what became of it."""

    study: Study
    series: Series
    instances: int
    size: int
    versions: int
    outcomes: Sequence[RuleOutcome]
    jobs: Sequence["JobStory"]
    verdict: SeriesVerdict | None = None
    """What was found out of the completeness of its present revision."""
    candidates: Sequence[Candidate] = ()
    """For which pipelines it was weighed against the other series of its study, and what came of that."""


@dataclass(frozen=True)
class JobStory:
    """`inputs` are the store's keys of the exact instances that the job works on, `gone` how many of them retention took.

    `superseded_by` are the jobs of later revisions of the series that take its place.
    """

    job: Job
    inputs: Sequence[str]
    gone: int
    outputs: Sequence[OutputInstance]
    deliveries: Sequence[Delivery]
    superseded_by: Sequence[int]
    search: PriorSearch | None = None
    priors: Sequence[Prior] = ()
    """The earlier series that sources have: those that it gets first, the others with why not."""


@dataclass(frozen=True)
class DeliveryStory:
    """One output on its way to one peer; `events` are its attempts, the oldest first."""

    delivery: Delivery
    output: OutputInstance
    events: Sequence[AuditEvent]


def show_series(db: Database, series_instance_uid: str) -> SeriesStory:
    """Raises ConfigError where there is no such series."""
    with db() as session:
        series = _known(session, Series, series_instance_uid)
        mine = Instance.series_instance_uid == series_instance_uid
        count, size = session.execute(select(func.count(), func.coalesce(func.sum(Instance.size), 0)).where(mine)).one()
        versions = select(func.count()).select_from(Version).where(Version.series_instance_uid == series_instance_uid)
        outcomes = select(RuleOutcome).where(
            RuleOutcome.series_instance_uid == series_instance_uid, RuleOutcome.revision == series.revision
        )
        jobs = session.scalars(_jobs_of(series_instance_uid)).all()
        return SeriesStory(
            study=session.get_one(Study, series.study_instance_uid),
            series=series,
            instances=count,
            size=int(size),
            versions=session.scalar(versions) or 0,
            outcomes=session.scalars(outcomes.order_by(RuleOutcome.rule)).all(),
            jobs=[_story(session, job) for job in jobs],
            verdict=session.get(SeriesVerdict, (series_instance_uid, series.revision)),
            candidates=session.scalars(
                select(Candidate).where(Candidate.series_instance_uid == series_instance_uid).order_by(Candidate.revision)
            ).all(),
        )


def show_job(db: Database, job_id: int) -> JobStory:
    with db() as session:
        return _story(session, _known(session, Job, job_id))


def show_delivery(db: Database, delivery_id: int) -> DeliveryStory:
    with db() as session:
        delivery = _known(session, Delivery, delivery_id)
        output = session.get_one(OutputInstance, delivery.sop_instance_uid)
        told = select(AuditEvent).where(AuditEvent.job == delivery.job, AuditEvent.sop_instance_uid == output.sop_instance_uid)
        events = [event for event in session.scalars(told.order_by(AuditEvent.id)) if event.detail.get("peer") == delivery.peer]
        return DeliveryStory(delivery, output, events)


def list_audit(db: Database, *, limit: int = 50, series: str | None = None, job: int | None = None) -> list[AuditEvent]:
    """The latest events, oldest of them first."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if series:
        query = query.where(AuditEvent.series_instance_uid == series)
    if job is not None:
        query = query.where(AuditEvent.job == job)
    with db() as session:
        return list(session.scalars(query))[::-1]


def retry_job(db: Database, queues: Queues, job_id: int, *, actor: str, now: datetime) -> str:
    """Failed jobs are queued again, waiting ones start now; returns what was done. Raises ConfigError otherwise."""
    with db.begin() as session:
        job = _known(session, Job, job_id, to_change=True)
        if job.state not in (JobState.QUEUED, JobState.FAILED, JobState.CANCELLED):
            raise ConfigError([f"job {job_id} is {job.state}: expected one that failed, was cancelled or waits"])
        if _gone(session, job):
            raise ConfigError([f"job {job_id}: retention took {_gone(session, job)} of its instances: send the series again"])
        was_waiting = job.state == JobState.QUEUED and not searches.give_up(session, job.id, now)
        if not was_waiting:
            job.state, job.ticket, job.due_at, job.crashes, job.ended_at = (
                JobState.QUEUED,
                ticket(job.attempts, now),
                now,
                0,
                None,
            )
            lane = model_lane(job.model, job.priority)
            queues.enqueue(session, RUN, str(job.id), attempt=job.ticket, lane=lane, rank=rank(job.priority, job.created_at))
        audit.record(session, Act.JOB_RETRIED, at=now, actor=actor, series=job.series_instance_uid, job=job.id)
    if was_waiting:  # the engine has its own connection: not before this transaction lets go of the row
        queues.start_now(RUN, str(job.id), job.ticket)
        return f"job {job_id} was waiting and is due now"
    return f"job {job_id} is queued again"


def cancel_job(db: Database, job_id: int, *, actor: str, now: datetime) -> str:
    """A job that has not started never will; one that runs ends by itself."""
    with db.begin() as session:
        job = _known(session, Job, job_id, to_change=True)
        if job.state != JobState.QUEUED:
            raise ConfigError([f"job {job_id} is {job.state}: expected one that waits"])
        job.state, job.ended_at, job.reason = JobState.CANCELLED, now, f"cancelled by {actor}"
        audit.record(session, Act.JOB_CANCELLED, at=now, actor=actor, series=job.series_instance_uid, job=job.id)
    return f"job {job_id} is cancelled"


def retry_delivery(db: Database, queues: Queues, delivery_id: int, *, actor: str, now: datetime) -> str:
    """Failed deliveries are queued again, waiting ones start now: the same bytes under the same UID."""
    with db.begin() as session:
        delivery = _known(session, Delivery, delivery_id, to_change=True)
        if delivery.state in (DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.PROVED):
            raise ConfigError(
                [f"delivery {delivery_id} is {delivery.state}: expected one that failed, is held, cancelled or waits"]
            )
        _check_not_retracted(session, delivery)
        was_waiting = delivery.state == DeliveryState.QUEUED
        if was_waiting and not delivery.ticket:
            raise ConfigError([f"delivery {delivery_id} waits for one of its study that goes first: retry or cancel that one"])
        if not was_waiting:
            delivery.state, delivery.ticket, delivery.due_at = DeliveryState.QUEUED, ticket(delivery.attempts, now), now
            delivery.refusals = 0
            rows.enqueue(session, delivery, queues)
        rows.tell(session, Act.DELIVERY_RETRIED, delivery, now, actor=actor)
    if was_waiting:
        queues.start_now(DELIVER, str(delivery.id), delivery.ticket)
        return f"delivery {delivery_id} was waiting and is due now"
    return f"delivery {delivery_id} is queued again"


def cancel_delivery(db: Database, queues: Queues, delivery_id: int, *, actor: str, now: datetime) -> str:
    """It is never sent; what waited behind it goes on."""
    with db.begin() as session:
        delivery = _known(session, Delivery, delivery_id, to_change=True)
        if delivery.state not in (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.FAILED):
            raise ConfigError([f"delivery {delivery_id} is {delivery.state}: expected one that waits, is held or failed"])
        delivery.state, delivery.reason = DeliveryState.CANCELLED, f"cancelled by {actor}"
        rows.tell(session, Act.DELIVERY_CANCELLED, delivery, now, actor=actor)
        session.flush()
        rows.follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)
    return f"delivery {delivery_id} is cancelled"


def _check_not_retracted(session: Session, delivery: Delivery) -> None:
    if session.get(OutputInstance, note_uid(delivery.sop_instance_uid)) is not None:
        raise ConfigError([f"delivery {delivery.id}: its result was retracted"])


def _jobs_of(series_instance_uid: str) -> Any:
    return select(Job).where(Job.series_instance_uid == series_instance_uid).order_by(Job.id)


def _story(session: Session, job: Job) -> JobStory:
    inputs = session.scalars(select(JobInstance.sha256).where(JobInstance.job == job.id)).all()
    outputs = session.scalars(select(OutputInstance).where(OutputInstance.job == job.id)).all()
    deliveries = session.scalars(select(Delivery).where(Delivery.job == job.id).order_by(Delivery.id)).all()
    later = session.scalars(select(Job.id).where(_is_later(job), Job.supersedes == job.id).order_by(Job.id)).all()
    priors = session.scalars(select(Prior).where(Prior.job == job.id).order_by(Prior.id)).all()
    return JobStory(job, inputs, _gone(session, job), outputs, deliveries, later, session.get(PriorSearch, job.id), priors)


def _is_later(job: Job) -> Any:
    return (Job.series_instance_uid == job.series_instance_uid) & (Job.id > job.id)


def _gone(session: Session, job: Job) -> int:
    gone = select(func.count()).select_from(JobInstance).join(
        Instance, (Instance.sop_instance_uid == JobInstance.sop_instance_uid) & (Instance.sha256 == JobInstance.sha256)
    )  # fmt: skip
    return session.scalar(gone.where(JobInstance.job == job.id, Instance.gone_at.is_not(None))) or 0


def _known(session: Session, table: Any, key: object, *, to_change: bool = False) -> Any:
    """The row; with `to_change` nobody else changes it before this transaction ends."""
    try:
        return lock(session, table, key) if to_change else session.get_one(table, key)
    except NoResultFound as error:
        raise ConfigError([f"there is no {table.__name__.lower()} {key}"]) from error
