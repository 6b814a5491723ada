"""The audit trail: append only, in the transaction of the act it tells of, free of patient data (PS3.15 A.5).

Every event carries the hash of the one before (chain.py), so that an edit, a deletion or a truncation is found.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import Table as Rows
from sqlalchemy import bindparam, event, insert, select, update
from sqlalchemy.orm import Session, SessionTransaction

from gateway.auditing.chain import Entry, Head, canonical, entry_hash
from gateway.rows.trail import AuditEvent, AuditHead

MINOR, SERIOUS = 4, 8
_BATCH = 2000


class Act(StrEnum):
    """What happened, as subject.verb; the comment is the DICOM event it becomes (PS3.15 A.5.3)."""

    GATEWAY_STARTED = "gateway.started"  # 110100 Application Activity, 110120
    GATEWAY_STOPPED = "gateway.stopped"  # 110100 Application Activity, 110121
    DOOR_CLOSED = "door.closed"  # 110113, outcome 8: disk or queue over its mark, instances are answered 0xA700
    DOOR_OPENED = "door.opened"  # 110113
    ASSOCIATION_REJECTED = "association.rejected"  # 110113 Security Alert, 110126
    INSTANCE_RECEIVED = "instance.received"  # 110104 Instances Transferred, C
    INSTANCE_REPEATED = "instance.repeated"  # 110104, R: the same bytes again
    INSTANCE_VERSION = "instance.version"  # 110113: other bytes under a known UID, kept apart
    INSTANCE_STRAY = "instance.stray"  # 110113: its series belongs to another study, kept apart
    INSTANCE_ALARMING = "instance.alarming"  # 110113: kept, but somebody should look at it
    INSTANCE_MISSING = "instance.missing"  # 110104, outcome 8: promised, and not to be indexed
    INSTANCE_REFUSED = "instance.refused"  # 110104, outcome 4
    RETRIEVAL_DONE = "retrieval.done"  # 110103 Instances Accessed, R: a series was taken from a peer; outcome 4: not all of it
    RETRIEVAL_FAILED = "retrieval.failed"  # 110103, R, outcome 4: it does not come, and is tried on
    SOURCE_AWAY = "source.away"  # 110113, outcome 8: a peer that series are taken from cannot be read for a while
    SOURCE_BACK = "source.back"  # 110113
    SERIES_COMPLETE = "series.complete"  # 110103 Instances Accessed, R
    SERIES_HELD = "series.held"  # 110103, outcome 4: something is missing, or a person said so; a person decides
    SERIES_FAILED = "series.failed"  # 110103, outcome 8: something is missing, and its deadline is over
    SERIES_FORCED = "series.forced"  # 110103, R: a person said that it is complete
    SERIES_TAKEN = "series.taken"  # 110103, R: of the series of its study a pipeline gets this one
    SERIES_PASSED = "series.passed"  # 110103, R: it gets another one
    SERIES_REOPENED = "series.reopened"  # 110104, U
    SERIES_RELEASED = "series.released"  # 110103, R: a person lets a series be looked at again
    PRIORS_SOUGHT = "priors.sought"  # 110103, R: sources were asked for earlier studies; outcome 4: not all answered
    PRIORS_DONE = "priors.done"  # 110103 Instances Accessed, R: those that came go into the job; outcome 4: none did
    JOB_CREATED = "job.created"
    JOB_ORDERED = "job.ordered"  # 110103 Instances Accessed, R: a person or a system asked for it
    JOB_STARTED = "job.started"  # 110103, R
    JOB_RETRIED = "job.retried"
    JOB_DONE = "job.done"  # 110103, C
    FINDING_STATED = "finding.stated"  # 110103, R: results that go out state that something is present
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_RELEASED = "job.released"  # 110103, R: what was kept in the shadow goes out
    DELIVERY_STARTED = "delivery.started"  # 110102 Begin Transferring
    DELIVERY_SENT = "delivery.sent"  # 110104, outcome 0
    DELIVERY_PROVED = "delivery.proved"  # 110104, outcome 0
    DELIVERY_LOST = "delivery.lost"  # 110113, outcome 8: the peer took it and does not have it; it is sent again
    DELIVERY_HELD = "delivery.held"  # 110113, outcome 4: whose it is has changed; a person decides
    DELIVERY_LATE = "delivery.late"  # 110113, outcome 4: tried, or looked for, for a long time without success, and on
    DELIVERY_RETRIED = "delivery.retried"  # 110104, outcome 4
    DELIVERY_FAILED = "delivery.failed"  # 110104, outcome 8
    DELIVERY_CANCELLED = "delivery.cancelled"
    DELIVERY_UNWANTED = "delivery.unwanted"  # 110103, R: its peer is not sent such objects
    PROOF_UNKNOWN = "proof.unknown"  # 110113, outcome 4: a storage commitment report that nobody here waits for
    OUTPUT_RETRACTED = "output.retracted"  # 110103, D
    FILE_REMOVED = "file.removed"  # 110105 Study Deleted: retention took it
    DATABASE_RESTORED = "database.restored"  # 110113, outcome 8: a person says that an older backup was brought back
    RULES_WRITTEN = "rules.written"  # 110113, 110131 Software Configuration: a version is kept
    RULES_APPROVED = "rules.approved"  # 110113, 110131
    RULES_ACTIVATED = "rules.activated"  # 110113, 110131: the version in force is another one
    CONFIG_READ = "config.read"  # 110113, 110131: gateway.toml was read again; it says what needs a start
    CONFIG_REFUSED = "config.refused"  # 110113, 110131, outcome 4: with what is wrong in it; what was read before stays
    PEER_ADDED = "peer.added"  # 110113 Security Alert, 110128 Network Configuration
    PEER_CHANGED = "peer.changed"  # 110113, 110128
    PEER_DISABLED = "peer.disabled"  # 110113, 110128
    PEER_ENABLED = "peer.enabled"  # 110113, 110128
    PEER_REMOVED = "peer.removed"  # 110113, 110128
    PEER_PROBED = "peer.probed"  # 110113, 110128: asked what it takes; outcome 4 where it did not answer
    AUDIT_SIGNED = "audit.signed"  # 110101 Audit Log Used
    AUDIT_EXPORTED = "audit.exported"  # 110101: who took how much of it out
    AUDIT_VERIFIED = "audit.verified"  # 110101; outcome 8 where the chain is broken
    COLLECTOR_DOWN = "collector.down"  # 110133 Audit Recording Stopped, outcome 8: of the collector; the trail itself goes on
    COLLECTOR_UP = "collector.up"  # 110134
    NOTICE_SENT = "notice.sent"  # 110103 Instances Accessed, R: people were told of events
    NOTICE_FAILED = "notice.failed"  # 110113, outcome 4: they cannot be told now; it is tried on
    ALARM_RAISED = "alarm.raised"  # 110113, outcome 4: something that should have happened has not
    ALARM_ENDED = "alarm.ended"  # 110113
    COMMITMENT_ASKED = "commitment.asked"  # 110103 Instances Accessed, R: the instances will be read again
    COMMITMENT_REPORTED = "commitment.reported"  # 110103, R: outcome 4 where one was not there, 8 where one is damaged
    COMMITMENT_RETRIED = "commitment.retried"  # 110103, outcome 4: the peer did not take the report yet; 8: there is none
    COMMITMENT_FAILED = "commitment.failed"  # 110103, outcome 8: it does not take it
    WORKITEM_CREATED = "workitem.created"  # 110103 Instances Accessed, C: UPS-RS, as the next ones
    WORKITEM_UPDATED = "workitem.updated"  # 110103, U
    WORKITEM_CLAIMED = "workitem.claimed"  # 110103, U: somebody, or this gateway, performs it
    WORKITEM_COMPLETED = "workitem.completed"  # 110103, U
    WORKITEM_CANCELED = "workitem.canceled"  # 110103, U, outcome 4
    WORKITEM_UNWANTED = "workitem.unwanted"  # 110103, R: who performs it is asked not to
    WORKITEM_FOLLOWED = "workitem.followed"  # 110103, R: an AE title subscribes, or does no more
    WORKITEM_REMOVED = "workitem.removed"  # 110103, D: its days were over
    STEP_PERFORMED = "step.performed"  # 110103, U: a modality told of a procedure step, and what it made
    PERSON_SIGNED_IN = "person.signed_in"  # 110114 User Authentication, 110122
    PERSON_NOT_SIGNED_IN = "person.not_signed_in"  # 110114, 110122, outcome 4
    PERSON_SIGNED_OUT = "person.signed_out"  # 110114, 110123
    PERSON_CHANGED = "person.changed"  # 110113, 110137: added, role, disabled, password, token


_EVENTS, _HEADS = cast("Rows", AuditEvent.__table__), cast("Rows", AuditHead.__table__)
_HEAD = update(_HEADS).where(_HEADS.c.id == 1)
_TAKE = _HEAD.values(position=_HEADS.c.position + bindparam("count")).returning(_HEADS.c.position, _HEADS.c.hash)
_WRITE = insert(_EVENTS)
_MOVE = _HEAD.values(hash=bindparam("last"))
_CHAINED = ("previous", "hash")
_TOLD, _WRITTEN = "audit", "audit written"


def record(
    session: Session,
    act: Act,
    *,
    at: datetime,
    actor: str = "gateway",
    outcome: int = 0,
    study: str = "",
    series: str = "",
    instance: str = "",
    job: int | None = None,
    **detail: Any,
) -> None:
    """Add one event to the session's transaction; `detail` is JSON: UIDs, numbers, our own words.

    It gets its place in the chain when the transaction commits, and its row is there from then on.
    """
    told = {
        "at": at, "act": str(act), "actor": actor, "outcome": outcome, "study_instance_uid": study,
        "series_instance_uid": series, "sop_instance_uid": instance, "job": job,
        "detail": json.loads(canonical(detail).encode("utf-8", "replace")),
    }  # fmt: skip
    session.info.setdefault(_TOLD, []).append((session.get_nested_transaction(), told))


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's hash is of, as JSON."""
    fields = {name: value for name, value in row.items() if name not in _CHAINED}
    return fields | {"at": row["at"].astimezone(UTC).isoformat(timespec="microseconds")}


def head_of(session: Session) -> Head | None:
    found = session.execute(select(AuditHead.position, AuditHead.hash).where(AuditHead.id == 1)).first()
    return Head(*found) if found else None


def written(session: Session) -> Head | None:
    """The last event that the transaction wrote which has just been committed; None where it told of nothing."""
    return cast("Head | None", session.info.get(_WRITTEN))


def has(session: Session, head: Head) -> bool:
    """Whether the chain goes through this head."""
    return session.scalar(select(AuditEvent.hash).where(AuditEvent.id == head.position)) == head.hash


def rows(
    session: Session, *, after: int = 0, since: datetime | None = None, at_once: int = _BATCH
) -> Iterator[Mapping[str, Any]]:
    """The trail in its order, read as it is wanted; `since` leaves out what was told of earlier times."""
    query = select(*_EVENTS.columns).order_by(AuditEvent.id).limit(at_once)
    if since is not None:
        query = query.where(AuditEvent.at >= since)
    while batch := session.execute(query.where(AuditEvent.id > after)).mappings().all():
        yield from map(dict, batch)
        after = batch[-1]["id"]


def entries(session: Session) -> Iterator[Entry]:
    """The trail for a walk; it ends with the first row that cannot be read (SQLite takes what is no time and no JSON)."""
    last = 0
    for at_once in (_BATCH, 1):  # one at a time it shows which row it is
        try:
            for row in rows(session, after=last, at_once=at_once):
                yield Entry(row["id"], row["previous"], row["hash"], fields_of(row))
                last = row["id"]
        except (ValueError, TypeError):
            continue
        return
    unreadable = session.scalars(select(AuditEvent.id).where(AuditEvent.id > last).order_by(AuditEvent.id).limit(1))
    yield Entry(unreadable.one(), "", "unreadable", {})


@event.listens_for(Session, "before_commit")
def _chain(session: Session) -> None:
    """Write what was recorded, at the end of the chain.

    The head's row is the last thing that a transaction takes and is held until it ends: transactions, on however many
    machines, come one after the other here, wait for nothing else, and one that is rolled back leaves no gap.
    """
    if session.in_nested_transaction() or not session.info.get(_TOLD):
        return
    session.flush()
    told = [one for _, one in session.info.pop(_TOLD)]
    connection = session.connection()
    end, last = connection.execute(_TAKE, {"count": len(told)}).one()
    chained = []
    for position, one in enumerate(told, end - len(told) + 1):
        values = {"id": position, **one}
        chained.append({**values, "previous": last, "hash": (last := entry_hash(last, fields_of(values)))})
    connection.execute(_WRITE, chained)
    connection.execute(_MOVE, {"last": last})
    session.info[_WRITTEN] = Head(end, last)


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, undone: SessionTransaction) -> None:
    """What was recorded in a transaction, or within a savepoint, that is rolled back did not happen."""
    told = session.info.get(_TOLD, ())
    session.info[_TOLD] = [(within, one) for within, one in told if not _is_part(within, undone)]


@event.listens_for(Session, "after_transaction_end")
def _end(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None:
        session.info.pop(_TOLD, None)
        session.info.pop(_WRITTEN, None)


def _is_part(within: SessionTransaction | None, undone: SessionTransaction) -> bool:
    while within is not None and within is not undone:
        within = within.parent
    return within is undone or undone.parent is None
