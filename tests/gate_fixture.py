"""A gate for tests: a listener on loopback with a real door behind it, and what its journal holds."""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select

from gateway.db import open_database
from gateway.doors.door import Door
from gateway.doors.entry import Declined, Kept, Promise, TurnedAway, promise
from gateway.doors.journal import Entry, entries, segments
from gateway.doors.policy import Policy
from gateway.doors.visits import Limits
from gateway.engine import Queues
from gateway.ingest.dimse import Listener
from gateway.prove import told
from gateway.receive import receive
from gateway.rows.tables import Instance, Version
from gateway.rows.trail import AuditEvent
from gateway.store import Store
from gateway.work.delivery import Pace
from tests.peers_fixture import data_set
from tests.scanner_fixture import AC, Scanner, encoded


def now() -> datetime:
    return datetime.now(UTC)


def wait(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Gate:
    """The way in as an ingest process has it; with a `database` (a migrated SQLite file), also what `receive` makes of it."""

    def __init__(
        self,
        folder: Path,
        database: Path | None = None,
        *,
        policy: Policy = Policy("AIGATEWAY"),
        context: Callable[[], ssl.SSLContext] | None = None,
        door: type[Door] = Door,
        journal: Path | None = None,
        keep_free_bytes: int = 0,
        maximum_associations: int = 8,
        maximum_per_address: int = 64,
        maximum_half_open: int = 64,
        **settings: float,
    ) -> None:
        self.folder, self._database, self._positions = folder, database, dict[Path, int]()
        self.journal = journal or folder / "journal"
        self.journal.mkdir(exist_ok=True)
        self.door = door(self.journal, clock=now, keep_free_bytes=keep_free_bytes)
        self.limits = Limits(
            policy, maximum_associations=maximum_associations, maximum_per_address=maximum_per_address,
            maximum_half_open=maximum_half_open,
        )  # fmt: skip
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        times = {"idle_seconds": 30.0, "pdu_seconds": 10.0, "association_seconds": 5.0, "maximum_instance_bytes": 2**30}
        self.listener = Listener(
            self._listening, door=self.door, policy=policy, limits=self.limits, context=context, **(times | settings)
        )  # fmt: skip
        self.port = self.listener.port

    def close(self) -> None:
        self.listener.close()
        self._listening.close()
        self.door.close()
        if "db" in vars(self):
            self.queues.close()
            self.db.kw["bind"].dispose()

    # What was promised

    def lies(self) -> list[tuple[Entry, Promise]]:
        return [(entry, promise(entry.record)) for segment in segments(self.journal) for entry in entries(segment, 0)]

    def promised(self, kind: type) -> list[Any]:
        return sorted((one for _, one in self.lies() if isinstance(one, kind)), key=lambda one: one.at)

    def held(self) -> dict[str, bytes]:
        """The bytes of each data set that is kept, by SOP Instance UID."""
        return {
            one.incoming.sop_instance_uid: data_set(_data(entry)) for entry, one in self.lies() if isinstance(one, Kept)
        }  # fmt: skip

    def bytes_held(self) -> set[bytes]:
        """The bytes of all data sets that are kept, whatever their UIDs."""
        return {data_set(_data(entry)) for entry, one in self.lies() if isinstance(one, Kept)}

    def refusals(self) -> list[int]:
        return [one.status for one in self.promised(Declined)]

    def turned_away(self) -> list[TurnedAway]:
        return self.promised(TurnedAway)

    # What receive makes of it

    @cached_property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @cached_property
    def queues(self) -> Queues:
        return Queues(f"sqlite:///{self.folder / 'gate.db'}")

    @cached_property
    def db(self) -> Any:
        assert self._database is not None
        shutil.copy(self._database, self.folder / "gate.db")
        return open_database(f"sqlite:///{self.folder / 'gate.db'}")

    def file(self) -> None:
        """As the doorman does, but that segments stay: `held` goes on reading them."""
        new = [(lies, one) for lies, one in self.lies() if lies.end > self._positions.get(lies.segment, 0)]
        if new:
            receive(
                new, now(), store=self.store, db=self.db, queues=self.queues, quiet=timedelta(seconds=10), executor="tests",
                told=partial(told, queues=self.queues, pace=Pace()),
            )  # fmt: skip
        self._positions |= {lies.segment: lies.end for lies, _ in new}

    def rows(self, table: type) -> list[Any]:
        """After filing what is there by now."""
        self.file()
        with self.db() as session:
            return list(session.scalars(select(table)))

    def stored(self) -> set[bytes]:
        """The bytes of all data sets in the store, those of versions too."""
        return {data_set(self.store.read(row.sha256)) for row in [*self.rows(Instance), *self.rows(Version)]}

    def events(self, act: str) -> list[AuditEvent]:
        return [event for event in self.rows(AuditEvent) if event.act == act]

    # Whoever comes

    def scanner(self, **request: Any) -> "Scanner":
        """One that is associated."""
        scanner = Scanner(self.port)
        answer = scanner.associate(**request)
        assert answer.kind == AC, f"expected an A-ASSOCIATE-AC, not a PDU of type {answer.kind}"
        return scanner

    def is_empty(self) -> bool:
        """Nobody is in, and nobody is counted."""
        return not self.listener._open and not self.limits._half_open and not self.limits._open(0)

    def takes(self, ds: Dataset) -> bool:
        """All slots are free again, and a good instance over a new association is kept, with nothing besides."""
        wait(self.is_empty)
        with self.scanner() as scanner:
            status = scanner.store(ds)
            scanner.release()
        wait(self.is_empty)
        return status == 0x0000 and self.held() == {ds.SOPInstanceUID: encoded(ds)}


@contextmanager
def open_gate(folder: Path, database: Path | None = None, **settings: Any) -> Iterator[Gate]:
    gate = Gate(folder, database, **settings)
    try:
        yield gate
    finally:
        gate.close()


def _data(entry: Entry) -> bytes:
    with entry.segment.open("rb") as file:
        file.seek(entry.data_at)
        return file.read(entry.data_size)


# A disk of our own


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """`folder` as a file system of its own; skips the test where that needs rights which we do not have."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
