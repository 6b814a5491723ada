"""People: who may use the console and the REST interface, and as what. Every change is audited with who made it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from gateway.access import passwords
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database, insert_once, lock
from gateway.errors import ConfigError
from gateway.rows.accounts import Account, Right, SignIn, Token

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_OURS = frozenset({"gateway", "setup", "unknown"})
"""Who the trail says it was where it was no person."""
_LABEL = 64
TOKEN_DAYS = 365
"""No token lives longer."""


@dataclass(frozen=True)
class Made:
    """A token of which only this once the secret is known."""

    token: Token
    secret: str


def list_people(db: Database) -> list[Account]:
    with db() as session:
        return list(session.scalars(select(Account).order_by(Account.name)))


def show_person(db: Database, name: str) -> Account:
    """Raises ConfigError where there is nobody of that name."""
    with db() as session:
        return _known(session, name)


def is_anybody(db: Database) -> bool:
    with db() as session:
        return bool(session.scalar(select(func.count()).select_from(Account)))


def add_person(db: Database, name: str, *, role: str, password: str, actor: str, now: datetime, first: bool = False) -> str:
    """`first`: only where there is nobody yet. Raises ConfigError, which names neither the name nor the password."""
    if not _is_name(name):
        own = "such as a.miller, and none that the trail has for itself"
        raise ConfigError([f"expected a name of 1 to 64 letters, digits and . _ @ + -, {own}"])
    hashed = _hashed(password, name)
    with db.begin() as session:
        added = insert_once(
            session, Account, name=name, role=_role(role), password_hash=hashed, issuer="", subject="", created_at=now,
            disabled_at=None, failures=0, not_before=None,
        )  # fmt: skip
        if not added:
            raise ConfigError(["somebody of that name is there already: choose another name"])
        if first and session.scalar(select(func.count()).select_from(Account)) != 1:
            raise ConfigError(["there are people already: an administrator among them adds others"])
        audit.record(session, Act.PERSON_CHANGED, at=now, actor=actor, person=name, role=role, reason="added")
    return f"{name} may sign in as {role}"


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and text.lower() not in _OURS


def from_elsewhere(db: Database, *, issuer: str, subject: str, name: str, role: str, now: datetime) -> str:
    """The account of somebody whom an identity provider has proved: made at the first sign-in, with the role of this one.

    `name` is theirs where it is one and nobody else's account here; raises ConfigError where it is somebody else's.
    """
    wanted = name if _is_name(name) else subject if _is_name(subject) else f"oidc-{passwords.digest(subject)[:16]}"
    with db.begin() as session:
        known = session.scalar(select(Account.name).where(Account.issuer == issuer, Account.subject == subject))
        added = known is None and insert_once(
            session, Account, name=wanted, role=_role(role), password_hash="", issuer=issuer, subject=subject, created_at=now,
            disabled_at=None, failures=0, not_before=None,
        )  # fmt: skip
        account = _known(session, known or wanted, to_change=True)
        if (account.issuer, account.subject) != (issuer, subject):
            raise ConfigError(["somebody of that name is there already: an administrator can free the name"])
        if added:
            _tell(session, account, "added by the identity provider", issuer, now)
        elif account.role != role:
            before, account.role = account.role, _role(role)
            _tell(session, account, f"role was {before}", issuer, now)
        return account.name


def has_left(db: Database, *, issuer: str, subject: str, now: datetime) -> None:
    """Whom an identity provider has proved, and gives no role here any more: their sign-ins and tokens end, the account stays.

    Not disabled: a group that is misspelt in gateway.toml would keep everybody out until each is enabled again.
    """
    theirs = select(Account.name).where(Account.issuer == issuer, Account.subject == subject)
    with db.begin() as session:
        name = session.scalar(theirs)
        if name is not None:
            account = _known(session, name, to_change=True)
            _sign_out_everywhere(session, name)
            _revoke_all(session, account, issuer, now)
            _tell(session, account, "signed out: without a role at the identity provider", issuer, now)


def change_role(db: Database, name: str, *, role: str, actor: str, now: datetime) -> str:
    with _changing(db, name, may_end=True) as (session, account):
        before, account.role = account.role, _role(role)
        if before == Right.ADMINISTRATOR:
            _check_somebody_is_left(session)
        _tell(session, account, f"role was {before}", actor, now)
    return f"{name} is {role} now"


def disable(db: Database, name: str, *, actor: str, now: datetime) -> str:
    """Whoever is disabled is signed out at once, and no token of theirs is ever good again."""
    with _changing(db, name, may_end=True) as (session, account):
        account.disabled_at = now
        if account.role == Right.ADMINISTRATOR:
            _check_somebody_is_left(session)
        _sign_out_everywhere(session, name)
        _revoke_all(session, account, actor, now)
        _tell(session, account, "disabled", actor, now)
    return f"{name} may not sign in any more"


def enable(db: Database, name: str, *, actor: str, now: datetime) -> str:
    with _changing(db, name) as (session, account):
        account.disabled_at, account.failures, account.not_before = None, 0, None
        _tell(session, account, "enabled", actor, now)
    return f"{name} may sign in again"


def set_password(
    db: Database, name: str, *, password: str, actor: str, now: datetime, present: str | None = None, keep: str = ""
) -> str:
    """`present`: the one so far, which must fit where people change their own; `keep` is the digest of the sign-in that goes on.

    All their other sign-ins end; where it is set for them, their tokens too: whoever took the old one may have made some.
    """
    hashed = _hashed(password, name)
    if present is not None and not passwords.fits(present, show_person(db, name).password_hash):
        raise ConfigError(["the present password is another one"])
    with _changing(db, name) as (session, account):
        if account.issuer:
            raise ConfigError(["this account signs in elsewhere: its password is changed there"])
        account.password_hash, account.failures, account.not_before = hashed, 0, None
        _sign_out_everywhere(session, name, keep=keep)
        revoked = _revoke_all(session, account, actor, now) if present is None else ""
        _tell(session, account, "password", actor, now)
    return f"the password of {name} is changed{revoked}"


def list_sign_ins(db: Database, name: str) -> list[SignIn]:
    """The latest first; those that are over are among them for an hour at most."""
    with db() as session:
        return list(session.scalars(select(SignIn).where(SignIn.account == name).order_by(SignIn.began_at.desc())))


def end_sign_ins(db: Database, name: str, *, actor: str, now: datetime, keep: str = "") -> str:
    """All but the one with the digest `keep`; where none is kept, tokens end too: somebody else may have made some."""
    with _changing(db, name) as (session, account):
        _sign_out_everywhere(session, name, keep=keep)
        revoked = "" if keep else _revoke_all(session, account, actor, now)
        _tell(session, account, "signed out everywhere", actor, now)
    return f"{name} is signed out everywhere{' else' if keep else revoked}"


def list_tokens(db: Database, name: str | None = None) -> list[Token]:
    """Those that may still be used, of `name` or of everybody."""
    query = select(Token).where(Token.revoked_at.is_(None)).order_by(Token.account, Token.id)
    with db() as session:
        return list(session.scalars(query if name is None else query.where(Token.account == name)))


def make_token(db: Database, name: str, *, label: str, role: str, days: int, actor: str, now: datetime) -> Made:
    """A program that shows the secret (Authorization: Bearer ...) acts in the name of this person, at most as `role`."""
    if not 1 <= days <= TOKEN_DAYS:
        raise ConfigError([f"expected a life of 1 to {TOKEN_DAYS} days"])
    if not 1 <= len(label) <= _LABEL or not label.isprintable():
        raise ConfigError([f"expected a label of 1 to {_LABEL} printable characters that says what the token is for"])
    secret = passwords.secret()
    with db.begin() as session:
        account = _known(session, name, to_change=True)
        if account.disabled_at is not None:  # else it lets them in from the day on which they may again
            raise ConfigError([f"{name} may not sign in: expected somebody who may"])
        if not Right(account.role).includes(Right(_role(role))):
            raise ConfigError([f"{name} is {account.role}: expected a token that may do no more"])
        token = Token(
            digest=passwords.digest(secret), account=name, label=label, role=role, created_at=now, used_at=None,
            expires_at=now + timedelta(days=days), revoked_at=None,
        )  # fmt: skip
        session.add(token)
        session.flush()
        _tell(session, account, f"token {token.id} made: {role}", actor, now)
    return Made(token, secret)


def revoke_token(db: Database, token_id: int, *, actor: str, now: datetime, of: str | None = None) -> str:
    """`of`: only where it is this person's."""
    with db.begin() as session:
        token = session.get(Token, token_id)
        if token is None or (of is not None and token.account != of):
            raise ConfigError([f"there is no token {token_id}"])
        if token.revoked_at is None:
            token.revoked_at = now
            _tell(session, _known(session, token.account), f"token {token.id} revoked", actor, now)
    return f"token {token_id} is revoked"


def setup_secret(file: Path) -> str:
    """The secret that lets the first administrator in: made once, kept in `file`, which only this user may read."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(passwords.secret() + "\n", "utf-8")
    return file.read_text("utf-8").strip()


@contextmanager
def _changing(db: Database, name: str, *, may_end: bool = False) -> Iterator[tuple[Session, Account]]:
    """`may_end`: such changes come one after the other, so that two administrators cannot end each other."""
    with db.begin() as session:
        if may_end:
            administrators = select(Account.name).where(Account.role == Right.ADMINISTRATOR).order_by(Account.name)
            session.execute(administrators.with_for_update())
        yield session, _known(session, name, to_change=True)


def _known(session: Session, name: str, *, to_change: bool = False) -> Account:
    try:
        return lock(session, Account, name) if to_change else session.get_one(Account, name)
    except NoResultFound as error:
        raise ConfigError(["there is nobody of that name"]) from error


def _hashed(password: str, name: str) -> str:
    problem = passwords.problem(password, name)
    if problem:
        raise ConfigError([problem])
    return passwords.hashed(password)


def _role(role: str) -> str:
    if role not in list(Right):
        raise ConfigError([f"expected a role, one of: {', '.join(Right)}"])
    return role


def _check_somebody_is_left(session: Session) -> None:
    """Without an administrator nobody could ever mend it from the console."""
    session.flush()
    left = select(func.count()).where(Account.role == Right.ADMINISTRATOR, Account.disabled_at.is_(None))
    if not session.scalar(left.select_from(Account)):
        raise ConfigError(["expected that one administrator is left: make somebody else one first"])


def _sign_out_everywhere(session: Session, name: str, keep: str = "") -> None:
    session.execute(delete(SignIn).where(SignIn.account == name, SignIn.digest != keep))


def _revoke_all(session: Session, account: Account, actor: str, now: datetime) -> str:
    """What is to be said of it: programs that use them go on no more."""
    good = select(Token).where(Token.account == account.name, Token.revoked_at.is_(None), Token.expires_at > now)
    tokens = session.scalars(good.order_by(Token.id)).all()
    for token in tokens:
        token.revoked_at = now
        _tell(session, account, f"token {token.id} revoked", actor, now)
    return f"; tokens revoked: {len(tokens)}" if tokens else ""


def _tell(session: Session, account: Account, what: str, actor: str, now: datetime) -> None:
    audit.record(session, Act.PERSON_CHANGED, at=now, actor=actor, person=account.name, role=account.role, reason=what)
