"""Commit: one transaction of storage commitment (PS3.4 J.3): read the instances again, then tell who asked.

Every instance is hashed on the disk before it is called committed. The check is made once and written down, and once more where
there was no peer to tell. The report is an N-EVENT-REPORT over a new association to the peer that has the AE title of who asked,
on that peer's lane, and is tried again for as long as the peer does not take it; what retention took by then is not committed.
An answer that never came is unknown: the report is sent again.

A Transaction UID that the same AE title has used for other instances before fails as a whole (0131). An instance of which
another version is kept apart fails with 0110: its UID stands for two objects, and nobody here knows which of them the peer would
delete; 0112 would only make it send the same again, and 0119 is said of SOP classes.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, changed, lock
from gateway.dicom.commitment import CONFLICT, DUPLICATE_TRANSACTION, NO_SUCH_INSTANCE, PROCESSING_FAILURE, Outcome
from gateway.engine import COMMIT, Queues, backoff, peer_lane, ticket
from gateway.errors import Damaged, DeliveryError, Rejected, Unreachable
from gateway.peers import Peer
from gateway.peers.dimse import Dimse
from gateway.rows.tables import Commitment, CommitmentState, Instance, Version
from gateway.store import Store

_LOOK, _LOOK_AT_MOST = timedelta(seconds=1), timedelta(seconds=10)
_CHUNK = 1000

_logger = structlog.get_logger()


def commit(
    commitment_id: int,
    *,
    clock: Callable[[], datetime],
    filed: Callable[[], datetime],
    peers: Mapping[str, Peer],
    store: Store,
    db: Database,
    queues: Queues,
    retry: timedelta,
    retry_at_most: timedelta,
) -> None:
    """Check, or report what was checked before. `filed()` is when everything had been indexed that was promised by then."""
    with db.begin() as session:
        commitment = lock(session, Commitment, commitment_id)
        if commitment.state not in (CommitmentState.ASKED, CommitmentState.CHECKED):
            return
        commitment.attempts += 1
        commitment.instances, commitment.failures  # noqa: B018 - loads them
    if commitment.state == CommitmentState.ASKED:
        _check(commitment, clock, filed(), peers, store, db, queues)
        return
    try:
        _report(commitment, clock, peers, db)
    except DeliveryError as error:
        delay = backoff(commitment.attempts, first=retry, at_most=retry_at_most)
        _not_reported(commitment, error, clock(), db, queues, delay)


def commit_failed(commitment_id: int, error: Exception, now: datetime, *, db: Database, queues: Queues, retry: timedelta) -> None:
    """What nobody expected: it is tried again, and says why it has not ended."""
    with db.begin() as session:
        commitment = lock(session, Commitment, commitment_id)
        if commitment.state in (CommitmentState.ASKED, CommitmentState.CHECKED):
            lane = COMMIT if commitment.state == CommitmentState.ASKED else peer_lane(commitment.peer)
            reason = f"unexpected {type(error).__name__}; the log has where it was raised"
            _again(session, commitment, now, retry, queues, lane=lane, reason=reason)


def resume(now: datetime, *, peers: Mapping[str, Peer], db: Database, queues: Queues) -> None:
    """After a start: reports go to the peers that the configuration has now; those that waited for one are checked again."""
    open_ones = select(Commitment).where(Commitment.state.in_((CommitmentState.CHECKED, CommitmentState.WAITING)))
    with db.begin() as session:
        for commitment in session.scalars(open_ones):
            name = _peer(peers, commitment.ae_title)
            if name == commitment.peer:
                continue
            if commitment.state == CommitmentState.WAITING:
                commitment.state, commitment.attempts, commitment.reason = CommitmentState.ASKED, 0, ""
                commitment.due_at, commitment.ticket = now, ticket(0, now)
                queues.enqueue(session, COMMIT, str(commitment.id), attempt=commitment.ticket, lane=COMMIT)
            else:
                _assign(session, commitment, name, now, queues)


def _check(
    commitment: Commitment,
    clock: Callable[[], datetime],
    filed_at: datetime,
    peers: Mapping[str, Peer],
    store: Store,
    db: Database,
    queues: Queues,
) -> None:
    """Not before everything is indexed that may have been promised before: after a wrong 0112 a peer sends it all again."""
    with db() as session:
        is_duplicate, held = _is_duplicate(session, commitment), _held(session, commitment)
    if filed_at <= commitment.asked_at:
        with db.begin() as session:
            delay = backoff(commitment.attempts, first=_LOOK, at_most=_LOOK_AT_MOST)
            reason = "instances that were promised before may not be indexed yet"
            _again(session, commitment, clock(), delay, queues, lane=COMMIT, reason=reason)
        return
    reasons = [
        (sop_class, uid, DUPLICATE_TRANSACTION if is_duplicate else _failure(sop_class, uid, held, store))
        for sop_class, uid in commitment.instances
    ]
    now, failures = clock(), [list(found) for found in reasons if found[2]]
    with db.begin() as session:
        checked = {"state": CommitmentState.CHECKED, "failures": failures, "checked_at": now, "attempts": 0}
        if _end(session, commitment, **checked):
            fresh = lock(session, Commitment, commitment.id)
            _assign(session, fresh, _peer(peers, fresh.ae_title), now, queues)


def _held(session: Session, commitment: Commitment) -> dict[str, tuple[str, str]]:
    """SOP class and SHA-256 of the instances that are there; no SHA-256 where another version is kept apart."""
    held: dict[str, tuple[str, str]] = {}
    asked = [uid for _, uid in commitment.instances]
    for start in range(0, len(asked), _CHUNK):
        uids = asked[start : start + _CHUNK]
        found = select(Instance.sop_instance_uid, Instance.sop_class_uid, Instance.sha256)
        here = Instance.sop_instance_uid.in_(uids) & Instance.gone_at.is_(None)
        for uid, sop_class, sha256 in session.execute(found.where(here)):
            held[uid] = (sop_class, sha256)
        apart = select(Version.sop_instance_uid).where(Version.sop_instance_uid.in_(uids))
        held |= dict.fromkeys(session.scalars(apart), ("", ""))
    return held


def _is_duplicate(session: Session, commitment: Commitment) -> bool:
    same = (Commitment.transaction_uid == commitment.transaction_uid) & (Commitment.ae_title == commitment.ae_title)
    return session.scalars(select(Commitment.id).where(same, Commitment.id < commitment.id).limit(1)).first() is not None


def _in_rows(sop_class: str, uid: str, held: Mapping[str, tuple[str, str]]) -> int:
    """The failure reason (PS3.3 C.14.1.1) that rows tell; 0 where they tell none."""
    if uid not in held:
        return NO_SUCH_INSTANCE
    known_class, sha256 = held[uid]
    if not sha256:
        return PROCESSING_FAILURE
    return 0 if sop_class == known_class else CONFLICT


def _failure(sop_class: str, uid: str, held: Mapping[str, tuple[str, str]], store: Store) -> int:
    """The failure reason; 0 where the instance is committed."""
    if reason := _in_rows(sop_class, uid, held):
        return reason
    try:
        store.check(held[uid][1])
    except Damaged as error:
        _logger.error("instance.damaged", sop_instance_uid=uid, reason=str(error))
        return PROCESSING_FAILURE
    return 0


def _report(commitment: Commitment, clock: Callable[[], datetime], peers: Mapping[str, Peer], db: Database) -> None:
    """Raises DeliveryError. The check may be weeks old: who is told "committed" deletes its own."""
    peer = peers.get(commitment.peer)
    if not isinstance(peer, Dimse):
        raise Unreachable("expected a peer of this name in the configuration")
    found = {uid: reason for _, uid, reason in commitment.failures}
    with db() as session:
        held = _held(session, commitment)
    reasons = [(one, uid, found.get(uid) or _in_rows(one, uid, held)) for one, uid in commitment.instances]
    committed, failures = [(one, uid) for one, uid, why in reasons if not why], [list(one) for one in reasons if one[2]]
    outcome = Outcome(commitment.transaction_uid, committed, [(one, uid, why) for one, uid, why in failures])
    status = peer.report_commitment(outcome)
    crash_point("commit.reported")
    now = clock()
    with db.begin() as session:
        told = {"status": status, "reason": "", "failures": failures, "reported_at": now}
        if _end(session, commitment, state=CommitmentState.REPORTED, **told):
            counts = {"committed": len(committed), "failed": len(failures)}
            _audit(session, Act.COMMITMENT_REPORTED, commitment, now, outcome=_gravity(failures), **counts)


def _not_reported(
    commitment: Commitment, error: DeliveryError, now: datetime, db: Database, queues: Queues, delay: timedelta
) -> None:
    status = error.status if isinstance(error, Rejected) else None
    with db.begin() as session:
        if error.retryable:
            lane = peer_lane(commitment.peer)
            if _again(session, commitment, now, delay, queues, lane=lane, reason=str(error), status=status):
                _audit(session, Act.COMMITMENT_RETRIED, commitment, now, outcome=audit.MINOR, reason=str(error))
        elif _end(session, commitment, state=CommitmentState.FAILED, status=status, reason=str(error)):
            _audit(session, Act.COMMITMENT_FAILED, commitment, now, outcome=audit.SERIOUS, reason=str(error), status=status)


def _assign(session: Session, commitment: Commitment, name: str, now: datetime, queues: Queues) -> None:
    """Whom it is reported to, on whose lane; without such a peer it waits for a configuration that has one."""
    commitment.peer, commitment.due_at, commitment.ticket, commitment.reason = name, now, ticket(0, now), ""
    if name:
        commitment.state = CommitmentState.CHECKED
        queues.enqueue(session, COMMIT, str(commitment.id), attempt=commitment.ticket, lane=peer_lane(name))
        return
    commitment.state = CommitmentState.WAITING
    commitment.reason = f'expected a [[peers]] table with protocol = "dimse" and ae_title = "{commitment.ae_title}"'
    _logger.warning("commitment.waiting", reason=commitment.reason)
    _audit(session, Act.COMMITMENT_RETRIED, commitment, now, outcome=audit.SERIOUS, reason=commitment.reason)


def _again(
    session: Session, commitment: Commitment, now: datetime, delay: timedelta, queues: Queues, *, lane: str, **values: object
) -> bool:
    attempt = ticket(commitment.attempts, now)
    again = _end(session, commitment, due_at=now + delay, ticket=attempt, **values)
    if again:
        queues.enqueue(session, COMMIT, str(commitment.id), attempt=attempt, lane=lane, delay=delay)
    return again


def _end(session: Session, commitment: Commitment, **values: object) -> bool:
    """Compare-and-swap: only the attempt that still holds the row may end it."""
    mine = (
        (Commitment.id == commitment.id) & (Commitment.state == commitment.state) & (Commitment.attempts == commitment.attempts)
    )
    return changed(session, update(Commitment).where(mine).values(**values).execution_options(synchronize_session=False))


def _peer(peers: Mapping[str, Peer], ae_title: str) -> str:
    """The name of the first peer with this AE title that can be told; empty where there is none."""
    return next((name for name, peer in peers.items() if isinstance(peer, Dimse) and peer.ae_title.strip() == ae_title), "")


def _gravity(failures: Sequence[Sequence[object]]) -> int:
    if any(reason == PROCESSING_FAILURE for _, _, reason in failures):
        return audit.SERIOUS
    return audit.MINOR if failures else 0


def _audit(session: Session, act: Act, commitment: Commitment, now: datetime, *, outcome: int = 0, **detail: Any) -> None:
    audit.record(
        session, act, at=now, outcome=outcome, transaction=commitment.transaction_uid, ae_title=commitment.ae_title,
        peer=commitment.peer, **detail,
    )  # fmt: skip
