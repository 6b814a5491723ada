"""Shadow: jobs that run and whose results are kept, and of which nothing is sent before a person releases it.

Who decides about the deliveries of a job holds its row: a job that ends, and a person who releases it, come one after the other.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, changed, lock
from gateway.engine import Queues
from gateway.errors import ConfigError
from gateway.rows.ruleset import Shadow
from gateway.rows.tables import Job, JobState
from gateway.work import delivery, findings
from gateway.work.revisions import check_stands

REASON = "in the shadow: its results are kept, and nothing is sent before a person releases it"


def enter(session: Session, job: Job, beside: str) -> None:
    """A job that was made just now; `beside` is the pipeline whose canary it is."""
    session.add(Shadow(job=job.id, beside=beside, released_by=""))
    job.reason = REASON


def is_in(session: Session, job_id: int) -> bool:
    return session.scalar(select(Shadow.job).where(Shadow.job == job_id, Shadow.released_at.is_(None))) is not None


def leave(
    session: Session, job_id: int, now: datetime, *, queues: Queues, peers: Sequence[str] = (), actor: str = "gateway"
) -> bool:
    """False where it was not in the shadow. What it has made goes out now, what it will make goes out then; to `peers` too."""
    job = lock(session, Job, job_id)
    mine = update(Shadow).where(Shadow.job == job_id, Shadow.released_at.is_(None))
    if not changed(session, mine.values(released_at=now, released_by=actor)):
        return False
    if peers:
        job.send_to = list(dict.fromkeys(peers))
    job.reason = ""
    going = delivery.standing(session, job_id) if job.state == JobState.DONE else []
    for output in going:
        for peer in job.send_to:
            delivery.make(session, output, peer, now, job=job, queues=queues)
    if going:
        findings.tell(session, job, findings.kept(session, job), now)
    audit.record(session, Act.JOB_RELEASED, at=now, actor=actor, series=job.series_instance_uid, job=job_id, peers=job.send_to)
    return True


def release_job(db: Database, queues: Queues, job_id: int, *, actor: str, now: datetime) -> str:
    """A person lets the results of a job go to the peers of its rule.

    Raises ConfigError where it is not in the shadow, has no results (any more), or was superseded, or where they were taken back.
    """
    with db.begin() as session:
        try:
            job = lock(session, Job, job_id)  # against retention
        except NoResultFound as error:
            raise ConfigError([f"there is no job {job_id}"]) from error
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            raise ConfigError([f"job {job_id} is {job.state}: it has no results that could go out"])
        check_stands(session, job)
        if job.state == JobState.DONE and not delivery.standing(session, job_id):
            why = "its results were retracted, or their days were over ([retention] shadow_days)"
            raise ConfigError([f"job {job_id}: {why}: there is nothing that could go out"])
        if not leave(session, job_id, now, queues=queues, actor=actor):
            raise ConfigError([f"job {job_id} is not in the shadow: its results go out by themselves"])
    return f"job {job_id} is released"
