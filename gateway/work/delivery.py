"""The rows of deliveries: how one comes to be, whose turn it is, and how an attempt ends.

What goes to one peer for one study goes in its order: only the first that is open has an attempt in the engine, and its end
enqueues the next. Another study, and another peer, wait for nobody.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import changed, insert_once
from gateway.engine import DELIVER, PROVE, Queues, backoff, peer_lane, rank, ticket
from gateway.errors import ConfigError
from gateway.outputs.rejection import note_uid
from gateway.rows.tables import Delivery, DeliveryState, Job, JobState, OutputInstance

OPEN = (DeliveryState.QUEUED, DeliveryState.SENDING)
AT_MOST = 3
"""A peer may say no so often, or lose it, before a person has to look."""
UNPROVED = (Delivery.state == DeliveryState.SENT) & (Delivery.ticket != "")
"""What was sent to a peer that proves nothing has no ticket: nothing is looked for."""
CANCELLABLE = Delivery.state.in_((DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.FAILED)) | UNPROVED
_LOGGED = (Act.DELIVERY_FAILED, Act.DELIVERY_HELD, Act.DELIVERY_LATE)

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Pace:
    """How patient deliveries are."""

    retry: timedelta = timedelta(seconds=10)
    """After the first attempt that failed; it doubles with every further one."""
    retry_at_most: timedelta = timedelta(hours=1)
    late: timedelta = timedelta(hours=4)
    """Without success for so long, somebody is told; it is tried on."""
    report: timedelta = timedelta(hours=24)
    """A storage commitment that is not reported by then is asked for again."""

    def wait(self, attempts: int) -> timedelta:
        """It doubles up to the most, and is a little random: a peer that comes back does not get everything at once."""
        return backoff(attempts, first=self.retry, at_most=self.retry_at_most) * random.uniform(0.8, 1)  # noqa: S311


def make(session: Session, output: OutputInstance, peer: str, now: datetime, *, job: Job, queues: Queues) -> None:
    """A delivery of `output` to `peer`, once; it goes after those of its study that are on their way to that peer."""
    uid, study = output.sop_instance_uid, output.study_instance_uid
    waits = _waits(session, peer, study)
    values = {"job": job.id, "study_instance_uid": study, "created_at": now, "due_at": now, "ticket": "" if waits else "0"}
    if insert_once(session, Delivery, sop_instance_uid=uid, peer=peer, **values) and not waits:
        mine = select(Delivery).where(Delivery.sop_instance_uid == uid, Delivery.peer == peer)
        enqueue(session, session.scalars(mine).one(), queues)


def also(session: Session, job: Job, peers: Sequence[str], now: datetime, *, queues: Queues) -> None:
    """A job's results go to these peers too: those that are there now, the others when they are made. Who asks holds its row."""
    new = [peer for peer in dict.fromkeys(peers) if peer not in job.send_to]
    job.send_to = [*job.send_to, *new]
    for output in standing(session, job.id) if job.state == JobState.DONE else ():
        for peer in new:
            make(session, output, peer, now, job=job, queues=queues)


def standing(session: Session, job: int) -> list[OutputInstance]:
    """The results of a job that nobody has taken back, and whose files are here."""
    found = session.scalars(select(OutputInstance).where(OutputInstance.job == job).order_by(OutputInstance.created_at)).all()
    retracted = {one.retracts for one in found if one.retracts}
    return [one for one in found if not one.retracts and one.sop_instance_uid not in retracted and one.gone_at is None]


def replaced(session: Session, job: Job) -> list[OutputInstance]:
    """The results that peers have, or get, of the revision before; of one earlier still where that made none."""
    earlier, found = job.supersedes, list[OutputInstance]()
    goes_out = exists().where(
        Delivery.sop_instance_uid == OutputInstance.sop_instance_uid,
        or_(Delivery.state.not_in((DeliveryState.CANCELLED, DeliveryState.UNWANTED)), Delivery.sent_at.is_not(None)),
    )
    while earlier is not None and not found:
        mine = select(OutputInstance, goes_out).where(OutputInstance.job == earlier)
        made = session.execute(mine.order_by(OutputInstance.sop_instance_uid)).all()
        retracted = {one.retracts for one, _ in made}
        found = [one for one, goes in made if goes and not one.retracts and one.sop_instance_uid not in retracted]
        earlier = session.get_one(Job, earlier).supersedes
    return found


def made_by(session: Session, *, job: int | None = None, sop_instance_uid: str | None = None) -> list[OutputInstance]:
    """What a person named: one object of ours, or all results of a job, without the notes on them. Raises ConfigError."""
    ours = select(OutputInstance).order_by(OutputInstance.created_at, OutputInstance.sop_instance_uid)
    if sop_instance_uid is not None:
        found = session.scalars(ours.where(OutputInstance.sop_instance_uid == sop_instance_uid)).all()
    else:
        found = session.scalars(ours.where(OutputInstance.job == job, OutputInstance.retracts == "")).all()
    if not found:
        raise ConfigError(["expected the number of a job that has results, or the SOP Instance UID of a result of ours"])
    return list(found)


def made_here(session: Session, series: Collection[str]) -> set[str]:
    """Which of these series are results of ours."""
    query = select(OutputInstance.series_instance_uid).where(OutputInstance.series_instance_uid.in_(series))
    return set(session.scalars(query.distinct()))


def anew(session: Session, delivery: Delivery, now: datetime, queues: Queues) -> None:
    """Queued as if never sent, but for its attempts and what the peer may have; after those of its study on their way."""
    waits = _waits(session, delivery.peer, delivery.study_instance_uid)
    delivery.state, delivery.due_at, delivery.ticket = DeliveryState.QUEUED, now, "" if waits else ticket(delivery.attempts, now)
    delivery.refusals, delivery.looks, delivery.reason = 0, 0, ""
    delivery.transaction_uid, delivery.asked_at, delivery.proved_at, delivery.proof = "", None, None, ""
    if not waits:
        enqueue(session, delivery, queues)


def enqueue(session: Session, delivery: Delivery, queues: Queues, delay: timedelta = timedelta(0)) -> None:
    """An attempt under the row's ticket."""
    job = session.get_one(Job, delivery.job)
    queues.enqueue(
        session, DELIVER, str(delivery.id), attempt=delivery.ticket, lane=peer_lane(delivery.peer), delay=delay,
        rank=rank(job.priority, delivery.created_at),
    )  # fmt: skip


def enqueue_proof(session: Session, delivery: Delivery, queues: Queues, delay: timedelta) -> None:
    """A look for a proof under the row's ticket."""
    lane = peer_lane(delivery.peer)
    queues.enqueue(session, PROVE, str(delivery.id), attempt=delivery.ticket, lane=lane, delay=delay)


def end(session: Session, delivery: Delivery, **values: object) -> bool:
    """Compare-and-swap: only who still holds the row as it was read may write how the attempt ended."""
    read = {"state": delivery.state, "attempts": delivery.attempts, "looks": delivery.looks}
    mine = update(Delivery).filter_by(id=delivery.id, **read)
    return changed(session, mine.values(**values).execution_options(synchronize_session=False))


def again(session: Session, delivery: Delivery, now: datetime, queues: Queues, *, delay: timedelta, **values: object) -> bool:
    """Queued again, delayed, unless somebody else ended it; it stays in front of what comes after it in its study."""
    attempt = ticket(delivery.attempts, now)
    mine = end(session, delivery, state=DeliveryState.QUEUED, due_at=now + delay, ticket=attempt, **values)
    if mine:
        delivery.ticket = attempt
        enqueue(session, delivery, queues, delay)
    return mine


def cancel(session: Session, delivery: Delivery, now: datetime, *, actor: str, why: str = "") -> str | None:
    """A person gives it up; who asks holds its row, and lets what waited behind it have its turn (follow).

    Returns what else is to be said of it; None where it is being sent or has come to its end, and stays as it is.
    """
    is_unproved = delivery.state == DeliveryState.SENT and delivery.ticket != ""
    if not is_unproved and delivery.state not in (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.FAILED):
        return None
    fate = ": it was sent, it is not proved, and nobody looks for it any more" if is_unproved else ""
    delivery.state, delivery.reason = DeliveryState.CANCELLED, f"cancelled by {actor}{f': {why}' if why else ''}{fate}"
    detail: dict[str, Any] = {"reason": why} if why else {}
    tell(session, Act.DELIVERY_CANCELLED, delivery, now, actor=actor, **detail)
    return fate


def drop(session: Session, delivery: Delivery, now: datetime, *, queues: Queues) -> bool:
    """Whether a note has taken its result back: then it has ended, for after its note it would be shown again."""
    if session.get(OutputInstance, note_uid(delivery.sop_instance_uid)) is None:
        return False
    if end(session, delivery, state=DeliveryState.CANCELLED, reason="retracted"):
        tell(session, Act.DELIVERY_CANCELLED, delivery, now, reason="retracted")
        follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)
    return True


def leave_out(session: Session, delivery: Delivery, why: str, now: datetime, *, queues: Queues) -> None:
    """Its peer is not sent such objects: it has ended, before an attempt, until a person sends it again."""
    if end(session, delivery, state=DeliveryState.UNWANTED, reason=why):
        tell(session, Act.DELIVERY_UNWANTED, delivery, now, reason=why)
        follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)


def follow(session: Session, peer: str, study_instance_uid: str, now: datetime, *, queues: Queues) -> None:
    """What waited for one that is not open any more has its turn."""
    waiting = session.scalars(_open(peer, study_instance_uid).order_by(Delivery.id).limit(1)).first()
    if waiting is not None and waiting.ticket == "":
        waiting.ticket, waiting.due_at = ticket(waiting.attempts, now), now
        enqueue(session, waiting, queues)


def tell(
    session: Session, act: Act, delivery: Delivery, now: datetime, *, outcome: int = 0, actor: str = "gateway", **detail: Any
) -> None:
    """The audit event of a delivery; what a person should know stands in the log too."""
    if act in _LOGGED:
        log = _logger.error if outcome == audit.SERIOUS else _logger.warning
        log(
            str(act),
            delivery=delivery.id,
            peer=delivery.peer,
            **{key: value for key, value in detail.items() if value is not None},
        )
    output = session.get_one(OutputInstance, delivery.sop_instance_uid)
    audit.record(
        session, act, at=now, actor=actor, outcome=outcome, study=output.study_instance_uid, series=output.series_instance_uid,
        instance=output.sop_instance_uid, job=delivery.job, peer=delivery.peer, **detail,
    )  # fmt: skip


def tell_late(session: Session, delivery: Delivery, now: datetime, since: datetime, **detail: Any) -> None:
    hours = round((now - since).total_seconds() / 3600, 1)
    tell(session, Act.DELIVERY_LATE, delivery, now, outcome=audit.MINOR, hours=hours, **detail)


def _waits(session: Session, peer: str, study_instance_uid: str) -> bool:
    """Whether one goes first: it is held, so that it ends, and lets the next have its turn, after this transaction.

    One is enough, for whichever ends looks for all that wait; a derived series has hundreds.
    """
    return session.scalars(_open(peer, study_instance_uid).limit(1).with_for_update()).first() is not None


def _open(peer: str, study_instance_uid: str) -> Any:
    return select(Delivery).where(
        Delivery.peer == peer, Delivery.study_instance_uid == study_instance_uid, Delivery.state.in_(OPEN)
    )
