"""Findings: what reports state to be present goes into the trail when its results go out, for people who hear of it at once.

A finding is told once of a series, whichever of its revisions states it: a later one that says the same is no news. What is in
the shadow, has come behind a later revision, or is of a synthetic study is not told.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.outputs import Output
from gateway.outputs.sr import MeasurementReport
from gateway.rows.tables import Job
from gateway.rows.trail import AuditEvent, Rehearsed

_MOST, _LONGEST = 20, 150


def stated(outputs: Iterable[Output]) -> list[str]:
    """In the words of the pipeline's codes, each once, not more and no longer than a person reads."""
    reports = (one for one in outputs if isinstance(one, MeasurementReport))
    return list(dict.fromkeys(words[:_LONGEST] for report in reports for words in report.present()))[:_MOST]


def tell(session: Session, job: Job, found: Sequence[str], now: datetime) -> None:
    """In the transaction in which its results go out: a job with a reason against that tells nothing."""
    known = {words for told in _told(session, job) for words in told["findings"]}
    new = [words for words in found if words not in known]
    if new and not job.reason and session.get(Rehearsed, job.series_instance_uid) is None:
        audit.record(
            session, Act.FINDING_STATED, at=now, series=job.series_instance_uid, job=job.id, pipeline=job.pipeline, findings=new
        )


def kept(session: Session, job: Job) -> list[str]:
    """What the job had stated when it was done."""
    done = select(AuditEvent.detail).where(AuditEvent.job == job.id, AuditEvent.act == Act.JOB_DONE)
    return [words for detail in session.scalars(done) for words in detail.get("findings") or ()]


def _told(session: Session, job: Job) -> list[dict[str, list[str]]]:
    of_series = (AuditEvent.series_instance_uid == job.series_instance_uid) & (AuditEvent.act == Act.FINDING_STATED)
    return [one for one in session.scalars(select(AuditEvent.detail).where(of_series)) if one["pipeline"] == job.pipeline]
