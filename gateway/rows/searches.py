"""The rows of priors: what was sought for a job, which earlier series it gets, and why others are none of them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, ForeignKey, UniqueConstraint, exists, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Digest, Table, Uid


class SearchState(StrEnum):
    WAITING = "waiting"
    """Its job waits for it."""
    HELD = "held"
    """Nothing came; its job waits for a person."""
    DONE = "done"


class PriorState(StrEnum):
    CHOSEN = "chosen"
    HERE = "here"
    """Its instances are here, and are an input of the job."""
    PASSED = "passed"
    """It is not what the pipeline wants; the reason says why."""
    MISSED = "missed"
    """It was chosen and did not come in time."""


class PriorSearch(Table):
    """Of a job, whose `id` it has."""

    __tablename__ = f"{PREFIX}prior_search"
    id: Mapped[int] = mapped_column(BigKey, ForeignKey(f"{PREFIX}job.id"), primary_key=True)
    state: Mapped[str] = mapped_column(default=SearchState.WAITING, index=True)
    chosen: Mapped[bool] = mapped_column(default=False)
    """Whether sources were asked, and the rows of priors say what is taken."""
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(default="")
    ticket: Mapped[str] = mapped_column(default="0")
    begun_at: Mapped[datetime]
    due_at: Mapped[datetime]
    deadline_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Prior(Table):
    """A series that a source has of the patient, as the search of that job saw it."""

    __tablename__ = f"{PREFIX}prior"
    __table_args__ = (UniqueConstraint("job", "series_instance_uid"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    job: Mapped[int] = mapped_column(BigKey, ForeignKey(f"{PREFIX}prior_search.id"))
    peer: Mapped[str]
    study_instance_uid: Mapped[str] = mapped_column(Uid)
    series_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    modality: Mapped[str]
    days_before: Mapped[int | None]
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")


class PriorInstance(Table):
    """The exact input of a job that is of a prior."""

    __tablename__ = f"{PREFIX}prior_instance"
    prior: Mapped[int] = mapped_column(BigKey, ForeignKey(Prior.id), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    sha256: Mapped[str] = mapped_column(Digest)


def is_open(job: ColumnElement[int] | Mapped[int]) -> ColumnElement[bool]:
    """Whether the job waits for a search, or for a person because of it."""
    return exists().where(PriorSearch.id == job, PriorSearch.state != SearchState.DONE)


def give_up(session: Session, job: int, now: datetime) -> bool:
    """A person wants the job to run with what is here; whether it waited."""
    waits = update(PriorSearch).where(PriorSearch.id == job, PriorSearch.state != SearchState.DONE)
    ended = session.execute(waits.values(state=SearchState.DONE, ended_at=now, reason="a person let the job run"))
    return bool(ended.rowcount)  # type: ignore[attr-defined]
