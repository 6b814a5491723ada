"""Receive: take one instance in, for good. Bytes on disk, rows committed, then the answer (PS3.4 B.2.3).

The order of effects is the promise: file synced and renamed, then one transaction with the instance, its series, the work
that follows and the audit event. Only then does the ingest answer 0x0000.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from gateway import audit
from gateway.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock
from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.errors import NotUnderstood, OutOfResources, Refused
from gateway.instance import Identity, Incoming, Origin, identify, part10_header
from gateway.store import Store, Stored
from gateway.tables import Association, Instance, Series, SeriesState, Study, Version


class Receipt(StrEnum):
    NEW = "new"
    REPEATED = "repeated"
    VERSION = "version"


def receive(
    incoming: Incoming, now: datetime, *, store: Store, db: Database, queues: Queues, quiet: timedelta, executor: str
) -> Receipt:
    """Return only when the instance is durable and indexed, or was so already; raise Refused and keep nothing otherwise.

    The same bytes again make nothing new. Other bytes under the same SOP Instance UID are kept apart as a version.
    `quiet` is when settle looks at the series first, `executor` the process that holds the association.
    """
    try:
        identity = identify(incoming)
        stored = store.put((part10_header(incoming), incoming.data))
        try:
            with db.begin() as session:
                receipt = _index(session, incoming, identity, stored, now, queues, quiet, executor)
        except Refused:
            store.discard(stored.sha256)
            raise
    except DBAPIError as error:
        raise OutOfResources("the database cannot be written") from error
    except Refused as error:
        instance_refused(incoming.origin, error, now, db=db)
        raise
    crash_point("receive.committed")
    return receipt


def association_ended(association: str, now: datetime, *, db: Database, queues: Queues, quiet: timedelta) -> None:
    """The sender released or lost the association; safe to repeat."""
    with db.begin() as session:
        _end(session, Association.id == association, now, queues, quiet)


def executor_died(executor: str, now: datetime, *, db: Database, queues: Queues, quiet: timedelta) -> None:
    """A process that died took its associations with it."""
    with db.begin() as session:
        _end(session, Association.executor == executor, now, queues, quiet)


def association_rejected(origin: Origin, reason: str, now: datetime, *, db: Database) -> None:
    with db.begin() as session:
        audit.record(
            session, Act.ASSOCIATION_REJECTED, at=now, actor=origin.calling_ae_title, outcome=audit.MINOR,
            called_ae_title=origin.called_ae_title, address=origin.address, reason=reason,
        )  # fmt: skip


def instance_refused(origin: Origin, error: Refused, now: datetime, *, db: Database) -> None:
    """Told in the trail too; where the database is the reason, the sender's own log has to do."""
    if error.retryable:
        return
    try:
        with db.begin() as session:
            audit.record(
                session, Act.INSTANCE_REFUSED, at=now, actor=origin.calling_ae_title, outcome=audit.MINOR,
                status=f"0x{error.dimse_status:04X}", reason=str(error), association=origin.association,
            )  # fmt: skip
    except DBAPIError as failure:
        raise OutOfResources("the database cannot be written") from failure


def _index(
    session: Session,
    incoming: Incoming,
    identity: Identity,
    stored: Stored,
    now: datetime,
    queues: Queues,
    quiet: timedelta,
    executor: str,
) -> Receipt:
    is_new_series = _insert_parents(session, incoming.origin, identity, now, quiet, executor)
    receipt = _insert_instance(session, incoming, identity, stored, now)
    if receipt is Receipt.NEW and (is_new_series or _reopen_series(session, identity, now, quiet)):
        series = session.get_one(Series, identity.series_instance_uid, populate_existing=True)
        attempt = settle_attempt(series.revision, series.due_at)
        queues.enqueue(session, SETTLE, series.series_instance_uid, attempt=attempt, lane=SETTLE, delay=quiet)
    return receipt


def _end(session: Session, these: ColumnElement[bool], now: datetime, queues: Queues, quiet: timedelta) -> None:
    """What came over them need not wait for more: settle looks as soon as it is quiet, not at the deadline.

    The series are locked here and in settle: so either settle sees that the associations have ended, or this sees when
    settle wants to come back.
    """
    open_ones = update(Association).where(these, Association.ended_at.is_(None)).values(ended_at=now)
    ended = session.scalars(open_ones.returning(Association.id)).all()
    mine = select(Instance.series_instance_uid).where(Instance.association.in_(ended)).distinct()
    for uid in sorted(session.scalars(mine)):
        series = lock(session, Series, uid)
        due_at = max(now, series.last_received_at + quiet)
        if series.state == SeriesState.RECEIVING and due_at < series.due_at:
            series.due_at = due_at
            queues.enqueue(
                session, SETTLE, uid, attempt=settle_attempt(series.revision, due_at), lane=SETTLE, delay=due_at - now
            )  # fmt: skip


def _insert_parents(session: Session, origin: Origin, identity: Identity, now: datetime, quiet: timedelta, executor: str) -> bool:
    patient = asdict(identity)
    series_uid, modality = patient.pop("series_instance_uid"), patient.pop("modality")
    insert_once(
        session, Association, id=origin.association, ingest=origin.ingest, calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title, address=origin.address, executor=executor, began_at=now,
    )  # fmt: skip
    insert_once(session, Study, first_received_at=now, **patient)
    return insert_once(
        session, Series, series_instance_uid=series_uid, study_instance_uid=identity.study_instance_uid, modality=modality,
        first_received_at=now, last_received_at=now, due_at=now + quiet,
    )  # fmt: skip


def _insert_instance(session: Session, incoming: Incoming, identity: Identity, stored: Stored, now: datetime) -> Receipt:
    """One instance a SOP Instance UID; the first bytes are the instance, others are versions."""
    study = session.scalar(select(Series.study_instance_uid).where(Series.series_instance_uid == identity.series_instance_uid))
    if study != identity.study_instance_uid:
        raise NotUnderstood("expected the study that this series belongs to")
    values = {
        "sop_instance_uid": incoming.sop_instance_uid, "series_instance_uid": identity.series_instance_uid,
        "sha256": stored.sha256, "size": stored.size, "received_at": now,
    }  # fmt: skip
    receipt, outcome = Receipt.NEW, 0
    if not insert_once(
        session, Instance, association=incoming.origin.association, sop_class_uid=incoming.sop_class_uid,
        transfer_syntax_uid=incoming.transfer_syntax_uid, **values,
    ):  # fmt: skip
        held = session.scalar(select(Instance.sha256).where(Instance.sop_instance_uid == incoming.sop_instance_uid))
        receipt = Receipt.REPEATED
        if held != stored.sha256:
            receipt, outcome = Receipt.VERSION, audit.MINOR
            insert_once(session, Version, **values)
    act = {Receipt.NEW: Act.INSTANCE_RECEIVED, Receipt.REPEATED: Act.INSTANCE_REPEATED, Receipt.VERSION: Act.INSTANCE_VERSION}
    audit.record(
        session, act[receipt], at=now, actor=incoming.origin.calling_ae_title or incoming.origin.ingest, outcome=outcome,
        study=identity.study_instance_uid, series=identity.series_instance_uid, instance=incoming.sop_instance_uid,
        sha256=stored.sha256, association=incoming.origin.association,
    )  # fmt: skip
    return receipt


def _reopen_series(session: Session, identity: Identity, now: datetime, quiet: timedelta) -> bool:
    """A series that grows is younger; one that was complete is received again, as a new revision that settle looks at."""
    this = Series.series_instance_uid == identity.series_instance_uid
    latest = case((Series.last_received_at < now, now), else_=Series.last_received_at)
    session.execute(update(Series).where(this).values(last_received_at=latest))  # always: settle must wait for our commit
    reopened = session.execute(
        update(Series)
        .where(this, Series.state == SeriesState.COMPLETE)
        .values(state=SeriesState.RECEIVING, revision=Series.revision + 1, due_at=now + quiet, reason="")
    )
    if not reopened.rowcount:  # type: ignore[attr-defined]
        return False
    audit.record(session, Act.SERIES_REOPENED, at=now, study=identity.study_instance_uid, series=identity.series_instance_uid)
    return True
