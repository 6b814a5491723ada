"""Retire: a peer is gone for good, and everything that waits for it is given up at once, with a reason."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gateway.db import Database, lock
from gateway.engine import Queues
from gateway.errors import ConfigError
from gateway.rows.tables import Delivery, DeliveryState
from gateway.work import delivery as rows

_TOGETHER = 100


def waiting(db: Database, peer: str) -> int:
    """How many deliveries would be given up."""
    return len(_waiting(db, peer))


def retire_peer(db: Database, queues: Queues, peer: str, *, reason: str, count: int, actor: str, now: datetime) -> list[str]:
    """Everything that has not come to its end there, or failed; `peer` need not be configured any more.

    `count` is what the person was told. Raises ConfigError where it is not so many, where nothing waits, or without a reason.
    """
    keys, reason = _waiting(db, peer), reason.strip()
    if not reason:
        raise ConfigError(["expected a reason"])
    if not keys:
        raise ConfigError([f"peer {peer}: no delivery waits for it"])
    if len(keys) != count:
        raise ConfigError([f"peer {peer}: {len(keys)} deliveries would be given up, not {count}: look again, and say how many"])
    done = 0
    for end in range(len(keys), 0, -_TOGETHER):  # the last first, or what waits behind the first would have its turn
        with db.begin() as session:
            done += _give_up(session, keys[max(0, end - _TOGETHER) : end], queues, reason, actor, now)
    with db() as session:
        sending = select(func.count()).where(Delivery.peer == peer, Delivery.state == DeliveryState.SENDING)
        busy = session.scalar(sending) or 0
    said = [f"{done} deliveries to {peer} are cancelled: {reason}"]
    return said + [f"{busy} more are being sent: where that fails, they wait again, and can be given up then"] * bool(busy)


def _waiting(db: Database, peer: str) -> list[int]:
    with db() as session:
        mine = select(Delivery.id).where(Delivery.peer == peer, rows.CANCELLABLE)
        return list(session.scalars(mine.order_by(Delivery.id)))


def _give_up(session: Session, keys: list[int], queues: Queues, reason: str, actor: str, now: datetime) -> int:
    held = [lock(session, Delivery, key) for key in keys]
    going = [one for one in held if rows.cancel(session, one, now, actor=actor, why=reason) is not None]
    session.flush()
    for peer, study in sorted({(one.peer, one.study_instance_uid) for one in going}):
        rows.follow(session, peer, study, now, queues=queues)
    return len(going)
