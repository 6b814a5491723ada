"""The rows of the audit trail, of its end, of how far it was told elsewhere, of alarms that are on, and of synthetic studies."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Digest, Table, Uid


class AuditEvent(Table):
    """Append only; written in the transaction of the act it tells of. Details carry UIDs and numbers, no patient data."""

    __tablename__ = f"{PREFIX}audit_event"
    __table_args__ = (Index(None, "series_instance_uid"), Index(None, "job"), Index(None, "sop_instance_uid"))
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    """Without a gap, in the order of the chain."""
    previous: Mapped[str] = mapped_column(Digest, default="")
    """The hash of the event before (chain.py)."""
    hash: Mapped[str] = mapped_column(Digest, default="")
    at: Mapped[datetime]
    act: Mapped[str] = mapped_column(index=True)
    actor: Mapped[str]
    """An AE title, a user, or the process itself."""
    outcome: Mapped[int]
    """0 success, 4 minor failure, 8 serious failure, 12 major failure (PS3.15 A.5)."""
    study_instance_uid: Mapped[str] = mapped_column(Uid, default="")
    series_instance_uid: Mapped[str] = mapped_column(Uid, default="")
    sop_instance_uid: Mapped[str] = mapped_column(Uid, default="")
    job: Mapped[int | None] = mapped_column(BigKey)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)


class AuditHead(Table):
    """The end of the chain: one row, which every transaction that tells of something takes before it commits."""

    __tablename__ = f"{PREFIX}audit_head"
    id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(Digest)


class AuditSink(Table):
    """How far the trail was told to a collector, or its head was signed."""

    __tablename__ = f"{PREFIX}audit_sink"
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(default="")
    """Why it does not go on; empty while it does."""


class OpenAlarm(Table):
    """An alarm that was told and is not over (alarms.py)."""

    __tablename__ = f"{PREFIX}alarm"
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    """Of whom or what: an AE title of the configuration, a model, a file; empty where there is only one."""
    raised_at: Mapped[datetime]
    """Of what is a machine's own, when that one has said so last."""
    since: Mapped[datetime]
    """When what it tells of began."""
    reason: Mapped[str]


class Rehearsed(Table):
    """A synthetic study (rehearsal.py), by which settle knows that it is one."""

    __tablename__ = f"{PREFIX}rehearsal"
    series_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid)
    begun_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]
    """When nothing of it was left but rows."""
    reason: Mapped[str]
    """Why it did not come through; empty where it did, or is on its way."""
