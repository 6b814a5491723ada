"""The rows of series that peers have and we want, and of how far the log of a peer was read."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Table, Uid


class RetrievalState(StrEnum):
    WANTED = "wanted"
    DONE = "done"
    """Everything that the peer had is here; wanted again when the peer has more."""
    ORDERED = "ordered"
    """As done, and somebody wants a pipeline on it once it is settled."""


class Retrieval(Table):
    """A series that is taken from a peer."""

    __tablename__ = f"{PREFIX}retrieval"
    __table_args__ = (UniqueConstraint("peer", "series_instance_uid"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    peer: Mapped[str]
    study_instance_uid: Mapped[str] = mapped_column(Uid)
    series_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    state: Mapped[str] = mapped_column(default=RetrievalState.WANTED, index=True)
    count: Mapped[int | None]
    """How many instances that we take the peer has of it; None before it was asked."""
    counted_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    """Without success since it was wanted last."""
    reason: Mapped[str] = mapped_column(default="")
    due_at: Mapped[datetime]
    wanted_at: Mapped[datetime]
    """When the peer's log told of it last."""
    orders: Mapped[list[Any]] = mapped_column(default=list)
    """Pipelines that somebody wants on it, and who."""
    told: Mapped[str] = mapped_column(default="")
    """The state of our work on it that the peer was told last."""


class WatchMark(Table):
    """How far the log of a peer was read: moved on with the rows of what was found in it."""

    __tablename__ = f"{PREFIX}watch_mark"
    peer: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]
