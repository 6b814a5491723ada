"""Sign-in: who shows a password or a token, and what is kept of it; who is too often wrong waits longer each time.

The wait of an account is in the database, so that it counts for all processes together; that of an address is kept by the
console (web/limits.py).
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from gateway.access import passwords
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, changed
from gateway.errors import GatewayError
from gateway.rows.accounts import Account, Right, SignIn, Token

_FREE, _LONGEST = 5, timedelta(minutes=5)
"""So many wrong passwords cost nothing; from then on the wait doubles from a second to the longest."""
_REFUSED = (
    f"name and password do not fit; after {_FREE} wrong passwords the right one is not taken for a while either: "
    f"try again in {_LONGEST // timedelta(minutes=1)} minutes"
)
"""Of a name that is nobody's too: who is told how long to wait knows that there is such an account."""
_SEEN = timedelta(minutes=1)


class NotLetIn(GatewayError):
    """Sign-in was refused; the text does not say whether there is such an account."""


@dataclass(frozen=True)
class Person:
    """Who is signed in, or in whose name a token acts. `digest` is of the sign-in; empty for a token."""

    name: str
    role: Right
    digest: str = ""

    def may(self, needed: Right) -> bool:
        return self.role.includes(needed)


@dataclass(frozen=True)
class Lives:
    """How long a sign-in lasts without anything done, and at most."""

    idle: timedelta
    longest: timedelta


def sign_in(db: Database, name: str, password: str, *, address: str, now: datetime) -> str:
    """The secret of a new sign-in. Raises NotLetIn."""
    with db() as session:
        account = session.get(Account, name)
        waits = account.not_before if account else None
        known = account.password_hash if account and account.disabled_at is None else ""
    is_early = waits is not None and waits > now
    if not passwords.fits(password, known) or is_early:  # looked at all the same: it takes as long as for any other name
        _refuse(db, name if account else "", address, now, is_early=is_early)
        raise NotLetIn(_REFUSED)
    return begin(db, name, address=address, now=now)


def begin(db: Database, name: str, *, address: str, now: datetime) -> str:
    """For somebody whose identity is proved."""
    secret = secrets.token_urlsafe(32)
    with db.begin() as session:
        mine = update(Account).where(Account.name == name, Account.disabled_at.is_(None))
        if not changed(session, mine.values(failures=0, not_before=None)):
            raise NotLetIn("this account is disabled: an administrator can enable it")
        session.add(SignIn(digest=passwords.digest(secret), account=name, address=address, began_at=now, seen_at=now))
        audit.record(session, Act.PERSON_SIGNED_IN, at=now, actor=name, address=address)
    return secret


def refused(db: Database, *, address: str, now: datetime, reason: str) -> None:
    """Tell of somebody whom another system did not prove."""
    with db.begin() as session:
        audit.record(
            session, Act.PERSON_NOT_SIGNED_IN, at=now, actor="unknown", outcome=audit.MINOR, address=address, reason=reason
        )


def sign_out(db: Database, person: Person, *, now: datetime) -> None:
    with db.begin() as session:
        if changed(session, delete(SignIn).where(SignIn.digest == person.digest)):
            audit.record(session, Act.PERSON_SIGNED_OUT, at=now, actor=person.name)


def who_signed_in(db: Database, secret: str, *, lives: Lives, now: datetime, is_act: bool) -> Person | None:
    """`is_act`: a person did something; a page that looks for news by itself keeps nobody signed in."""
    with db() as session:
        found = session.execute(
            select(SignIn, Account).join(Account, Account.name == SignIn.account).where(SignIn.digest == passwords.digest(secret))
        ).first()
    if found is None:
        return None
    one, account = found
    if account.disabled_at is not None or now - one.seen_at > lives.idle or now - one.began_at > lives.longest:
        return None
    if is_act and now - one.seen_at > _SEEN:
        with db.begin() as session:
            session.execute(update(SignIn).where(SignIn.digest == one.digest).values(seen_at=now))
    return Person(account.name, Right(account.role), one.digest)


def who_has_token(db: Database, secret: str, *, now: datetime) -> Person | None:
    with db() as session:
        found = session.execute(
            select(Token, Account).join(Account, Account.name == Token.account).where(Token.digest == passwords.digest(secret))
        ).first()
    if found is None:
        return None
    token, account = found
    if account.disabled_at is not None or token.revoked_at is not None or token.expires_at <= now:
        return None
    if token.used_at is None or now - token.used_at > _SEEN:
        with db.begin() as session:
            session.execute(update(Token).where(Token.id == token.id).values(used_at=now))
    mine, its = Right(account.role), Right(token.role)
    return Person(account.name, its if mine.includes(its) else mine)


def forget_ended(db: Database, *, lives: Lives, now: datetime) -> None:
    """Sign-ins that nobody can go on with."""
    over = (SignIn.seen_at < now - lives.idle) | (SignIn.began_at < now - lives.longest)
    with db.begin() as session:
        session.execute(delete(SignIn).where(over))


def _refuse(db: Database, name: str, address: str, now: datetime, *, is_early: bool) -> None:
    """What was typed as a name is told only where it is one: people type passwords there too.

    What comes too early does not count: nobody is kept out for ever.
    """
    reason = "after too many wrong passwords" if is_early else "name and password do not fit"
    with db.begin() as session:
        if name and not is_early:
            _delay(session, name, now)
        audit.record(
            session, Act.PERSON_NOT_SIGNED_IN, at=now, actor=name or "unknown", outcome=audit.MINOR, address=address,
            reason=reason,
        )  # fmt: skip


def _delay(session: Session, name: str, now: datetime) -> None:
    """Counted by the database, so that many at once count too."""
    counted = update(Account).where(Account.name == name).values(failures=Account.failures + 1).returning(Account.failures)
    failures = session.execute(counted).scalar_one()
    if failures >= _FREE:
        wait = min(_LONGEST, timedelta(seconds=2 ** min(failures - _FREE, 20)))
        session.execute(update(Account).where(Account.name == name).values(not_before=now + wait))
