"""The rows that tell what was found out of the completeness of a series, one for each of its revisions."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, Table, Uid


class Held(StrEnum):
    """Why a complete series waits for a person; release.py lets it be looked at again."""

    UNMATCHED = "unmatched"
    """No rule wanted it."""
    REFUSED = "refused"
    """A rule that cannot be followed any more wanted it."""
    FAILED = "failed"
    """It could not be looked at."""
    GONE = "gone"
    """Something came late, after retention took the rest."""
    LACKING = "lacking"
    """A pipeline wants it beside other series of its study, which are not here."""


class SeriesVerdict(Table):
    """`signals` are what each kind of evidence said (completeness.Signal) of these `instances`; 0: not asked yet."""

    __tablename__ = f"{PREFIX}series_verdict"
    series_instance_uid: Mapped[str] = mapped_column(Uid, ForeignKey(f"{PREFIX}series.series_instance_uid"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    decision: Mapped[str]
    """completeness.Decision: wait until it is decided."""
    reason: Mapped[str] = mapped_column(default="")
    missing: Mapped[str] = mapped_column(default="")
    """What a partial, held or failed series lacks."""
    instances: Mapped[int]
    last_received_at: Mapped[datetime]
    signals: Mapped[list[Any]] = mapped_column(default=list)
    source: Mapped[str] = mapped_column(default="")
    """The peer that was asked how many instances the series has, what it said, and since when it says so."""
    source_count: Mapped[int | None]
    source_since: Mapped[datetime | None]
    forced_by: Mapped[str] = mapped_column(default="")
    """Who said that it is complete."""
    at: Mapped[datetime]
