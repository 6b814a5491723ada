"""The rows of candidates: series that a pipeline might get which wants one, or several, of a study, and what became of each."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, Table, Uid


class CandidateState(StrEnum):
    WAITING = "waiting"
    """For its study to be complete."""
    TAKEN = "taken"
    PASSED = "passed"
    """Another one was taken, or it cannot be; the reason says why."""


class Candidate(Table):
    """A series of that revision, for a pipeline: the job that it would be, and what it is judged by (rank.Traits).

    `role` is that of a companion; empty where the pipeline might get it as the series of its own. `beside` is as in jobs.Order.
    """

    __tablename__ = f"{PREFIX}candidate"
    series_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(f"{PREFIX}series.series_instance_uid"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    pipeline: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True, default="")
    study_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    state: Mapped[str] = mapped_column(default=CandidateState.WAITING, index=True)
    reason: Mapped[str] = mapped_column(default="")
    traits: Mapped[dict[str, Any]]
    rules: Mapped[list[Any]]
    send_to: Mapped[list[Any]]
    priority: Mapped[str]
    priority_by: Mapped[str]
    partial: Mapped[str] = mapped_column(default="")
    beside: Mapped[str | None]
    made_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """When its study is looked at next, while it waits."""
