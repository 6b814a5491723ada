"""The rows by which the processes of one database know of each other (serving/hosts.py)."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, Table


class Filed(Table):
    """A process that files what it promised, or did: without its row everything of it is filed."""

    __tablename__ = f"{PREFIX}filed"
    executor: Mapped[str] = mapped_column(primary_key=True)
    filed_at: Mapped[datetime]
    """Everything that it promised until then is filed."""
    opened_at: Mapped[datetime | None]
    """Its doors have been open since then."""


class StoreMark(Table):
    """Which folder holds all files of this database: the one with this in its `store.id`. One row."""

    __tablename__ = f"{PREFIX}store_mark"
    id: Mapped[int] = mapped_column(primary_key=True)
    mark: Mapped[str]
