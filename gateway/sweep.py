"""Sweep: what was left behind goes, and what was forgotten goes on.

Every row that is not at its end has an attempt in the engine. Where that is missing (a restored backup, an engine's row
deleted by hand) the sweep enqueues it again, so that no job, no delivery and no commitment stays for ever.
"""

from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from gateway.db import Database, lock
from gateway.engine import (
    COMMIT,
    DELIVER,
    PERFORM,
    PRIORS,
    PROVE,
    RUN,
    SETTLE,
    SWEEP,
    Queues,
    peer_lane,
    settle_attempt,
    ticket,
)
from gateway.rows.searches import PriorSearch, SearchState, is_open
from gateway.rows.tables import Commitment, CommitmentState, Delivery, Instance, Job, JobState, Series, SeriesState
from gateway.rows.workitems import Workitem
from gateway.work import jobs
from gateway.work.delivery import OPEN, UNPROVED, enqueue, enqueue_proof, follow
from gateway.work.nominate import late_studies, look_again

PERIOD = timedelta(seconds=60)
_OVERDUE = timedelta(minutes=2)
_ENGINE_KEEPS = timedelta(days=7)
_AT_ONCE = 1000

Row = TypeVar("Row", Job, Delivery, Commitment, PriorSearch)

_logger = structlog.get_logger()


def sweep(now: datetime, *, db: Database, queues: Queues) -> None:
    """One round; it enqueues the next one first, so that a round that fails is not the last."""
    schedule(now + PERIOD, PERIOD, db=db, queues=queues)
    with db.begin() as session:
        again = sum(look(session, now, queues) for look in _LOOKS)
    if again:
        _logger.warning("work.enqueued_again", count=again)
    queues.prune(now - _ENGINE_KEEPS)


def schedule(at: datetime, delay: timedelta, *, db: Database, queues: Queues) -> None:
    """One round a minute, however many processes ask for it."""
    with db.begin() as session:
        queues.enqueue(session, SWEEP, SWEEP, attempt=str(int(at.timestamp() // PERIOD.total_seconds())), lane=SWEEP, delay=delay)


def _series(session: Session, now: datetime, queues: Queues) -> int:
    overdue = select(Series).where(Series.state == SeriesState.RECEIVING, Series.due_at < now - _OVERDUE)
    overdue = overdue.where(exists().where(Instance.series_instance_uid == Series.series_instance_uid))
    again = 0
    for series in session.scalars(overdue.limit(1000)):
        key = series.series_instance_uid
        if not queues.is_alive(SETTLE, key, settle_attempt(series.revision, series.due_at)):
            series.due_at, again = now, again + 1
            queues.enqueue(session, SETTLE, key, attempt=settle_attempt(series.revision, now), lane=SETTLE)
    return again


def _studies(session: Session, now: datetime, queues: Queues) -> int:
    """Those whose candidates wait for a look that never came; one more costs nothing."""
    late = late_studies(session, now - _OVERDUE)
    for uid in late:
        look_again(session, uid, now, now, queues)
    return len(late)


def _searches(session: Session, now: datetime, queues: Queues) -> int:
    waits = exists().where(Job.id == PriorSearch.id, Job.state == JobState.QUEUED)
    overdue = (PriorSearch.state == SearchState.WAITING) & (PriorSearch.due_at < now - _OVERDUE) & waits
    lost = _lost(session, PriorSearch, overdue, PRIORS, queues)
    for search in lost:
        search.due_at, search.ticket = now, ticket(search.attempts, now)
        queues.enqueue(session, PRIORS, str(search.id), attempt=search.ticket, lane=PRIORS)
    return len(lost)


def _jobs(session: Session, now: datetime, queues: Queues) -> int:
    overdue = Job.state.in_((JobState.QUEUED, JobState.RUNNING)) & (Job.due_at < now - _OVERDUE) & ~is_open(Job.id)
    lost = _lost(session, Job, overdue, RUN, queues)
    for job in lost:
        job.due_at, job.ticket = now, ticket(job.attempts, now)
        jobs.enqueue(session, job, queues)
    return len(lost)


def _deliveries(session: Session, now: datetime, queues: Queues) -> int:
    overdue = Delivery.state.in_(OPEN) & (Delivery.due_at < now - _OVERDUE)
    lost = _lost(session, Delivery, overdue & (Delivery.ticket != ""), DELIVER, queues)
    for delivery in lost:
        delivery.due_at, delivery.ticket = now, ticket(delivery.attempts, now)
        enqueue(session, delivery, queues)
    waiting = select(Delivery.peer, Delivery.study_instance_uid).where(overdue, Delivery.ticket == "")
    for peer, study in session.execute(waiting.distinct().limit(1000)).all():
        follow(session, peer, study, now, queues=queues)
    return len(lost)


def _proofs(session: Session, now: datetime, queues: Queues) -> int:
    lost = _lost(session, Delivery, UNPROVED & (Delivery.due_at < now - _OVERDUE), PROVE, queues)
    for delivery in lost:
        delivery.due_at, delivery.ticket = now, ticket(delivery.attempts, now)
        enqueue_proof(session, delivery, queues, timedelta(0))
    return len(lost)


def _commitments(session: Session, now: datetime, queues: Queues) -> int:
    waiting = (CommitmentState.ASKED, CommitmentState.CHECKED)
    lost = _lost(session, Commitment, Commitment.state.in_(waiting) & (Commitment.due_at < now - _OVERDUE), COMMIT, queues)
    for commitment in lost:
        commitment.due_at, commitment.ticket = now, ticket(commitment.attempts, now)
        lane = COMMIT if commitment.state == CommitmentState.ASKED else peer_lane(commitment.peer)
        queues.enqueue(session, COMMIT, str(commitment.id), attempt=commitment.ticket, lane=lane)
    return len(lost)


def _workitems(session: Session, now: datetime, queues: Queues) -> int:
    due = select(Workitem.sop_instance_uid, Workitem.ticket).where(Workitem.due_at < now - _OVERDUE).limit(_AT_ONCE)
    lost = queues.lost(PERFORM, {row.sop_instance_uid: row.ticket for row in session.execute(due)})
    for uid in lost:
        row = lock(session, Workitem, uid)
        row.due_at, row.ticket = now, ticket(row.looks, now)
        queues.enqueue(session, PERFORM, uid, attempt=row.ticket, lane=PERFORM)
    return len(lost)


_LOOKS = (_series, _studies, _searches, _jobs, _deliveries, _proofs, _commitments, _workitems)


def _lost(session: Session, table: type[Row], overdue: ColumnElement[bool], stage: str, queues: Queues) -> list[Row]:
    """Those that the engine has forgotten; however many it has, they neither hide one nor make a question each."""
    due = [(key, attempt) for key, attempt in session.execute(select(table.id, table.ticket).where(overdue))]
    parts = [dict(due[start : start + _AT_ONCE]) for start in range(0, len(due), _AT_ONCE)]
    return [session.get_one(table, key) for part in parts for key in queues.lost(stage, part)]
