"""Prove: is what a peer took really there? A C-STORE status says that it was taken, not that it was kept.

By the peer's `proof`: a query (C-FIND, QIDO-RS) or a read-back finds it; or the peer commits to keep it (PS3.4 J.3), which it
may report in seconds, over another association, or days later. What is not found, or said to be missing, is sent again, the
same bytes; three times, then it fails and a person sees it. Until there is a proof the delivery is sent, and called no more
than that.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import accumulate

import structlog
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.dicom.commitment import NO_SUCH_INSTANCE, Outcome
from gateway.dicom.uids import derived_uid, secret_uid
from gateway.engine import Queues, backoff, ticket
from gateway.errors import DeliveryError, Unreachable
from gateway.peers import Peer, Proof, Sought
from gateway.rows.tables import Delivery, DeliveryState, OutputInstance
from gateway.store import Store
from gateway.work.delivery import AT_MOST, OPEN, UNPROVED, Pace, again, drop, end, enqueue_proof, tell, tell_late

_LOOK, _LOOK_AT_MOST = timedelta(seconds=0.5), timedelta(seconds=10)
_INDEXED = timedelta(seconds=30)
"""An archive may answer 0x0000 before its index knows the instance: not found for so long, it counts as lost."""
_YET = "not proved yet: "
_AT_ONCE, _ASKED_AT_MOST = 1000, 100

_logger = structlog.get_logger()


def prove(
    delivery_id: int,
    *,
    clock: Callable[[], datetime],
    peers: Mapping[str, Peer],
    store: Store,
    db: Database,
    queues: Queues,
    pace: Pace,
) -> None:
    """Make one look for a proof, or ask for commitment; write down what came of it."""
    with db() as session:
        delivery = session.get_one(Delivery, delivery_id)
        output = session.get_one(OutputInstance, delivery.sop_instance_uid)
    peer = peers.get(delivery.peer)
    if delivery.state != DeliveryState.SENT:
        return
    if peer is not None and peer.proof is Proof.NONE:
        with db.begin() as session:
            end(session, delivery, ticket="", reason="")
        return
    try:
        if peer is None:
            raise Unreachable("expected a peer of this name in the configuration")
        if peer.proof is Proof.COMMITMENT:
            _ask(delivery, output, peer, clock(), db, queues, pace)
            return
        sought = Sought(
            output.study_instance_uid, output.series_instance_uid, output.sop_instance_uid, output.sop_class_uid,
            store.path(output.sha256),
        )  # fmt: skip
        is_there = peer.holds(sought)
    except DeliveryError as error:
        _look_again(delivery, clock(), db, queues, pace.wait(delivery.looks + 1), reason=f"{_YET}{error}", asked_at=None)
        return
    crash_point("prove.looked")
    if is_there:
        with db.begin() as session:
            _proved(session, delivery, clock(), peer.proof)
    elif clock() - (delivery.asked_at or clock()) < _INDEXED:
        delay, since = backoff(delivery.looks + 1, first=_LOOK, at_most=_LOOK_AT_MOST), delivery.asked_at or clock()
        _look_again(delivery, clock(), db, queues, delay, reason=f"{_YET}the peer does not find it", asked_at=since)
    else:
        with db.begin() as session:
            _lost(session, delivery, clock(), queues, pace, why="the peer said that it took it, and does not find it")
    crash_point("prove.committed")


def prove_failed(delivery_id: int, error: Exception, now: datetime, *, db: Database, queues: Queues, retry: timedelta) -> None:
    """What nobody expected: looked for again, and the row says why."""
    with db() as session:
        delivery = session.get_one(Delivery, delivery_id)
    reason = f"{_YET}unexpected {type(error).__name__}; the log has where it was raised"
    _look_again(delivery, now, db, queues, retry, reason=reason)


def tell_late_ones(now: datetime, *, late: timedelta, db: Database, obstacle: Callable[[str], str] = lambda _peer: "") -> None:
    """Those that were sent so long ago and are not proved, each once: also where nobody may look, or a report is waited for.

    And those that tell nobody themselves: whose attempt has begun so long ago and does not end, as at a folder of a server that
    hangs; and who was due so long ago and has had none, for which `obstacle` may say what is against the peer (roster.py).
    """
    is_new = or_(Delivery.late_at.is_(None), Delivery.late_at < Delivery.sent_at)
    is_unproved = UNPROVED & (Delivery.sent_at <= now - late) & is_new
    is_due = Delivery.state.in_(OPEN) & (Delivery.ticket != "") & (Delivery.due_at <= now - late) & Delivery.late_at.is_(None)
    with db.begin() as session:
        mine = select(Delivery.id).where(is_unproved | is_due).order_by(Delivery.id).limit(_AT_ONCE)
        for key in session.scalars(mine).all():
            delivery = lock(session, Delivery, key)
            since = delivery.sent_at if delivery.state == DeliveryState.SENT else delivery.due_at
            if delivery.state in (DeliveryState.SENT, *OPEN) and since is not None and since <= now - late:
                delivery.late_at = now
                tell_late(session, delivery, now, since, reason=_why_late(delivery, obstacle), state=str(delivery.state))


def _why_late(delivery: Delivery, obstacle: Callable[[str], str]) -> str:
    if delivery.state == DeliveryState.QUEUED:
        return f"peer {delivery.peer} {obstacle(delivery.peer) or 'has had no turn for it'}"
    return delivery.reason.removeprefix(_YET) or "the attempt that is under way does not end"


def told(session: Session, outcome: Outcome, ae_title: str, now: datetime, *, queues: Queues, pace: Pace) -> None:
    """A peer reports on a storage commitment (N-EVENT-REPORT); one that nobody waits for is written down and changes nothing."""
    asked = select(Delivery.id).where(Delivery.transaction_uid.in_(_follow_up(outcome.transaction_uid)))
    failed = {uid: reason for _, uid, reason in outcome.failed}
    committed = {uid for _, uid in outcome.committed}
    known = [lock(session, Delivery, key) for key in session.scalars(asked).all()]
    for delivery in (one for one in known if one.state == DeliveryState.SENT):
        uid = delivery.sop_instance_uid
        if uid in failed:
            _not_committed(session, delivery, failed[uid], now, queues, pace)
        elif uid in committed:
            _proved(session, delivery, now, Proof.COMMITMENT)
    if not {delivery.sop_instance_uid for delivery in known} & (failed.keys() | committed):
        audit.record(
            session, Act.PROOF_UNKNOWN, at=now, actor=ae_title, outcome=audit.MINOR, transaction=outcome.transaction_uid,
            committed=len(committed), failed=len(failed),
        )  # fmt: skip


def _ask(delivery: Delivery, output: OutputInstance, peer: Peer, now: datetime, db: Database, queues: Queues, pace: Pace) -> None:
    """The row first, then the N-ACTION: a report that comes at once finds it. Raises DeliveryError.

    A new Transaction UID every time, as the standard wants it. Since it was sent each follows from the one before, so that a
    report that comes after the next request counts: a slow archive would never prove anything.
    """
    before = delivery.transaction_uid
    transaction = derived_uid(before) if before else secret_uid()  # who reports proves by it that he was asked
    reason = f"{_YET}the peer was asked to commit, and has not reported"
    with db.begin() as session:
        attempt = ticket(delivery.looks + 1, now)
        values = {"transaction_uid": transaction, "asked_at": now, "due_at": now + pace.report, "ticket": attempt}
        if not end(session, delivery, reason=reason, looks=delivery.looks + 1, **values):
            return
        delivery.ticket, delivery.looks = attempt, delivery.looks + 1
        enqueue_proof(session, delivery, queues, pace.report)
    crash_point("prove.recorded")
    peer.request_commitment(transaction, [(output.sop_class_uid, output.sop_instance_uid)])
    crash_point("prove.asked")


def _follow_up(transaction_uid: str) -> list[str]:
    """Those under which it may have been asked for since."""
    return list(accumulate(range(_ASKED_AT_MOST), lambda before, _: derived_uid(before), initial=transaction_uid))


def _not_committed(session: Session, delivery: Delivery, why: int, now: datetime, queues: Queues, pace: Pace) -> None:
    if why == NO_SUCH_INSTANCE:
        _lost(session, delivery, now, queues, pace, why="the peer took it, and says that it does not have it (0x0112)")
        return
    attempt, delay = ticket(delivery.looks + 1, now), pace.wait(delivery.looks)
    reason = f"{_YET}the peer does not commit to keep it (0x{why:04X})"
    if end(session, delivery, ticket=attempt, due_at=now + delay, transaction_uid="", reason=reason):
        delivery.ticket = attempt
        enqueue_proof(session, delivery, queues, delay)


def _proved(session: Session, delivery: Delivery, now: datetime, proof: Proof) -> None:
    warned = delivery.status is not None and delivery.status >> 12 == 0xB
    reason = f"taken with a warning (0x{delivery.status:04X})" if warned else ""
    if end(session, delivery, state=DeliveryState.PROVED, proved_at=now, proof=proof, reason=reason):
        tell(session, Act.DELIVERY_PROVED, delivery, now, proof=proof)


def _lost(session: Session, delivery: Delivery, now: datetime, queues: Queues, pace: Pace, *, why: str) -> None:
    """Sent again, the same bytes; given up where the peer has lost it too often. Retracted, it is hidden and not lost."""
    if drop(session, delivery, now, queues=queues):
        return
    refusals = delivery.refusals + 1
    if refusals >= AT_MOST:
        if end(session, delivery, state=DeliveryState.FAILED, refusals=refusals, reason=f"{why}, {refusals} times"):
            tell(session, Act.DELIVERY_FAILED, delivery, now, outcome=audit.SERIOUS, reason=why)
        return
    if again(session, delivery, now, queues, delay=pace.wait(refusals), refusals=refusals, looks=0, reason=why):
        _logger.error("delivery.lost", delivery=delivery.id, peer=delivery.peer, reason=why)
        tell(session, Act.DELIVERY_LOST, delivery, now, outcome=audit.SERIOUS, reason=why)


def _look_again(
    delivery: Delivery, now: datetime, db: Database, queues: Queues, delay: timedelta, *, reason: str, **values: object
) -> None:
    """`asked_at` is since when the peer, asked, has not found it."""
    with db.begin() as session:
        attempt = ticket(delivery.looks + 1, now)
        if end(session, delivery, looks=delivery.looks + 1, due_at=now + delay, ticket=attempt, reason=reason, **values):
            delivery.ticket = attempt
            enqueue_proof(session, delivery, queues, delay)
