"""The rows of the people who may use the console, of their sign-ins, and of the tokens that programs use in their name.

What would let somebody in is never here: of passwords there is an Argon2id hash, of sign-ins and tokens the SHA-256 of a secret
of 256 random bits.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from gateway.rows.columns import PREFIX, BigKey, Digest, Table

_Name = String(64)


class Right(StrEnum):
    """What an account may do: its role. Each may do what the one before may."""

    VIEWER = "viewer"
    """See everything, change nothing."""
    OPERATOR = "operator"
    """Retry, cancel, resend, retract, hold: what a day's work needs."""
    ADMINISTRATOR = "administrator"
    """Rules, peers, people."""

    def includes(self, needed: "Right") -> bool:
        ranks = list(Right)
        return ranks.index(self) >= ranks.index(needed)


class Account(Table):
    __tablename__ = f"{PREFIX}account"
    name: Mapped[str] = mapped_column(_Name, primary_key=True)
    role: Mapped[str]
    password_hash: Mapped[str] = mapped_column(default="")
    """Empty for who signs in elsewhere (OpenID Connect)."""
    issuer: Mapped[str] = mapped_column(default="")
    subject: Mapped[str] = mapped_column(default="", index=True)
    """Who it is there; an issuer never gives it to somebody else."""
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)
    """Wrong passwords since the last right one."""
    not_before: Mapped[datetime | None]
    """No password is looked at before then."""


class SignIn(Table):
    __tablename__ = f"{PREFIX}sign_in"
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    account: Mapped[str] = mapped_column(_Name, ForeignKey(Account.name), index=True)
    address: Mapped[str]
    began_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    """When the person last did something, to the minute."""


class Token(Table):
    __tablename__ = f"{PREFIX}token"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    digest: Mapped[str] = mapped_column(Digest, unique=True)
    account: Mapped[str] = mapped_column(_Name, ForeignKey(Account.name), index=True)
    label: Mapped[str]
    role: Mapped[str]
    """At most so much; it may never do more than its account may."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    """To the minute."""
    revoked_at: Mapped[datetime | None]
