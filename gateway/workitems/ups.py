"""Workitems as other systems order, claim, change, end and look for them (UPS-RS, PS3.18 11, PS3.4 CC.2).

Each act is one transaction: the row, the data set (a file, before the commit), what followers are told, the trail. The row is
locked from the first look to the end, so of two who claim one it is one who gets it. The texts of Conflict are those of the
standard's warnings, where it has some.
"""

import hmac
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice

from pydicom import Dataset
from sqlalchemy import delete, exists, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock
from gateway.dicom import achieved, procedure, query
from gateway.dicom.procedure import BadWorkitem, items
from gateway.dicom.query import Broad, fits_within
from gateway.dicom.uids import is_uid
from gateway.dicom.values import texts
from gateway.engine import PERFORM, Queues, ticket
from gateway.errors import Damaged, GatewayError
from gateway.rows.tables import Job, JobState
from gateway.rows.workitems import FINAL, Report, Subscription, Workitem, WorkitemDocument, WorkitemState
from gateway.store import Store
from gateway.work import jobs
from gateway.workitems.subscriptions import KEPT as REPORTS_KEPT
from gateway.workitems.subscriptions import PROGRESSED, STATE, UNWANTED, follow, followers, report

INCONSISTENT = "The submitted request is inconsistent with the current state of the UPS Instance."
_READ_AT_MOST = 5000
_DAYS, _LEFTOVER = timedelta(days=30), timedelta(minutes=10)
_AT_ONCE = 200


class NoWorkitem(GatewayError):
    """There is none with this UID, and never was."""


class GoneWorkitem(GatewayError):
    """There was one, and its days are over."""


class Conflict(GatewayError):
    """It cannot be done to a workitem in this state, or not by who asks."""


def create(db: Database, store: Store, queues: Queues, asked: Dataset, uid: str, *, actor: str, now: datetime) -> bool:
    """Whether something was added that was not asked for. Raises BadWorkitem and Conflict."""
    if not is_uid(uid):
        raise BadWorkitem("expected a UID as in PS3.5 9.1 for the workitem")
    workitem, is_modified = procedure.created(asked, uid, now)
    with db.begin() as session:
        if not insert_once(
            session, Workitem, sop_instance_uid=uid, document="", person=actor, due_at=now, made_at=now, changed_at=now,
            ticket=ticket(0, now), state=WorkitemState.SCHEDULED, transaction_uid="", is_ours=False, made_job=False, looks=0,
        ):  # fmt: skip
            raise Conflict("The UPS exists already.")
        row = session.get_one(Workitem, uid)
        keep(session, row, workitem, store, now)
        follow(session, row, workitem, now)
        report(session, row, STATE, now)
        _look(session, row, queues, now)
        tell(session, Act.WORKITEM_CREATED, row, actor, now)
    return is_modified


def retrieve(db: Database, store: Store, uid: str) -> Dataset:
    """Raises NoWorkitem and GoneWorkitem."""
    with db() as session:
        return read(store, _there(session.get(Workitem, uid)).document)


def change(
    db: Database, store: Store, queues: Queues, uid: str, changes: Dataset, transaction: str, *, actor: str, now: datetime
) -> None:
    """`transaction` is empty while it is scheduled, and then that of who claimed it. Raises as above, and Conflict."""
    transaction = transaction or next(iter(texts(changes, "TransactionUID")), "")
    with db.begin() as session:
        row = find(session, uid)
        if row.state in FINAL or (row.state == WorkitemState.SCHEDULED and transaction):
            raise Conflict(INCONSISTENT)
        if row.state == WorkitemState.IN_PROGRESS:
            _check_transaction(row, transaction)
        keep(session, row, procedure.changed(read(store, row.document), changes, now), store, now)
        report(session, row, PROGRESSED if procedure.PROGRESS in changes else STATE, now)
        if row.state == WorkitemState.SCHEDULED:
            _look(session, row, queues, now)
        tell(session, Act.WORKITEM_UPDATED, row, actor, now)


def change_state(db: Database, store: Store, uid: str, asked: Dataset, *, actor: str, now: datetime) -> str:
    """A warning, where it is in that state already. Raises as above."""
    state, transaction = _state(asked)
    with db.begin() as session:
        row = find(session, uid)
        if state == WorkitemState.IN_PROGRESS:
            if row.state != WorkitemState.SCHEDULED:
                raise Conflict(INCONSISTENT)
            claim(session, row, read(store, row.document), transaction, store, actor, now)
            return ""
        if row.state == state:
            return f"The UPS is already in the requested state of {state}."
        if row.state != WorkitemState.IN_PROGRESS:
            raise Conflict(INCONSISTENT)
        _check_transaction(row, transaction)
        workitem = read(store, row.document)
        lacking = procedure.lacks(workitem, state)
        if lacking:
            raise Conflict(f"The final state requirements are not met: expected {', '.join(lacking)}.")
        end(session, row, workitem, state, store, actor, now)
    return ""


def request_cancel(db: Database, store: Store, uid: str, request: Dataset, *, actor: str, now: datetime) -> str:
    """What nobody has begun is canceled; who performs another one is told. A warning, or "". Raises as above."""
    with db.begin() as session:
        row = find(session, uid)
        if row.state == WorkitemState.CANCELED:
            return "The UPS is already in the requested state of CANCELED."
        if row.state == WorkitemState.COMPLETED:
            raise Conflict("The UPS is already COMPLETED.")
        workitem = read(store, row.document)
        achieved.ask_to_cancel(workitem, request)
        if row.state == WorkitemState.IN_PROGRESS and not row.is_ours:
            if not followers(session, row):
                raise Conflict("The performer cannot be told: nobody follows the UPS.")
            keep(session, row, workitem, store, now)
            report(session, row, UNWANTED, now)
            tell(session, Act.WORKITEM_UNWANTED, row, actor, now)
            return ""
        if row.is_ours:
            _withdraw(session, row, actor, now)
        reason = next(iter(texts(request, "ReasonForCancellation")), "") or f"canceled by {actor}"
        achieved.cancel(workitem, reason, now, items(request, "ProcedureStepDiscontinuationReasonCodeSequence"))
        end(session, row, workitem, WorkitemState.CANCELED, store, actor, now)
    return ""


def search(db: Database, store: Store, pairs: Iterable[tuple[str, str]]) -> list[Dataset]:
    """The latest first. Raises BadQuery."""
    plain, within = query.paths(pairs)
    asked = query.parse((key, value) for key, value in plain if not (key == "includefield" and value == "all"))
    rows = select(Workitem.document).where(Workitem.gone_at.is_(None)).order_by(Workitem.made_at.desc())
    if state := asked.wanted.get("ProcedureStepState"):
        rows = rows.where(Workitem.state == state)
    if uids := asked.wanted.get("SOPInstanceUID", "").replace("*", ""):
        rows = rows.where(Workitem.sop_instance_uid.in_(query.uids(uids)))
    with db() as session:
        documents = session.scalars(rows.limit(_READ_AT_MOST + 1)).all()
    if len(documents) > _READ_AT_MOST:
        raise Broad(f"expected a search that fits fewer than {_READ_AT_MOST}: name a ProcedureStepState")
    found = (workitem for workitem in _readable(store, documents) if asked.fits(workitem))
    fitting = (one for one in found if all(fits_within(one, path, value) for path, value in within.items()))
    return list(islice(fitting, asked.offset, asked.offset + asked.limit))


def find(session: Session, uid: str) -> Workitem:
    """Locked. Raises NoWorkitem and GoneWorkitem."""
    try:
        return _there(lock(session, Workitem, uid))
    except NoResultFound:
        return _there(None)


def read(store: Store, document: str) -> Dataset:
    return procedure.load(store.read(document))


def keep(session: Session, row: Workitem, workitem: Dataset, store: Store, now: datetime) -> None:
    """The data set is a file before the transaction ends that names it."""
    stored = store.put([procedure.dump(workitem)])
    crash_point("workitem.stored")
    insert_once(session, WorkitemDocument, sha256=stored.sha256, sop_instance_uid=row.sop_instance_uid, made_at=now)
    row.document, row.changed_at = stored.sha256, now
    session.flush()


def claim(session: Session, row: Workitem, workitem: Dataset, transaction: str, store: Store, actor: str, now: datetime) -> None:
    row.state, row.transaction_uid, row.due_at = WorkitemState.IN_PROGRESS, transaction, None
    workitem.ProcedureStepState = str(row.state)
    keep(session, row, workitem, store, now)
    report(session, row, STATE, now)
    tell(session, Act.WORKITEM_CLAIMED, row, actor, now)


def end(session: Session, row: Workitem, workitem: Dataset, state: str, store: Store, actor: str, now: datetime) -> None:
    row.state, row.ended_at, row.due_at = state, now, None
    workitem.ProcedureStepState = state
    keep(session, row, workitem, store, now)
    report(session, row, STATE, now)
    is_done = state == WorkitemState.COMPLETED
    act, outcome = (Act.WORKITEM_COMPLETED, 0) if is_done else (Act.WORKITEM_CANCELED, audit.MINOR)
    tell(session, act, row, actor, now, outcome=outcome)


def tell(session: Session, act: Act, row: Workitem, actor: str, now: datetime, *, outcome: int = 0) -> None:
    audit.record(session, act, at=now, actor=actor, outcome=outcome, instance=row.sop_instance_uid, job=row.job, state=row.state)


def tidy(now: datetime, *, db: Database, store: Store) -> None:
    """Workitems whose days are over go, and data sets that another one took the place of: first the file, then its row."""
    over = select(Workitem.sop_instance_uid).where(Workitem.ended_at < now - _DAYS, Workitem.gone_at.is_(None))
    with db.begin() as session:
        for uid in session.scalars(over.limit(_AT_ONCE)).all():
            row = lock(session, Workitem, uid)
            row.gone_at, row.document = now, ""
            session.execute(delete(Subscription).where(Subscription.sop_instance_uid == uid))
            session.execute(delete(Report).where(Report.sop_instance_uid == uid))
            tell(session, Act.WORKITEM_REMOVED, row, "gateway", now)
        session.execute(delete(Report).where(Report.at < now - REPORTS_KEPT))
    used = exists().where(Workitem.document == WorkitemDocument.sha256) | exists().where(
        Report.document == WorkitemDocument.sha256
    )
    leftover = select(WorkitemDocument).where(WorkitemDocument.made_at < now - _LEFTOVER, ~used)
    with db() as session:
        documents = session.scalars(leftover.limit(_AT_ONCE)).all()
    for one in documents:
        with db.begin() as session:  # a data set belongs to one workitem, whose lock is held where it becomes the same again
            lock(session, Workitem, one.sop_instance_uid)
            if session.scalar(select(WorkitemDocument.sha256).where(WorkitemDocument.sha256 == one.sha256, ~used)):
                store.discard(one.sha256)
                session.execute(delete(WorkitemDocument).where(WorkitemDocument.sha256 == one.sha256))


def _withdraw(session: Session, row: Workitem, actor: str, now: datetime) -> None:
    """The job too, where it was made for this workitem alone and nobody has begun it. Raises Conflict where it runs."""
    job = lock(session, Job, row.job)
    if job.state != JobState.QUEUED:
        raise Conflict(f"The performer chooses not to cancel: its job is {job.state}.")
    if row.made_job:
        jobs.withdraw(session, job, now, f"its workitem was canceled by {actor}")


def _look(session: Session, row: Workitem, queues: Queues, now: datetime) -> None:
    """There may be something for us to do, now."""
    row.due_at, row.ticket = now, ticket(row.looks, now)
    queues.enqueue(session, PERFORM, row.sop_instance_uid, attempt=row.ticket, lane=PERFORM)


def _state(asked: Dataset) -> tuple[str, str]:
    state, transaction = (next(iter(texts(asked, word)), "") for word in ("ProcedureStepState", "TransactionUID"))
    if state not in tuple(WorkitemState):
        raise BadWorkitem(f"expected ProcedureStepState: {', '.join(WorkitemState)}")
    if state == WorkitemState.SCHEDULED:
        raise Conflict(INCONSISTENT)
    if not transaction:
        raise Conflict("The Transaction UID is missing.")
    if not is_uid(transaction):
        raise BadWorkitem("expected a UID as in PS3.5 9.1 for TransactionUID")
    return state, transaction


def _check_transaction(row: Workitem, transaction: str) -> None:
    if not transaction:
        raise Conflict("The Transaction UID is missing.")
    if not hmac.compare_digest(row.transaction_uid.encode(), transaction.encode("utf-8", "replace")):
        raise Conflict("The Transaction UID is incorrect.")


def _there(row: Workitem | None) -> Workitem:
    if row is None:
        raise NoWorkitem("there is no such workitem")
    if row.gone_at is not None:
        raise GoneWorkitem("this workitem was removed when its days were over")
    return row


def _readable(store: Store, documents: Iterable[str]) -> Iterator[Dataset]:
    """Without those that another one took the place of meanwhile."""
    for document in documents:
        with suppress(Damaged):
            yield read(store, document)
