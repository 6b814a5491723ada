"""Receive: durable, indexed, answered; repeated, versioned, refused."""

import hashlib
from collections.abc import Iterator
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
from gateway.engine import Queues
from gateway.errors import InvalidUid, Mismatch, NotUnderstood, OutOfResources
from gateway.instance import Incoming, Origin
from gateway.receive import Receipt, receive
from gateway.store import Store
from gateway.tables import AuditEvent, Instance, Series, SeriesState, Study, Version
from tests.synthetic import ct_series, part10

NOW = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)


class Place:
    """A store and a database, and the door to them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.db = open_database(url)
        app.upgrade(url, self.db)
        self.store, self.queues = Store(folder / "store"), Queues(url)
        self.receive = partial(
            receive, store=self.store, db=self.db, queues=self.queues, quiet=timedelta(seconds=10), executor="tests"
        )

    def count(self, table: type, **where: object) -> int:
        with self.db() as session:
            return session.scalar(select(func.count()).select_from(table).filter_by(**where))

    def close(self) -> None:
        self.queues.close()
        self.db.kw["bind"].dispose()


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    place = Place(database_url, tmp_path)
    yield place
    place.close()


def incoming(ds: Dataset, **changes: object) -> Incoming:
    """`ds` as it comes through the door: its data set without file meta."""
    whole = part10(ds)
    offset = 132 + 12 + dcmread(BytesIO(whole), stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    values = {
        "sop_class_uid": ds.SOPClassUID,
        "sop_instance_uid": ds.SOPInstanceUID,
        "transfer_syntax_uid": ds.file_meta.TransferSyntaxUID,
        "data": memoryview(whole)[offset:],
        "origin": Origin("dimse", str(uuid4()), "CT1", "AIGATEWAY", "127.0.0.1"),
    }
    return Incoming(**(values | changes))


def test_an_instance_is_kept_byte_for_byte_and_indexed(place: Place) -> None:
    came = incoming(ct_series(1)[0])

    assert place.receive(came, NOW) is Receipt.NEW

    with place.db() as session:
        row = session.scalars(select(Instance)).one()
        study = session.scalars(select(Study)).one()
    kept = place.store.read(row.sha256)
    assert kept.endswith(bytes(came.data))
    assert dcmread(BytesIO(kept)).SOPInstanceUID == came.sop_instance_uid
    assert (study.patient_name, study.patient_id, study.accession_number) == ("CANARY^NAME", "CANARY-ID", "CANARYACC")


def test_the_same_bytes_again_are_acknowledged_and_make_nothing_new(place: Place) -> None:
    came = incoming(ct_series(1)[0])
    place.receive(came, NOW)

    assert place.receive(came, NOW) is Receipt.REPEATED

    assert place.count(Instance) == 1
    assert place.count(AuditEvent, act="instance.repeated") == 1


def test_other_bytes_under_the_same_uid_are_kept_apart_as_a_version(place: Place) -> None:
    first, second = ct_series(1)[0], ct_series(1)[0]
    second.SeriesDescription = "changed"
    place.receive(incoming(first), NOW)

    assert place.receive(incoming(second), NOW) is Receipt.VERSION

    with place.db() as session:
        held = session.scalars(select(Instance)).one()
        version = session.scalars(select(Version)).one()
    assert held.sha256 != version.sha256
    assert hashlib.sha256(place.store.path(version.sha256).read_bytes()).hexdigest() == version.sha256


def test_a_late_instance_reopens_its_series_as_a_new_revision(place: Place) -> None:
    first, late = ct_series(2)
    place.receive(incoming(first), NOW)
    with place.db.begin() as session:
        session.scalars(select(Series)).one().state = SeriesState.COMPLETE

    place.receive(incoming(late), NOW + timedelta(hours=2))

    with place.db() as session:
        series = session.scalars(select(Series)).one()
    assert (series.state, series.revision) == (SeriesState.RECEIVING, 2)


def test_a_repeated_instance_does_not_reopen_its_series(place: Place) -> None:
    came = incoming(ct_series(1)[0])
    place.receive(came, NOW)
    with place.db.begin() as session:
        session.scalars(select(Series)).one().state = SeriesState.COMPLETE

    place.receive(came, NOW + timedelta(days=7))

    assert place.count(Series, state=SeriesState.COMPLETE, revision=1) == 1


@pytest.mark.parametrize(
    ("changes", "error", "status"),
    [
        ({"sop_instance_uid": "1.2.3"}, InvalidUid, 0x0117),
        ({"sop_instance_uid": "../../etc/passwd"}, InvalidUid, 0x0117),
        ({"sop_instance_uid": "1.02.3"}, InvalidUid, 0x0117),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, Mismatch, 0xA900),
        ({"data": memoryview(b"")}, NotUnderstood, 0xC000),
        ({"data": memoryview(bytes(range(256)) * 8)}, NotUnderstood, 0xC000),
    ],
)
def test_what_is_not_the_instance_of_the_request_is_refused_and_nothing_is_kept(place, changes, error, status) -> None:
    with pytest.raises(error) as refused:
        place.receive(incoming(ct_series(1)[0], **changes), NOW)

    assert refused.value.dimse_status == status
    assert place.count(Instance) == 0
    assert place.count(AuditEvent, act="instance.refused") == 1
    assert place.receive(incoming(ct_series(1)[0]), NOW) is Receipt.NEW


def test_a_truncated_data_set_is_refused(place: Place) -> None:
    whole = incoming(ct_series(1)[0])

    for end in (100, len(whole.data) // 2, len(whole.data) - 1):
        with pytest.raises(NotUnderstood):
            place.receive(incoming(ct_series(1)[0], data=whole.data[:end]), NOW)

    assert not list((place.store.path("00").parent.parent).rglob("*.dcm"))


def test_a_series_of_another_study_is_refused_and_its_file_removed(place: Place) -> None:
    first, second = ct_series(2)
    second.StudyInstanceUID = "1.2.3.4"
    place.receive(incoming(first), NOW)

    with pytest.raises(NotUnderstood):
        place.receive(incoming(second), NOW)

    assert place.count(Instance) == 1
    assert len(list(place.store.path("00").parent.parent.rglob("*.dcm"))) == 1


def test_a_full_disk_is_answered_a700(place: Place, tmp_path: Path) -> None:
    full = Store(tmp_path / "full", keep_free_bytes=2**62)

    with pytest.raises(OutOfResources) as refused:
        receive(
            incoming(ct_series(1)[0]), NOW, store=full, db=place.db, queues=place.queues, quiet=timedelta(0), executor="tests"
        )

    assert refused.value.dimse_status == 0xA700


def test_a_store_that_cannot_be_written_is_answered_a700(place: Place, tmp_path: Path) -> None:
    gone = Store(tmp_path / "gone")
    (tmp_path / "gone" / "incoming").rmdir()

    with pytest.raises(OutOfResources):
        receive(
            incoming(ct_series(1)[0]), NOW, store=gone, db=place.db, queues=place.queues, quiet=timedelta(0), executor="tests"
        )


def test_a_database_that_is_away_is_answered_a700(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    place.db.kw["bind"].dispose()
    (tmp_path / "gateway.db").rename(tmp_path / "elsewhere")
    (tmp_path / "gateway.db").mkdir()

    with pytest.raises(OutOfResources):
        place.receive(incoming(ct_series(1)[0]), NOW)

    place.close()
