"""Roles: what one process of a gateway does. Processes of all roles share one database and one store."""

from collections.abc import Sequence
from enum import StrEnum

from gateway.errors import ConfigError


class Role(StrEnum):
    RECEIVE = "receive"
    """Listen, file and index what comes."""
    WORK = "work"
    """Settle, run, deliver, prove, commit, sweep."""
    WEB = "web"
    """The web console and REST."""


def roles(only: Sequence[str], *, database_url: str) -> frozenset[Role]:
    """Those that `only` names, several to a word where commas part them; without any, all. Raises ConfigError."""
    names = dict.fromkeys(name.strip() for word in only for name in word.split(","))
    if not set(names) <= set(Role):
        raise ConfigError([f"--only: expected {' or '.join(Role)}"])
    chosen = frozenset(map(Role, names)) or frozenset(Role)
    if chosen != frozenset(Role) and database_url.startswith("sqlite"):
        raise ConfigError(["--only: expected PostgreSQL in [database] url; SQLite serves one process, which does everything"])
    return chosen
