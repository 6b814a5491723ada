"""The rows of peers that a person added, beside those of gateway.toml; and what a peer of either kind was found to take."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, Table


class Contact(Table):
    """A peer; one of the same name in gateway.toml is used instead of it."""

    __tablename__ = f"{PREFIX}peer"
    name: Mapped[str] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]
    """The table as it would stand in gateway.toml, without the name. Some values are secrets: show none but by peers.secrets."""
    disabled: Mapped[bool] = mapped_column(default=False)
    """Nothing goes to it; what is to go waits."""
    added_at: Mapped[datetime]
    added_by: Mapped[str]
    changed_at: Mapped[datetime]
    changed_by: Mapped[str]


class Probe(Table):
    """What a peer, of either kind, said when it was asked last."""

    __tablename__ = f"{PREFIX}peer_probe"
    peer: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    """Why it could not be asked; empty where it answered."""
    found: Mapped[list[Any]] = mapped_column(default=list)
    """Of each thing: what, whether it works (null: not known), a note."""
