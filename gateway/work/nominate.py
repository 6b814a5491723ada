"""Nominate: a series that a rule wants for a pipeline that chooses among those of the study waits until the study is complete."""

from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gateway.db import insert_once
from gateway.decisions.rank import Traits
from gateway.engine import ELECT, SETTLE, Queues
from gateway.rows.candidates import Candidate, CandidateState
from gateway.rows.tables import Series


def nominate(
    session: Session,
    series: Series,
    weighed: Traits,
    now: datetime,
    queues: Queues,
    *,
    quiet: timedelta,
    **order: object,
) -> None:
    """Once for this revision; its study is looked at when it has been quiet for so long. `order`: of the job that it would be.

    One that was passed, or was in the shadow, waits again, as the rules want it now: a person lets its series be looked at again.
    """
    key = {"series_instance_uid": series.series_instance_uid, "revision": series.revision}
    key |= {name: order.pop(name) for name in ("pipeline", "role")}
    made = insert_once(
        session, Candidate, **key, study_instance_uid=series.study_instance_uid, traits=asdict(weighed), made_at=now,
        due_at=now + quiet, **order,
    )  # fmt: skip
    if not made:
        is_other = (Candidate.state == CandidateState.PASSED) | Candidate.beside.is_distinct_from(order["beside"])
        session.execute(
            update(Candidate)
            .filter_by(**key)
            .where(is_other)
            .values(state=CandidateState.WAITING, reason="", due_at=now + quiet, **order)
        )
    look_again(session, series.study_instance_uid, now + quiet, now, queues)


def look_again(session: Session, study_instance_uid: str, due_at: datetime, now: datetime, queues: Queues) -> None:
    attempt = f"{due_at.timestamp():.6f}"
    queues.enqueue(session, ELECT, study_instance_uid, attempt=attempt, lane=SETTLE, delay=due_at - now)


def late_studies(session: Session, before: datetime) -> list[str]:
    """Studies with candidates that should have been looked at by then."""
    late = (Candidate.state == CandidateState.WAITING) & (Candidate.due_at < before)
    return list(session.scalars(select(Candidate.study_instance_uid).where(late).distinct()))
