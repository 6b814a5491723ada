"""The rows of workitems: Unified Procedure Steps that are kept here (PS3.4 CC, PS3.18 11), who follows them, and what those are
to be told.

A workitem's data set names a patient, so it is a file of the store; the row has its key. A file that another one took the place
of goes with its row in `gw_workitem_document`, so that none is left behind.

    SCHEDULED -> IN PROGRESS (claimed with a Transaction UID) -> COMPLETED | CANCELED; SCHEDULED -> CANCELED (asked for)
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Digest, Table, Uid


class WorkitemState(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


FINAL = (WorkitemState.COMPLETED, WorkitemState.CANCELED)


class Workitem(Table):
    __tablename__ = f"{PREFIX}workitem"
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    state: Mapped[str] = mapped_column(default=WorkitemState.SCHEDULED, index=True)
    transaction_uid: Mapped[str] = mapped_column(Uid, default="")
    """Who knows it may change and end it, while it is in progress; told to nobody."""
    document: Mapped[str] = mapped_column(Digest)
    """The store's key of its data set; empty when that is gone."""
    person: Mapped[str]
    """Who ordered it."""
    is_ours: Mapped[bool] = mapped_column(default=False)
    """This gateway performs it."""
    job: Mapped[int | None] = mapped_column(BigKey, index=True)
    made_job: Mapped[bool] = mapped_column(default=False)
    """The job was made for it, and nobody else wants it; else it was there before."""
    looks: Mapped[int] = mapped_column(default=0)
    ticket: Mapped[str] = mapped_column(default="0")
    """Names the engine's next look at it."""
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    """When we look at it next; None where there is nothing for us to do."""
    made_at: Mapped[datetime] = mapped_column(index=True)
    changed_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    gone_at: Mapped[datetime | None]
    """When its days were over; the row stays."""


class WorkitemDocument(Table):
    """A data set that a workitem has or had."""

    __tablename__ = f"{PREFIX}workitem_document"
    sha256: Mapped[str] = mapped_column(Digest, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    made_at: Mapped[datetime] = mapped_column(index=True)


class Subscription(Table):
    """`ae_title` follows a workitem, or the worklist (its well-known UID), of which then every new one."""

    __tablename__ = f"{PREFIX}subscription"
    ae_title: Mapped[str] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True, index=True)
    person: Mapped[str]
    """Whose AE title it is: nobody else reads what it is told."""
    wanted: Mapped[list[Any]] = mapped_column(default=list)
    """Of a filtered worklist: keys and values, none of them of a patient."""
    suspended: Mapped[bool] = mapped_column(default=False)
    made_at: Mapped[datetime]


class Report(Table):
    """An event (PS3.4 CC.2.4) that `ae_title` is to be told; gone when it was."""

    __tablename__ = f"{PREFIX}workitem_report"
    __table_args__ = (UniqueConstraint("ae_title", "id"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    ae_title: Mapped[str]
    sop_instance_uid: Mapped[str] = mapped_column(Uid)
    kind: Mapped[int]
    """Event Type ID."""
    state: Mapped[str]
    """Of the workitem, at that time."""
    document: Mapped[str] = mapped_column(Digest)
    """Its data set at that time."""
    at: Mapped[datetime] = mapped_column(index=True)
