"""Revisions: a job on a series that has grown gives way to the one on the whole of it, or with other companions of it.

Its results say nothing of those that come later, and a PACS would show the one that came last as the newer.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.errors import ConfigError
from gateway.rows.tables import Job, JobState


def successor(session: Session, job: Job) -> Job | None:
    """The job that has its place, of a later revision or with other companions: one that waits, runs, or is done."""
    later = (Job.revision > job.revision) | (Job.supersedes >= job.id)  # a chain of them on one revision has rising numbers
    mine = (Job.series_instance_uid == job.series_instance_uid) & (Job.pipeline == job.pipeline) & later
    stands = Job.state.not_in((JobState.FAILED, JobState.CANCELLED))
    return session.scalars(select(Job).where(mine, stands).order_by(Job.revision.desc(), Job.id.desc())).first()


def superseded_by(later: Job, job: Job) -> str:
    if later.revision == job.revision:
        return "superseded by one with other companions"
    return f"superseded by revision {later.revision} of the series"


def check_stands(session: Session, job: Job) -> None:
    """Raises ConfigError where nothing may come of it any more."""
    if later := successor(session, job):
        raise ConfigError([f"job {job.id} is {superseded_by(later, job)}, which is job {later.id}"])
