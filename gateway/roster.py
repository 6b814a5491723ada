"""Roster: the peers as they are now, those of gateway.toml and those that a person added. A process that serves looks often.

A name that stands in gateway.toml is that one's, whatever a row says. A row that cannot be used here (a certificate that this
machine does not have) is no peer of this process: its lane waits, and the reason is told.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from sqlalchemy import inspect, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.configuration.sections import Config
from gateway.db import Database, open_database
from gateway.errors import ConfigError
from gateway.peers import Key, Peer, keys, load_protocols, made, secrets
from gateway.rows.contacts import Contact

FILE = "gateway.toml"
HIDDEN = "(not shown)"
"""Stands for a secret, also where a form brings it back unchanged."""

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Entry:
    """One peer. `peer` is None where its table is wrong, and `problems` say what is."""

    name: str
    table: Mapping[str, Any] = field(repr=False)
    peer: Peer | None
    problems: tuple[str, ...] = ()
    row: Contact | None = None
    """None: it stands in gateway.toml."""

    @property
    def protocol(self) -> str:
        return str(self.table.get("protocol", ""))

    @property
    def is_active(self) -> bool:
        return self.peer is not None and not (self.row is not None and self.row.disabled)

    @property
    def place(self) -> str:
        return FILE if self.row is None else "added"

    @property
    def state(self) -> str:
        return "in use" if self.is_active else "disabled" if self.peer is not None else "wrong"

    @property
    def shown(self) -> dict[str, Any]:
        """Its table without secrets, and without its name and protocol."""
        hidden = secrets(self.peer, self.table)
        own = {key: value for key, value in self.table.items() if key not in ("name", "protocol")}
        return {key: HIDDEN if key in hidden else value for key, value in own.items()}

    @property
    def address(self) -> str:
        if "host" in self.table:
            return f"{self.table.get('ae_title', '')}@{self.table['host']}:{self.table.get('port', '')}"
        return str(self.table.get("url") or self.table.get("path") or "")


class Roster(Mapping[str, Peer]):
    """By name, those that can be used. It holds what it read last; any thread may look while another refreshes it."""

    def __init__(self, config: Config, db: Database) -> None:
        self._db, self._protocols, self._lock = db, load_protocols(), threading.Lock()
        self._rows: tuple[tuple[Any, ...], ...] = ()
        self._entries: Mapping[str, Entry] = {}
        self._config = config
        self.generation = 0
        """Another one after every change, whoever read it."""
        self._make([])

    def __getitem__(self, name: str) -> Peer:
        peer = self._entries[name].peer
        if peer is None:
            raise KeyError(name)
        return peer

    def __iter__(self) -> Iterator[str]:
        return iter([entry.name for entry in self.entries if entry.peer is not None])

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def entries(self) -> Sequence[Entry]:
        return list(self._entries.values())

    @property
    def protocols(self) -> list[str]:
        return sorted(self._protocols)

    def keys_of(self, protocol: str) -> list[Key]:
        """Raises ConfigError where there is no such protocol."""
        if protocol not in self._protocols:
            raise ConfigError([f"protocol: expected one of {', '.join(self.protocols)}"])
        ours = {"calling_ae_title": self._config.dimse.ae_title}
        return [replace(key, default=ours.get(key.name, key.default)) for key in keys(self._protocols[protocol])]

    @property
    def names(self) -> list[str]:
        """Of all, also of those that cannot be used here."""
        return [entry.name for entry in self.entries]

    @property
    def tables(self) -> Sequence[Mapping[str, Any]]:
        return [entry.table for entry in self.entries]

    @property
    def active(self) -> Mapping[str, Peer]:
        """Those that something may go to now."""
        return {entry.name: entry.peer for entry in self.entries if entry.peer is not None and entry.is_active}

    def takes(self, name: str) -> bool:
        """Whether its lane is worked on now."""
        entry = self._entries.get(name)
        return entry is not None and entry.is_active

    def obstacle(self, name: str) -> str:
        """Why nothing goes to it now, as one says it of a peer; empty where something may."""
        entry = self._entries.get(name)
        if entry is None:
            return "is not there any more"
        if entry.peer is None:
            return f"cannot be used: {'; '.join(entry.problems)}"
        return "" if entry.is_active else "is disabled"

    def adopt(self, config: Config) -> None:
        """The peers of this configuration from now on, and those that were added: no peer is missed in between."""
        with self._lock:
            rows = self._read()
            self._config = config
            self._make(rows)

    def refresh(self) -> bool:
        """Read what was added, and look whether what could not be used can be now; whether anything has changed."""
        with self._lock:  # who read earlier must not write later
            rows = self._read()
            is_new = _seen(rows) != self._rows or self._is_mended()
            if is_new:
                self._make(rows)
            return is_new

    def _is_mended(self) -> bool:
        """A file that its table names may be back."""
        return any(entry.peer is None and self._entry(entry.name, entry.table).peer is not None for entry in self.entries)

    def make(self, table: Mapping[str, Any]) -> Peer:
        """As `make_peer`, also by what the rest of the configuration says. Raises ConfigError with all that is wrong."""
        return made(table, config=self._config, protocols=self._protocols)

    def _read(self) -> Sequence[Contact]:
        with self._db() as session:
            return session.scalars(select(Contact).order_by(Contact.name)).all()

    def _make(self, rows: Sequence[Contact]) -> None:
        entries = [self._entry(str(table.get("name")), table) for table in self._config.peers]
        taken = {entry.name for entry in entries}
        added = [self._entry(row.name, {"name": row.name, **row.settings}, row) for row in rows if row.name not in taken]
        self._rows = _seen(rows)
        self._entries = MappingProxyType({entry.name: entry for entry in (*entries, *added)})
        self.generation += 1
        for entry in (one for one in added if one.problems):
            _logger.warning("peer.unusable", peer=entry.name, reason="; ".join(entry.problems))

    def _entry(self, name: str, table: Mapping[str, Any], row: Contact | None = None) -> Entry:
        try:
            return Entry(name, table, self.make(table), (), row)
        except ConfigError as error:
            return Entry(name, table, None, error.problems, row)


def _seen(rows: Iterable[Contact]) -> tuple[tuple[Any, ...], ...]:
    return tuple((row.name, row.changed_at, row.settings, row.disabled) for row in rows)


def known(config: Config) -> Roster:
    """Whether or not anybody serves. Where the database is not there yet, or does not answer, those of the configuration."""
    url = make_url(config.database_url)
    is_there = url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()
    db = open_database(config.database_url)
    roster = Roster(config, db)
    try:
        if is_there and inspect(db.kw["bind"]).has_table(Contact.__tablename__):
            roster.refresh()
    except SQLAlchemyError as error:
        _logger.warning("database.unavailable", error=type(error).__name__)
    finally:
        db.kw["bind"].dispose()
    return roster


def added_peer(config: Config, name: str) -> Peer:
    """One that a person added; raises ConfigError, with the names of all, where there is none."""
    peers = known(config)
    if name not in peers:
        wrong = [problem for entry in peers.entries if entry.name == name for problem in entry.problems]
        raise ConfigError(wrong or [f"there is no peer {name!r}; known: {', '.join(peers) or 'none'}"])
    return peers[name]
