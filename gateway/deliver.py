"""Deliver: one object to one peer. The stored bytes, for ever the same; an attempt that fails enqueues the next one, delayed.

Nothing waits in a thread, so a dead peer costs nothing and delays nobody: every peer has a lane of its own. An answer that
never came is not a failure but unknown: the same bytes are sent again, under the same UID, and a peer that holds them says so.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from gateway import audit
from gateway.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.engine import DELIVER, Queues, backoff, peer_lane
from gateway.errors import Damaged, DeliveryError, Rejected
from gateway.peers import Peer, Sent
from gateway.store import Store
from gateway.tables import Delivery, DeliveryState, Job, OutputInstance


def deliver(
    delivery_id: int,
    *,
    clock: Callable[[], datetime],
    peers: Mapping[str, Peer],
    store: Store,
    db: Database,
    queues: Queues,
    retry: timedelta,
    retry_at_most: timedelta,
) -> None:
    """Make one attempt and write down how it ended: sent, to be tried again, or failed with the peer's status."""
    with db.begin() as session:
        delivery = lock(session, Delivery, delivery_id)
        if delivery.state not in (DeliveryState.QUEUED, DeliveryState.SENDING):
            return
        output = session.get_one(OutputInstance, delivery.sop_instance_uid)
        delivery.attempts += delivery.state == DeliveryState.QUEUED
        delivery.state = DeliveryState.SENDING
        _audit(session, Act.DELIVERY_STARTED, delivery, output, clock(), attempt=delivery.attempts)
    crash_point("deliver.started")
    try:
        sent = _send(delivery, output, peers, store)
    except DeliveryError as error:
        delay = backoff(delivery.attempts, first=retry, at_most=retry_at_most)
        _ended_badly(delivery, output, error, clock(), db, queues, delay)
        return
    crash_point("deliver.sent")
    now = clock()
    with db.begin() as session:
        if _end(session, delivery, state=DeliveryState.SENT, status=sent.status, reason=sent.note, sent_at=now):
            _audit(session, Act.DELIVERY_SENT, delivery, output, now, status=f"0x{sent.status:04X}")
    crash_point("deliver.committed")


def deliver_failed(delivery_id: int, error: Exception, now: datetime, *, db: Database, queues: Queues) -> None:
    """What nobody expected: the delivery fails where a person sees it."""
    with db() as session:
        delivery = session.get_one(Delivery, delivery_id)
        output = session.get_one(OutputInstance, delivery.sop_instance_uid)
    failure = DeliveryError(f"unexpected {type(error).__name__}; the log has where it was raised")
    _ended_badly(delivery, output, failure, now, db, queues, timedelta(0))


def _send(delivery: Delivery, output: OutputInstance, peers: Mapping[str, Peer], store: Store) -> Sent:
    peer = peers.get(delivery.peer)
    if peer is None:
        raise DeliveryError("expected a peer of this name in the configuration")
    try:
        path = store.check(output.sha256)
    except Damaged as error:
        raise DeliveryError(str(error)) from error
    return peer.send(path)


def _ended_badly(
    delivery: Delivery,
    output: OutputInstance,
    error: DeliveryError,
    now: datetime,
    db: Database,
    queues: Queues,
    delay: timedelta,
) -> None:
    status = error.status if isinstance(error, Rejected) else None
    with db.begin() as session:
        if not error.retryable:
            if _end(session, delivery, state=DeliveryState.FAILED, status=status, reason=str(error)):
                detail = {"reason": str(error), "status": status}
                _audit(session, Act.DELIVERY_FAILED, delivery, output, now, outcome=audit.SERIOUS, **detail)
            return
        again = {"state": DeliveryState.QUEUED, "due_at": now + delay, "ticket": str(delivery.attempts)}
        if _end(session, delivery, status=status, reason=str(error), **again):
            priority = session.get_one(Job, delivery.job).priority
            queues.enqueue(
                session, DELIVER, str(delivery.id), attempt=str(delivery.attempts), lane=peer_lane(delivery.peer), delay=delay,
                priority=priority,
            )  # fmt: skip
            _audit(session, Act.DELIVERY_RETRIED, delivery, output, now, outcome=audit.MINOR, reason=str(error))


def _end(session: Session, delivery: Delivery, **values: object) -> bool:
    """Compare-and-swap: only the attempt that still holds the delivery may end it."""
    mine = (Delivery.id == delivery.id) & (Delivery.state == DeliveryState.SENDING) & (Delivery.attempts == delivery.attempts)
    ended = session.execute(update(Delivery).where(mine).values(**values))
    return bool(ended.rowcount)  # type: ignore[attr-defined]


def _audit(
    session: Session, act: Act, delivery: Delivery, output: OutputInstance, now: datetime, *, outcome: int = 0, **detail: Any
) -> None:
    audit.record(
        session, act, at=now, outcome=outcome, study=output.study_instance_uid, series=output.series_instance_uid,
        instance=output.sop_instance_uid, job=delivery.job, peer=delivery.peer, **detail,
    )  # fmt: skip
