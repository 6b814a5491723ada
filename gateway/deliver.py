"""Deliver: one object to one peer. The stored bytes, for ever the same; an attempt that fails enqueues the next one, delayed.

Nothing waits in a thread, so a dead peer costs nothing and delays nobody: every peer has a lane of its own. What the peer says
decides:

    success, it has it already, stored with a warning   sent; prove.py finds out whether it is there
    no connection, no association, out of resources     tried again, for days; told once it is late
    everything sent and no answer                       unknown: the peer is asked, then the same bytes go again
    no, for this object                                 three times, then failed: a person sees it, with the reason
    another patient for this study than we have         held: a person decides

What its table does not name among its `objects` is unwanted, and never sent there.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.dicom.values import texts
from gateway.engine import Queues, ticket
from gateway.errors import Damaged, DeliveryError, Rejected, Unanswered, Unreachable
from gateway.outputs.kinds import unwanted, without
from gateway.peers import NOT_SUPPORTED, Peer, Proof, Sent, Sought
from gateway.rows.tables import Delivery, DeliveryState, OutputInstance
from gateway.rows.trail import AuditEvent
from gateway.store import Store
from gateway.work.delivery import AT_MOST, OPEN, Pace, again, drop, end, enqueue_proof, follow, leave_out, tell, tell_late

_LONGEST_ASKED = timedelta(hours=4)
_OLDEST = datetime(2026, 1, 1, tzinfo=UTC)

_logger = structlog.get_logger()


class _Held(DeliveryError):
    """Another patient."""


def deliver(
    delivery_id: int,
    *,
    clock: Callable[[], datetime],
    peers: Mapping[str, Peer],
    store: Store,
    db: Database,
    queues: Queues,
    pace: Pace,
) -> None:
    """Make one attempt and write down how it ended: sent, to be tried again, held, or failed with the peer's status."""
    with db.begin() as session:
        delivery = lock(session, Delivery, delivery_id)
        if delivery.state not in OPEN or drop(session, delivery, clock(), queues=queues):
            return
        output = session.get_one(OutputInstance, delivery.sop_instance_uid)
        delivery.unanswered |= delivery.state == DeliveryState.SENDING  # an attempt that died
        peer = peers.get(delivery.peer)
        if why := unwanted(peer, output.sop_class_uid):
            leave_out(session, delivery, why, clock(), queues=queues)
            return
        asks_first = delivery.unanswered or _may_be_there(session, delivery)
        is_let_go = _was_held(session, delivery)
        delivery.attempts += delivery.state == DeliveryState.QUEUED
        delivery.state = DeliveryState.SENDING
        tell(session, Act.DELIVERY_STARTED, delivery, clock(), attempt=delivery.attempts)
    crash_point("deliver.started")
    try:
        _check_clock(clock())
        if peer is None:
            raise DeliveryError("expected a peer of this name in the configuration")
        sent = _send(delivery, output, peer, store, asks_first=asks_first, is_let_go=is_let_go)
    except DeliveryError as error:
        _ended_badly(delivery, error, clock(), db, queues, pace)
        return
    crash_point("deliver.sent")
    now = clock()
    with db.begin() as session:
        attempt = "" if peer.proof is Proof.NONE else ticket(0, now)
        values = {
            "status": sent.status,
            "reason": sent.note,
            "unanswered": False,
            "looks": 0,
            "asked_at": None,
            "transaction_uid": "",
        }
        if end(session, delivery, state=DeliveryState.SENT, sent_at=now, due_at=now, ticket=attempt, **values):
            tell(session, Act.DELIVERY_SENT, delivery, now, status=f"0x{sent.status:04X}")
            if attempt:
                delivery.ticket = attempt
                enqueue_proof(session, delivery, queues, timedelta(0))
            follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)
    crash_point("deliver.committed")


def deliver_failed(delivery_id: int, error: Exception, now: datetime, *, db: Database, queues: Queues) -> None:
    """What nobody expected: the delivery fails where a person sees it. The peer may have it: how far it came is not known."""
    with db() as session:
        delivery = session.get_one(Delivery, delivery_id)
    delivery.unanswered |= delivery.state == DeliveryState.SENDING
    failure = DeliveryError(f"unexpected {type(error).__name__}; the log has where it was raised")
    _ended_badly(delivery, failure, now, db, queues, Pace())


def _was_held(session: Session, delivery: Delivery) -> bool:
    """A person has looked at whose it is, and let it go."""
    held = (AuditEvent.sop_instance_uid == delivery.sop_instance_uid) & (AuditEvent.act == Act.DELIVERY_HELD)
    return any(detail["peer"] == delivery.peer for detail in session.scalars(select(AuditEvent.detail).where(held)))


def _may_be_there(session: Session, delivery: Delivery) -> bool:
    """Never sent, as far as the database knows, and that was brought back from an older backup (restored.py)."""
    return (
        delivery.sent_at is None
        and session.scalar(select(AuditEvent.id).where(AuditEvent.act == Act.DATABASE_RESTORED).limit(1)) is not None
    )


def _check_clock(now: datetime) -> None:
    """Raises Unreachable: a machine that believes in 1970 takes instances, but what it tells others of times would be wrong."""
    if now < _OLDEST:
        raise Unreachable("this machine's clock is years behind: expected one that NTP keeps")


def _send(delivery: Delivery, output: OutputInstance, peer: Peer, store: Store, *, asks_first: bool, is_let_go: bool) -> Sent:
    try:
        path = store.check(output.sha256)
    except Damaged as error:
        raise DeliveryError(str(error)) from error
    sought = Sought(output.study_instance_uid, output.series_instance_uid, output.sop_instance_uid, output.sop_class_uid, path)
    is_there = _holds(delivery.peer, peer, sought) if asks_first else None
    if is_there:
        return Sent(0x0000, "it is there already, from an attempt whose end is not known here")
    delivery.unanswered &= is_there is None
    if not is_let_go and peer.proof is not Proof.NONE:
        _check_patient(delivery.peer, peer, output.study_instance_uid, path)
    try:
        return peer.send(path)
    except Rejected as error:
        way_out = without(peer, output.sop_class_uid) if error.status == NOT_SUPPORTED else ""
        raise Rejected(error.status, f"{error}; {way_out}") if way_out else error from error


def _holds(name: str, peer: Peer, sought: Sought) -> bool | None:
    """Whether it is there; None of a peer that cannot say so, and gets it again."""
    if peer.proof is Proof.NONE:
        return None
    try:
        return peer.holds(sought)
    except DeliveryError as error:
        _logger.info("peer.not_asked", peer=name, reason=str(error))
        return None


def _check_patient(name: str, peer: Peer, study_instance_uid: str, path: Path) -> None:
    """Raises _Held where the peer has the study under another patient than the result: merged or corrected there meanwhile."""
    try:
        theirs = peer.patient_of(study_instance_uid)
    except DeliveryError as error:
        _logger.info("peer.not_asked", peer=name, reason=str(error))
        return
    ours = "".join(texts(dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True), "PatientID"))
    if theirs and theirs.strip() != ours:  # a peer that sends it empty says nothing
        raise _Held(
            "the peer has this study under another Patient ID than the images that came here: it was not sent."
            " Look at both; `gateway deliveries retry` sends it all the same, `cancel` drops it"
        )


def _ended_badly(delivery: Delivery, error: DeliveryError, now: datetime, db: Database, queues: Queues, pace: Pace) -> None:
    status = error.status if isinstance(error, Rejected) else None
    # Once unknown, it stays so until the peer says that it has it, or that it has it not: a no to a later attempt is neither.
    unanswered = delivery.unanswered or isinstance(error, Unanswered)
    with db.begin() as session:
        values: dict[str, object] = {"status": status, "reason": str(error), "unanswered": unanswered}
        refusals = delivery.refusals + isinstance(error, Rejected)
        if error.retryable or (isinstance(error, Rejected) and refusals < AT_MOST):
            delay = max(pace.wait(delivery.attempts), _asked_for(error))
            is_late = delivery.late_at is None and now - delivery.created_at >= pace.late
            values |= {"refusals": refusals, "late_at": now if is_late else delivery.late_at}
            if again(session, delivery, now, queues, delay=delay, **values):
                tell(session, Act.DELIVERY_RETRIED, delivery, now, outcome=audit.MINOR, reason=str(error))
                if is_late:
                    tell_late(session, delivery, now, delivery.created_at)
            return
        is_held = isinstance(error, _Held)
        state = DeliveryState.HELD if is_held else DeliveryState.FAILED
        if end(session, delivery, state=state, refusals=refusals, **values):
            act, outcome = (Act.DELIVERY_HELD, audit.MINOR) if is_held else (Act.DELIVERY_FAILED, audit.SERIOUS)
            tell(session, act, delivery, now, outcome=outcome, reason=str(error), status=status)
            follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)


def _asked_for(error: DeliveryError) -> timedelta:
    """What the peer asked us to wait (Retry-After), within reason."""
    after = error.after if isinstance(error, Unreachable) else None
    return min(after or timedelta(0), _LONGEST_ASKED)
