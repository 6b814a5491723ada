"""What each model has to do, and who it was when it last did something."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.rows.tables import Job, JobState

_DAY = timedelta(days=1)
_LATEST = 50


@dataclass(frozen=True)
class ModelWork:
    """Jobs of one model; `version` and `weights` (SHA-256) are of the last that ended well, `seconds` the median of the last."""

    waiting: int
    running: int
    done: int
    failed: int
    """Of the last day, as `done` is."""
    version: str
    weights: str
    seconds: float | None
    reason: str
    """Why the one that waits longest waits, where it was tried."""


def work_of(db: Database, models: Sequence[str], *, now: datetime) -> dict[str, ModelWork]:
    with db() as session:
        open_jobs = select(Job.model, Job.state, func.count()).where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        ended = select(Job.model, Job.state, func.count()).where(Job.ended_at >= now - _DAY)
        counts = {
            (model, state): count
            for query in (open_jobs, ended)
            for model, state, count in session.execute(query.group_by(Job.model, Job.state))
        }
        return {model: _work(session, model, counts) for model in models}


def _work(session: Session, model: str, counts: dict[tuple[str, str], int]) -> ModelWork:
    mine = select(Job).where(Job.model == model)
    last = session.scalars(mine.where(Job.state == JobState.DONE).order_by(Job.id.desc()).limit(_LATEST)).all()
    first = session.scalars(mine.where(Job.state == JobState.QUEUED, Job.attempts > 0).order_by(Job.id).limit(1)).first()
    by = last[0].provenance if last else {}
    took = [(one.inferred_at - one.started_at).total_seconds() for one in last if one.inferred_at and one.started_at]
    return ModelWork(
        waiting=counts.get((model, JobState.QUEUED), 0), running=counts.get((model, JobState.RUNNING), 0),
        done=counts.get((model, JobState.DONE), 0), failed=counts.get((model, JobState.FAILED), 0),
        version=str(by.get("model_version", "")), weights=str(by.get("weights", "")), seconds=median(took) if took else None,
        reason=first.reason if first else "",
    )  # fmt: skip
