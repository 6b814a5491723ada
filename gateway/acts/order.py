"""Order: a person or a system asks for a pipeline on a series, whatever the rules say of it.

An order is a rule that one series matches. What was done to the same instances already is not done again; what failed, or was
cancelled, is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.decisions.rules import PRIORITIES
from gateway.engine import Queues
from gateway.errors import ConfigError
from gateway.pipeline import Pipeline
from gateway.rows.tables import Instance, Job, JobState, OutputInstance, Series, SeriesState
from gateway.rows.verdicts import SeriesVerdict
from gateway.views.stories import known
from gateway.work import delivery, jobs
from gateway.work.companions import hold, ordered

_FINISHED = (SeriesState.COMPLETE, SeriesState.HELD, SeriesState.FAILED)


@dataclass(frozen=True)
class Ordered:
    """`is_new` is False where the job was there before; `also_to` are the peers that get its results besides those before.

    `is_again`: it was there, and had failed or been cancelled. `goes_out`: its results go to a peer.
    """

    job: int
    is_new: bool
    also_to: Sequence[str] = ()
    is_again: bool = False
    goes_out: bool = True

    def __str__(self) -> str:
        if self.is_new:
            return f"job {self.job} is queued{'' if self.goes_out else '; no peer was named, its results stay here'}"
        also = f"; its results go to {', '.join(self.also_to)} too" if self.also_to else ""
        return f"job {self.job} is queued again{also}" if self.is_again else f"job {self.job} did that already{also}"


def order(
    db: Database,
    queues: Queues,
    series_instance_uid: str,
    *,
    pipeline: str,
    pipelines: Mapping[str, Pipeline],
    send_to: Sequence[str],
    peers: Collection[str],
    priority: str = "routine",
    actor: str,
    now: datetime,
) -> Ordered:
    """Make the job, in one transaction with what tells who asked for it. Raises ConfigError with everything that is wrong."""
    with db.begin() as session:
        return place(
            session, queues, series_instance_uid, pipeline=pipeline, pipelines=pipelines, send_to=send_to, peers=peers,
            priority=priority, actor=actor, now=now,
        )  # fmt: skip


def place(
    session: Session,
    queues: Queues,
    series_instance_uid: str,
    *,
    pipeline: str,
    pipelines: Mapping[str, Pipeline],
    send_to: Sequence[str],
    peers: Collection[str],
    priority: str,
    actor: str,
    now: datetime,
) -> Ordered:
    """As `order`, within a transaction; where it raises nothing was written in it."""
    problems = [f"expected one of the pipelines {', '.join(sorted(pipelines))}"] * (pipeline not in pipelines)
    problems += [f"expected peers among {', '.join(sorted(peers)) or 'none: there is no peer'}"] * (
        not set(send_to) <= set(peers)
    )
    problems += [f"expected a priority: {', '.join(PRIORITIES)}"] * (priority not in PRIORITIES)
    if problems:
        raise ConfigError(problems)
    if pipelines[pipeline].needs.companions:
        hold(session, series_instance_uid, pipeline)
    series = _orderable(session, series_instance_uid)
    mine = select(Instance).where(Instance.series_instance_uid == series_instance_uid)
    instances = session.scalars(mine.order_by(Instance.received_at, Instance.sop_instance_uid)).all()
    found = session.get(SeriesVerdict, (series_instance_uid, series.revision))
    companions, partial = ordered(session, series, pipeline, pipelines[pipeline].needs, found.missing if found else "")
    key = jobs.input_key(pipeline, pipelines[pipeline], instances, companions)
    earlier = _job(session, key)
    before = None if earlier is None else [*earlier.send_to]
    wanted = jobs.Order(pipeline, [f"ordered by {actor}"], list(dict.fromkeys(send_to)), priority, "order", partial)
    jobs.make(session, series, instances, wanted, pipelines[pipeline], now, queues, companions)
    job = _job(session, key)
    assert job is not None
    if before is not None and job.state == JobState.DONE and not delivery.standing(session, job.id):
        gone = "its results are not here any more, retention took them or they were retracted"
        raise ConfigError([f"job {job.id} did that already, and {gone}: a new version of the pipeline makes new ones"])
    is_again = before is not None and job.state in (JobState.FAILED, JobState.CANCELLED)
    if is_again:
        jobs.again(session, job, now, queues)
    also_to = [] if before is None else [peer for peer in job.send_to if peer not in before]
    audit.record(
        session, Act.JOB_ORDERED, at=now, actor=actor, study=series.study_instance_uid, series=series_instance_uid,
        job=job.id, pipeline=pipeline, peers=list(send_to), priority=priority, is_new=before is None,
    )  # fmt: skip
    return Ordered(job.id, before is None, also_to, is_again, bool(job.send_to))


def _orderable(session: Session, series_instance_uid: str) -> Series:
    series: Series = known(session, Series, series_instance_uid, to_change=True)
    if series.state not in _FINISHED:
        raise ConfigError([f"series {series_instance_uid} is {series.state}: it can be ordered for when it is complete"])
    mine = select(func.count()).select_from(Instance).where(Instance.series_instance_uid == series_instance_uid)
    if session.scalar(mine.where(Instance.gone_at.is_not(None))):
        raise ConfigError([f"series {series_instance_uid}: retention took its files; send them again first"])
    ours = select(OutputInstance.job).join(Instance, Instance.sop_instance_uid == OutputInstance.sop_instance_uid)
    if session.scalar(ours.where(Instance.series_instance_uid == series_instance_uid).limit(1)) is not None:
        raise ConfigError([f"series {series_instance_uid} was made by this gateway: expected one of images"])
    return series


def _job(session: Session, key: str) -> Job | None:
    return session.scalars(select(Job).where(Job.input_key == key)).one_or_none()
