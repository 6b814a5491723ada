"""Resend: an object of ours goes out again, the same bytes under the same UID, because a person says so."""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing.audit import Act
from gateway.db import Database, lock
from gateway.engine import Queues
from gateway.errors import ConfigError
from gateway.outputs.kinds import unwanted
from gateway.outputs.rejection import note_uid
from gateway.peers import Peer
from gateway.rows.tables import Delivery, DeliveryState, Job, OutputInstance
from gateway.work import delivery as rows

_GOING = (*rows.OPEN, DeliveryState.HELD)


def resend(
    db: Database,
    queues: Queues,
    *,
    job: int | None = None,
    sop_instance_uid: str | None = None,
    to: str | None = None,
    peers: Mapping[str, Peer],
    actor: str,
    now: datetime,
) -> list[str]:
    """To the peer `to`, which may be one that never had it, else to all that it went to; a sentence for each delivery.

    Raises ConfigError, and then nothing is sent: its file is gone, it was taken back, it went nowhere, or `to` is no peer.
    """
    if to is not None and to not in peers:
        raise ConfigError([f"expected a peer of the configuration, one of: {', '.join(peers)}"])
    with db.begin() as session:
        chosen = rows.made_by(session, job=job, sop_instance_uid=sop_instance_uid)
        outputs = [lock(session, OutputInstance, one.sop_instance_uid) for one in chosen]  # against retention
        _check(session, outputs)
        said = [text for one in outputs for text in _send(session, one, to, peers, actor, now, queues)]
        if not said:
            raise ConfigError(["it went to no peer yet: name one (--to)"])
    return said


def _check(session: Session, outputs: Collection[OutputInstance]) -> None:
    problems = []
    for output in outputs:
        uid = output.sop_instance_uid
        if output.gone_at is not None:
            problems.append(f"{uid}: retention took its file")
        elif session.get(OutputInstance, note_uid(uid)) is not None:
            problems.append(f"{uid}: it was retracted")
    if problems:
        raise ConfigError(problems)


def _send(
    session: Session, output: OutputInstance, to: str | None, peers: Mapping[str, Peer], actor: str, now: datetime, queues: Queues
) -> list[str]:
    mine = select(Delivery.id).where(Delivery.sop_instance_uid == output.sop_instance_uid).order_by(Delivery.id)
    if to is not None:
        mine = mine.where(Delivery.peer == to)
    known = session.scalars(mine).all()
    if to is not None and not known:
        if why := unwanted(peers[to], output.sop_class_uid):
            return [f"{output.sop_instance_uid} does not go to {to}: {why}"]
        rows.make(session, output, to, now, job=session.get_one(Job, output.job), queues=queues)
        known = session.scalars(mine).all()
        rows.tell(session, Act.DELIVERY_RETRIED, session.get_one(Delivery, known[0]), now, actor=actor, before="")
        return [f"delivery {known[0]} to {to} is queued"]
    held = [lock(session, Delivery, key) for key in known]
    return [_again(session, one, unwanted(peers.get(one.peer), output.sop_class_uid), actor, now, queues) for one in held]


def _again(session: Session, delivery: Delivery, why_not: str, actor: str, now: datetime, queues: Queues) -> str:
    """What was proved stays so where its peer is not sent such objects any more."""
    before = delivery.state
    if before in _GOING or why_not:
        return f"delivery {delivery.id} to {delivery.peer} is {before}: left as it is{f': {why_not}' if why_not else ''}"
    rows.anew(session, delivery, now, queues)
    rows.tell(session, Act.DELIVERY_RETRIED, delivery, now, actor=actor, before=before)
    return f"delivery {delivery.id} to {delivery.peer} is queued again"
