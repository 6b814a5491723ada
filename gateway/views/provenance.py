"""Provenance both ways: what a result was made of, by what, and where it went; what was made of an instance that came in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.errors import ConfigError
from gateway.rows.tables import (
    Association,
    Delivery,
    Instance,
    Job,
    JobCompanion,
    JobInstance,
    OutputInstance,
    RuleOutcome,
    Series,
    Version,
)
from gateway.rows.trail import AuditEvent
from gateway.views.stories import companions_of


@dataclass(frozen=True)
class Result:
    """An object of ours and where it went."""

    output: OutputInstance
    deliveries: Sequence[Delivery]


@dataclass(frozen=True)
class Made:
    """A result; the lists are UIDs of other results of ours, as far as there are any."""

    result: Result
    job: Job
    rules: Sequence[RuleOutcome]
    inputs: Sequence[JobInstance]
    companions: Sequence[JobCompanion]
    supersedes: Sequence[str]
    superseded_by: Sequence[str]
    retracted_by: Sequence[str]


class Work(NamedTuple):
    """A job that read it, and what that made."""

    job: Job
    results: Sequence[Result]


@dataclass(frozen=True)
class Came:
    """An instance that came in; `apart` are other bytes that came under its UID."""

    instance: Instance
    series: Series
    origin: Association
    apart: Sequence[Version]
    work: Sequence[Work]


@dataclass(frozen=True)
class Provenance:
    """A result of ours that somebody sent back to us was both made and came."""

    sop_instance_uid: str
    made: Made | None
    came: Came | None
    events: Sequence[AuditEvent]


def provenance(db: Database, sop_instance_uid: str) -> Provenance:
    """Raises ConfigError where no such instance came or was made."""
    with db() as session:
        output, instance = session.get(OutputInstance, sop_instance_uid), session.get(Instance, sop_instance_uid)
        events = select(AuditEvent).where(AuditEvent.sop_instance_uid == sop_instance_uid).order_by(AuditEvent.id)
        found = Provenance(
            sop_instance_uid,
            made=_made(session, output) if output else None,
            came=_came(session, instance) if instance else None,
            events=session.scalars(events).all(),
        )
    if not (found.made or found.came or found.events):
        raise ConfigError([f"there is no instance {sop_instance_uid}"])
    return found


def _made(session: Session, output: OutputInstance) -> Made:
    job = session.get_one(Job, output.job)
    mine = select(RuleOutcome).where(
        RuleOutcome.series_instance_uid == job.series_instance_uid,
        RuleOutcome.revision == job.revision,
        RuleOutcome.rule.in_(job.rules),
    )
    inputs = select(JobInstance).where(JobInstance.job == job.id).order_by(JobInstance.sop_instance_uid)
    return Made(
        result=_result(session, output),
        job=job,
        rules=session.scalars(mine.order_by(RuleOutcome.rule)).all(),
        inputs=session.scalars(inputs).all(),
        companions=companions_of(session, job),
        supersedes=_outputs_of(session, [job.supersedes] if job.supersedes else []),
        superseded_by=_outputs_of(session, session.scalars(select(Job.id).where(Job.supersedes == job.id)).all()),
        retracted_by=session.scalars(
            select(OutputInstance.sop_instance_uid).where(OutputInstance.retracts == output.sop_instance_uid)
        ).all(),
    )


def _came(session: Session, instance: Instance) -> Came:
    uid = instance.sop_instance_uid
    read = select(Job).join(JobInstance, JobInstance.job == Job.id).where(JobInstance.sop_instance_uid == uid)
    apart = select(Version).where(Version.sop_instance_uid == uid).order_by(Version.received_at)
    return Came(
        instance=instance,
        series=session.get_one(Series, instance.series_instance_uid),
        origin=session.get_one(Association, instance.association),
        apart=session.scalars(apart).all(),
        work=[Work(job, _results(session, job)) for job in session.scalars(read.order_by(Job.id)).all()],
    )


def _results(session: Session, job: Job) -> list[Result]:
    made = select(OutputInstance).where(OutputInstance.job == job.id).order_by(OutputInstance.sop_instance_uid)
    return [_result(session, output) for output in session.scalars(made).all()]


def _result(session: Session, output: OutputInstance) -> Result:
    went = select(Delivery).where(Delivery.sop_instance_uid == output.sop_instance_uid).order_by(Delivery.id)
    return Result(output, session.scalars(went).all())


def _outputs_of(session: Session, jobs: Sequence[int]) -> Sequence[str]:
    """Of these jobs, the retractions among them left out."""
    mine = select(OutputInstance.sop_instance_uid).where(OutputInstance.job.in_(jobs), OutputInstance.retracts == "")
    return session.scalars(mine.order_by(OutputInstance.job, OutputInstance.sop_instance_uid)).all()
