"""The audit trail: append only, in the transaction of the act it tells of, free of patient data (PS3.15 A.5)."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from gateway.tables import AuditEvent

MINOR, SERIOUS = 4, 8


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
    SERIES_COMPLETE = "series.complete"  # 110103 Instances Accessed, R
    SERIES_REOPENED = "series.reopened"  # 110104, U
    JOB_CREATED = "job.created"
    JOB_STARTED = "job.started"  # 110103, R
    JOB_RETRIED = "job.retried"
    JOB_DONE = "job.done"  # 110103, C
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    DELIVERY_STARTED = "delivery.started"  # 110102 Begin Transferring
    DELIVERY_SENT = "delivery.sent"  # 110104, outcome 0
    DELIVERY_RETRIED = "delivery.retried"  # 110104, outcome 4
    DELIVERY_FAILED = "delivery.failed"  # 110104, outcome 8
    DELIVERY_CANCELLED = "delivery.cancelled"
    COMMITMENT_ASKED = "commitment.asked"  # 110103 Instances Accessed, R: the instances will be read again
    COMMITMENT_REPORTED = "commitment.reported"  # 110103, R: outcome 4 where one was not there, 8 where one is damaged
    COMMITMENT_RETRIED = "commitment.retried"  # 110103, outcome 4: the peer did not take the report yet
    COMMITMENT_FAILED = "commitment.failed"  # 110103, outcome 8: it does not take it


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
    """Add one event to the session's transaction; `detail` is JSON: UIDs, numbers, our own words."""
    session.add(
        AuditEvent(
            at=at, act=act, actor=actor, outcome=outcome, study_instance_uid=study, series_instance_uid=series,
            sop_instance_uid=instance, job=job, detail=detail,
        )
    )  # fmt: skip
