"""A door over a folder, and what it promised: filed and indexed as the doorman would."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import func, select

from gateway import app
from gateway.db import open_database
from gateway.dicom.instance import Incoming, Origin
from gateway.doors.door import Door
from gateway.doors.entry import promise
from gateway.doors.journal import entries, segments
from gateway.engine import Queues
from gateway.prove import told
from gateway.receive import Found, receive
from gateway.store import Store
from gateway.work.delivery import Pace
from tests.synthetic import part10

NOW = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)


class Place:
    """A store, a database, and a door in front of them; `now` is the clock of all."""

    def __init__(self, url: str, folder: Path, *, keep_free_bytes: int = 0) -> None:
        self.db = open_database(url)
        app.upgrade(url, self.db)
        self.store, self.queues, self.now = Store(folder / "store"), Queues(url), NOW
        self.folder = self.store.incoming / "door"
        self.folder.mkdir()
        self.door = Door(self.folder, clock=lambda: self.now, keep_free_bytes=keep_free_bytes)
        self.positions: dict[str, int] = {}

    def bring(self, ds: Dataset, origin: Origin | None = None, **changes: object) -> None:
        """`ds` through the door; `changes` are fields of Incoming, and `data`."""
        data, incoming = parts(ds, **changes)
        origin = origin or scanner()
        with self.door.open(incoming, origin, maximum_bytes=2**31) as arrival:
            arrival.write(data)
            arrival.keep()

    def promised(self) -> list[Found]:
        return [
            (lies, promise(lies.record))
            for segment in segments(self.folder)
            for lies in entries(segment, self.positions.get(segment.stem, 0))
        ]

    def file(self, *, again: bool = False) -> None:
        """Receive what was promised; `again`: and forget that it was, as a gateway that is killed then does."""
        found = self.promised()
        if found:
            receive(
                found, self.now, store=self.store, db=self.db, queues=self.queues, quiet=timedelta(seconds=10), executor="tests",
                told=partial(told, queues=self.queues, pace=Pace()),
            )  # fmt: skip
        if not again:
            self.positions |= {lies.segment.stem: lies.end for lies, _ in found}

    def take(self, ds: Dataset, origin: Origin | None = None, **changes: object) -> None:
        self.bring(ds, origin, **changes)
        self.file()

    def count(self, table: type, **where: object) -> int:
        with self.db() as session:
            return session.scalar(select(func.count()).select_from(table).filter_by(**where))

    def close(self) -> None:
        self.door.close()
        self.queues.close()
        self.db.kw["bind"].dispose()


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    place = Place(database_url, tmp_path)
    yield place
    place.close()


def come(place: Place, series: Iterable[Dataset], origin: Origin | None = None) -> None:
    """Over one association, which ends; and filed."""
    origin = origin or scanner()
    for ds in series:
        place.bring(ds, origin)
    place.door.end(origin)
    place.file()


def scanner(association: str = "") -> Origin:
    return Origin("dimse", association or str(uuid4()), "CT1", "AIGATEWAY", "127.0.0.1")


def parts(ds: Dataset, **changes: object) -> tuple[bytes | memoryview, Incoming]:
    """The data set of `ds` without file meta, and what a request for it names."""
    whole = part10(ds)
    offset = 132 + 12 + dcmread(BytesIO(whole), stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    values = {
        "sop_class_uid": ds.SOPClassUID,
        "sop_instance_uid": ds.SOPInstanceUID,
        "transfer_syntax_uid": ds.file_meta.TransferSyntaxUID,
        "data": memoryview(whole)[offset:],
    } | changes
    data = values.pop("data")
    return data, Incoming(**{name: str(value) for name, value in values.items()})
