"""What a person may do to jobs and deliveries. Every act is audited with who did it; those of more than rows are beside this."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, lock
from gateway.engine import DELIVER, RUN, Queues, ticket
from gateway.errors import ConfigError
from gateway.outputs.rejection import note_uid
from gateway.rows import searches
from gateway.rows.searches import Prior
from gateway.rows.tables import (
    Delivery,
    DeliveryState,
    Job,
    JobCompanion,
    JobState,
    OutputInstance,
    Series,
)
from gateway.views.stories import gone, gone_of_priors, known
from gateway.work import delivery as rows
from gateway.work import jobs
from gateway.work.revisions import check_stands


def retry_job(db: Database, queues: Queues, job_id: int, *, actor: str, now: datetime) -> str:
    """Failed jobs are queued again, waiting ones start now; returns what was done. Raises ConfigError otherwise."""
    with db.begin() as session:
        _hold_inputs(session, known(session, Job, job_id))
        job = known(session, Job, job_id, to_change=True)
        if job.state not in (JobState.QUEUED, JobState.FAILED, JobState.CANCELLED):
            raise ConfigError([f"job {job_id} is {job.state}: expected one that failed, was cancelled or waits"])
        check_stands(session, job)
        if taken := gone(session, job):
            raise ConfigError([f"job {job_id}: retention took {taken} of its instances: send the series again"])
        if taken := gone_of_priors(session, job):
            raise ConfigError([f"job {job_id}: retention took {taken} instances of its priors: send them again"])
        was_waiting = job.state == JobState.QUEUED and not searches.give_up(session, job.id, now)
        if not was_waiting:
            jobs.again(session, job, now, queues)
        audit.record(session, Act.JOB_RETRIED, at=now, actor=actor, series=job.series_instance_uid, job=job.id)
    if was_waiting:  # the engine has its own connection: not before this transaction lets go of the row
        queues.start_now(RUN, str(job.id), job.ticket)
        return f"job {job_id} was waiting and is due now"
    return f"job {job_id} is queued again"


def _hold_inputs(session: Session, job: Job) -> None:
    """Against retention, which holds a series while it looks at its jobs; before the job's row, as everybody does."""
    others = [select(one.series_instance_uid).where(one.job == job.id) for one in (Prior, JobCompanion)]
    mine = or_(Series.series_instance_uid == job.series_instance_uid, *map(Series.series_instance_uid.in_, others))
    for uid in sorted(session.scalars(select(Series.series_instance_uid).where(mine))):
        lock(session, Series, uid)


def cancel_job(db: Database, job_id: int, *, actor: str, now: datetime) -> str:
    """One that has not started never will, one that failed is done with; one that runs ends by itself."""
    with db.begin() as session:
        job = known(session, Job, job_id, to_change=True)
        if job.state not in (JobState.QUEUED, JobState.FAILED):
            raise ConfigError([f"job {job_id} is {job.state}: expected one that waits or failed"])
        before = f"; it had failed: {job.reason}" if job.state == JobState.FAILED else ""
        job.state, job.ended_at, job.reason = JobState.CANCELLED, job.ended_at or now, f"cancelled by {actor}{before}"
        audit.record(session, Act.JOB_CANCELLED, at=now, actor=actor, series=job.series_instance_uid, job=job.id)
    return f"job {job_id} is cancelled"


def retry_delivery(
    db: Database,
    queues: Queues,
    delivery_id: int,
    *,
    obstacle: Callable[[str], str] = lambda _peer: "",
    actor: str,
    now: datetime,
) -> str:
    """Failed deliveries are queued again, waiting ones start now: the same bytes under the same UID.

    `obstacle` says why nothing goes to a peer now (roster.py): then it waits until that has passed, and says so.
    """
    with db.begin() as session:
        delivery = known(session, Delivery, delivery_id, to_change=True)
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
            delivery.refusals, delivery.reason = 0, ""
            rows.enqueue(session, delivery, queues)
        if why := obstacle(delivery.peer):
            delivery.reason = f"waits: peer {delivery.peer} {why}"
        rows.tell(session, Act.DELIVERY_RETRIED, delivery, now, actor=actor)
    if why:
        return f"delivery {delivery_id} {delivery.reason}"
    if was_waiting:
        queues.start_now(DELIVER, str(delivery.id), delivery.ticket)
        return f"delivery {delivery_id} was waiting and is due now"
    return f"delivery {delivery_id} is queued again"


def cancel_delivery(db: Database, queues: Queues, delivery_id: int, *, actor: str, now: datetime) -> str:
    """It is never sent, or nobody looks for it any more where it was; what waited behind it goes on."""
    with db.begin() as session:
        delivery = known(session, Delivery, delivery_id, to_change=True)
        fate = rows.cancel(session, delivery, now, actor=actor)
        if fate is None:
            expected = "expected one that waits, is held, failed, or was sent and is looked for"
            raise ConfigError([f"delivery {delivery_id} is {delivery.state}: {expected}"])
        session.flush()
        rows.follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)
    return f"delivery {delivery_id} is cancelled{fate}"


def _check_not_retracted(session: Session, delivery: Delivery) -> None:
    if session.get(OutputInstance, note_uid(delivery.sop_instance_uid)) is not None:
        raise ConfigError([f"delivery {delivery.id}: its result was retracted"])
