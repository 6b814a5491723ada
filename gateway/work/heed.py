"""Heed: what a modality tells of a procedure step becomes rows, and settle looks again at the series that it is about."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, insert_once, lock
from gateway.dicom.modality import FINAL, StepState
from gateway.doors.entry import Performed
from gateway.doors.steps import Steps
from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.rows.performed import PerformedSeries, ProcedureStep
from gateway.rows.tables import Series, SeriesState

_KEPT = timedelta(days=30)
_AT_ONCE = 1000


def heed(session: Session, told: Performed, *, now: datetime, queues: Queues, quiet: timedelta) -> None:
    """Safe to repeat, and in any order: two messages of a step may come over two associations. What has ended stays as it is."""
    insert_once(
        session, ProcedureStep, sop_instance_uid=told.sop_instance_uid, study_instance_uid="", state=StepState.IN_PROGRESS,
        ae_title=told.origin.calling_ae_title, began_at=told.at, changed_at=told.at,
    )  # fmt: skip
    step = lock(session, ProcedureStep, told.sop_instance_uid)
    step.study_instance_uid = step.study_instance_uid or told.study_instance_uid
    if step.state not in FINAL:
        step.state, step.changed_at = told.state or step.state, told.at
        if told.instances is not None:
            _replace(session, step, told.instances)
    audit.record(
        session, Act.STEP_PERFORMED, at=told.at, actor=told.origin.calling_ae_title, study=step.study_instance_uid,
        instance=told.sop_instance_uid, state=step.state, instances=len(told.instances or ()),
        association=told.origin.association,
    )  # fmt: skip
    session.flush()
    mine = select(PerformedSeries.series_instance_uid).where(PerformedSeries.sop_instance_uid == told.sop_instance_uid)
    about = or_(Series.study_instance_uid == step.study_instance_uid, Series.series_instance_uid.in_(mine))
    waiting = select(Series.series_instance_uid).where(about, Series.state == SeriesState.RECEIVING)
    for uid in sorted(session.scalars(waiting)):
        look_soon(session, uid, now, queues, quiet)


def look_soon(session: Session, series_instance_uid: str, now: datetime, queues: Queues, quiet: timedelta) -> None:
    """Settle looks as soon as it is quiet, not at the deadline.

    The series is locked here and in settle: so either settle sees what is new, or this sees when settle wants to come back.
    """
    series = lock(session, Series, series_instance_uid)
    due_at = max(now, series.last_received_at + quiet)
    if series.state == SeriesState.RECEIVING and due_at < series.due_at:
        series.due_at = due_at
        attempt = settle_attempt(series.revision, due_at)
        queues.enqueue(session, SETTLE, series_instance_uid, attempt=attempt, lane=SETTLE, delay=due_at - now)


def forget(now: datetime, *, db: Database, steps: Steps) -> None:
    """Steps of which nothing was told for 30 days: a UID that comes then is a new one."""
    old = select(ProcedureStep.sop_instance_uid).where(ProcedureStep.changed_at < now - _KEPT).limit(_AT_ONCE)
    with db.begin() as session:
        uids = session.scalars(old).all()
        session.execute(delete(PerformedSeries).where(PerformedSeries.sop_instance_uid.in_(uids)))
        session.execute(delete(ProcedureStep).where(ProcedureStep.sop_instance_uid.in_(uids)))
    steps.forget(now - _KEPT)


def _replace(session: Session, step: ProcedureStep, instances: Sequence[tuple[str, str]]) -> None:
    """A sequence in an N-SET is all of it (PS3.4 F.7.2.2.2)."""
    session.execute(delete(PerformedSeries).where(PerformedSeries.sop_instance_uid == step.sop_instance_uid))
    series: dict[str, list[str]] = {}
    for uid, instance in instances:
        series.setdefault(uid, []).append(instance)
    for uid, made in series.items():
        session.add(PerformedSeries(sop_instance_uid=step.sop_instance_uid, series_instance_uid=uid, instances=made))
