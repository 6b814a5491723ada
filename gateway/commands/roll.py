"""The roll: people and tokens, as the command line asks for and changes them."""

from collections.abc import Callable
from datetime import datetime

from rich.markup import escape

from gateway.access import people
from gateway.commands.screen import Row, Screen, at
from gateway.db import Database

Ask = Callable[[Database, Screen, str, datetime], None]
"""With the name of who asks, and when."""


def list_people(db: Database, screen: Screen, _actor: str, _now: datetime) -> None:
    rows: list[Row] = [
        ((one.name, one.role, at(one.created_at), "disabled" if one.disabled_at else "may sign in"), (one.issuer,))
        for one in people.list_people(db)
    ]
    screen.rows(("name", "role", "since", "state"), rows, empty="nobody may use the console yet: gateway users add NAME")


def list_tokens(db: Database, screen: Screen, _actor: str, now: datetime) -> None:
    rows: list[Row] = [
        (
            (str(one.id), one.account, one.role, at(one.expires_at), at(one.used_at) if one.used_at else "never"),
            (one.label + (": it is over" if one.expires_at <= now else ""),),
        )
        for one in people.list_tokens(db)
    ]
    screen.rows(("token", "of", "role", "until", "last used"), rows, empty="there are no tokens")


def add(name: str, role: str, password: str) -> Ask:
    return _said(lambda db, actor, now: people.add_person(db, name, role=role, password=password, actor=actor, now=now))


def change_role(name: str, role: str) -> Ask:
    return _said(lambda db, actor, now: people.change_role(db, name, role=role, actor=actor, now=now))


def disable(name: str) -> Ask:
    return _said(lambda db, actor, now: people.disable(db, name, actor=actor, now=now))


def enable(name: str) -> Ask:
    return _said(lambda db, actor, now: people.enable(db, name, actor=actor, now=now))


def set_password(name: str, password: str) -> Ask:
    return _said(lambda db, actor, now: people.set_password(db, name, password=password, actor=actor, now=now))


def make_token(name: str, label: str, role: str, days: int) -> Ask:
    """Prints its secret."""

    def make(db: Database, actor: str, now: datetime) -> str:
        return people.make_token(db, name, label=label, role=role, days=days, actor=actor, now=now).secret

    return _said(make)


def revoke_token(token: int) -> Ask:
    return _said(lambda db, actor, now: people.revoke_token(db, token, actor=actor, now=now))


def _said(act: Callable[[Database, str, datetime], str]) -> Ask:
    return lambda db, screen, actor, now: screen.line(escape(act(db, actor, now)))
