"""Receive: what a door promised is filed, indexed once, kept apart or told; on SQLite and on PostgreSQL."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from gateway.errors import NotUnderstood, OutOfResources
from gateway.receive import association_lost, executor_died, positions
from gateway.rows.tables import Association, Instance, Segment, Series, SeriesState, Study, Version
from gateway.rows.trail import AuditEvent
from tests.door_fixture import NOW, Place, parts, scanner
from tests.synthetic import ct_series


def acts(place: Place) -> list[str]:
    with place.db() as session:
        return list(session.scalars(select(AuditEvent.act).order_by(AuditEvent.id)))


def test_an_instance_is_kept_byte_for_byte_and_indexed(place: Place) -> None:
    (ds,) = ct_series(1)
    data, incoming = parts(ds)

    place.take(ds)

    with place.db() as session:
        row = session.scalars(select(Instance)).one()
        study = session.scalars(select(Study)).one()
    kept = place.store.read(row.sha256)
    assert kept.endswith(bytes(data))
    assert row.size == len(kept)
    assert dcmread(BytesIO(kept)).SOPInstanceUID == incoming.sop_instance_uid
    assert (study.patient_name, study.patient_id, study.accession_number) == ("CANARY^NAME", "CANARY-ID", "CANARYACC")


def test_many_instances_of_two_series_are_indexed_in_one_batch(place: Place) -> None:
    first, second = ct_series(5, seed=1), ct_series(4, seed=2)
    origin = scanner()
    for ds in [*first, *second]:
        place.bring(ds, origin)

    place.file()

    assert place.count(Instance, series_instance_uid=first[0].SeriesInstanceUID) == 5
    assert place.count(Instance, series_instance_uid=second[0].SeriesInstanceUID) == 4
    assert place.count(Association) == 1
    assert acts(place) == ["instance.received"] * 9


def test_the_same_bytes_again_make_nothing_new(place: Place) -> None:
    (ds,) = ct_series(1)
    place.take(ds)

    place.bring(ds)
    place.bring(ds)
    place.file()

    assert place.count(Instance) == 1
    assert acts(place) == ["instance.received", "instance.repeated", "instance.repeated"]


def test_the_same_bytes_twice_in_one_batch_are_one_instance(place: Place) -> None:
    (ds,) = ct_series(1)
    place.bring(ds)
    place.bring(ds)

    place.file()

    assert place.count(Instance) == 1
    assert acts(place) == ["instance.received", "instance.repeated"]


def test_what_was_filed_is_not_filed_again_after_a_crash(place: Place) -> None:
    for ds in ct_series(3):
        place.bring(ds)
    place.file(again=True)
    place.positions = positions(db=place.db)

    place.file()

    assert acts(place) == ["instance.received"] * 3
    assert place.count(Segment) == 3


def test_other_bytes_under_the_same_uid_are_kept_apart_as_a_version(place: Place) -> None:
    first, second = ct_series(1)[0], ct_series(1)[0]
    second.SeriesDescription = "changed"
    place.bring(first)
    place.bring(second)

    place.file()

    with place.db() as session:
        held = session.scalars(select(Instance)).one()
        version = session.scalars(select(Version)).one()
        alert = session.scalars(select(AuditEvent).where(AuditEvent.act == "instance.version")).one()
    assert held.sha256 != version.sha256
    assert hashlib.sha256(place.store.path(version.sha256).read_bytes()).hexdigest() == version.sha256
    assert "other bytes" in version.reason
    assert alert.outcome == 4


def test_a_series_of_another_study_is_kept_apart_and_touches_neither_study(place: Place) -> None:
    first, second = ct_series(2)
    second.StudyInstanceUID = "1.2.3.4"
    place.take(first)
    before = place.now

    place.now += timedelta(hours=1)
    place.take(second)

    with place.db() as session:
        version = session.scalars(select(Version)).one()
        series = session.scalars(select(Series)).one()
    assert (version.sop_instance_uid, version.reason) == (second.SOPInstanceUID, "its series belongs to another study")
    assert place.store.check(version.sha256)
    assert place.count(Instance) == 1
    assert series.last_received_at == before
    assert "instance.stray" in acts(place)


def test_a_series_under_another_patient_id_than_its_study_is_kept_and_alarms_once(place: Place) -> None:
    ours, others = ct_series(2, seed=1), ct_series(3, seed=2)
    for ds in others:
        ds.StudyInstanceUID, ds.PatientID = ours[0].StudyInstanceUID, "SOMEBODY-ELSE"
    for ds in ours:
        place.take(ds)
    assert "instance.alarming" not in acts(place)

    for _ in range(2):
        for ds in others:
            place.bring(ds, scanner())
        place.file()

    with place.db() as session:
        (alarm,) = session.scalars(select(AuditEvent).where(AuditEvent.act == "instance.alarming"))
    assert (alarm.study_instance_uid, alarm.series_instance_uid) == (ours[0].StudyInstanceUID, others[0].SeriesInstanceUID)
    assert alarm.outcome == 4
    assert "Patient ID is not the one under which its study is known" in alarm.detail["reason"]
    assert "SOMEBODY-ELSE" not in str(alarm.detail)
    assert place.count(Instance) == 5


def test_a_late_instance_reopens_its_series_as_a_new_revision(place: Place) -> None:
    first, late = ct_series(2)
    place.take(first)
    with place.db.begin() as session:
        session.scalars(select(Series)).one().state = SeriesState.COMPLETE

    place.now += timedelta(hours=2)
    place.take(late)

    with place.db() as session:
        series = session.scalars(select(Series)).one()
    assert (series.state, series.revision) == (SeriesState.RECEIVING, 2)


def test_a_repeated_instance_or_a_version_does_not_reopen_its_series(place: Place) -> None:
    (ds,) = ct_series(1)
    place.take(ds)
    with place.db.begin() as session:
        session.scalars(select(Series)).one().state = SeriesState.COMPLETE

    place.now += timedelta(days=7)
    place.take(ds)
    ds.SeriesDescription = "changed"
    place.take(ds)

    assert place.count(Series, state=SeriesState.COMPLETE, revision=1) == 1


def test_a_series_is_as_young_as_its_last_instance(place: Place) -> None:
    first, second = ct_series(2)
    place.take(first)

    place.now += timedelta(seconds=7)
    place.take(second)

    with place.db() as session:
        series = session.scalars(select(Series)).one()
    assert (series.first_received_at, series.last_received_at) == (NOW, place.now)


def test_an_association_ends_with_its_last_instance_in_one_batch(place: Place) -> None:
    (ds,) = ct_series(1)
    origin = scanner()
    place.bring(ds, origin)
    place.door.end(origin)

    place.file()

    assert place.count(Association, id=origin.association, ended_at=NOW) == 1


@pytest.mark.parametrize(("ingest", "broken"), [("dimse", True), ("dicomweb", True), ("folder", False)])
@pytest.mark.parametrize("end", ["association", "executor"])
def test_an_association_may_be_lost_by_name_or_with_its_process(place: Place, end: str, ingest: str, broken: bool) -> None:
    (ds,) = ct_series(1)
    origin = replace(scanner(), ingest=ingest)
    place.take(ds, origin)

    for _ in range(2):
        if end == "association":
            association_lost(origin.association, NOW, db=place.db, queues=place.queues, quiet=timedelta(0))
        else:
            executor_died("tests", NOW, db=place.db, queues=place.queues, quiet=timedelta(0))

    assert place.count(Association, ended_at=NOW, broken=broken) == 1


@pytest.mark.parametrize("ingest", ["dimse", "dicomweb"])
def test_an_end_that_is_read_after_its_process_was_found_dead_counts(place: Place, ingest: str) -> None:
    (ds,) = ct_series(1)
    origin = replace(scanner(), ingest=ingest)
    place.take(ds, origin)
    executor_died("tests", NOW, db=place.db, queues=place.queues, quiet=timedelta(0))
    with place.db.begin() as session:  # as settle then does
        session.get_one(Series, ds.SeriesInstanceUID).due_at = NOW + timedelta(hours=1)
    place.now += timedelta(seconds=30)

    place.door.end(origin, whole=True)
    place.file()

    assert place.count(Association, ended_at=place.now, whole=True, broken=False) == 1
    assert place.count(Series, due_at=place.now) == 1


def test_refusals_and_rejections_are_told_in_the_trail(place: Place) -> None:
    origin = scanner()
    place.door.refuse(origin, NotUnderstood("expected a data set"))
    place.door.refuse(origin, OutOfResources("the store's disk is nearly full"))
    place.door.turn_away(origin, "expected a known caller")

    place.file()

    with place.db() as session:
        events = {event.act: event.detail for event in session.scalars(select(AuditEvent))}
    assert events["instance.refused"]["status"] == "0xC000"
    assert events["association.rejected"]["reason"] == "expected a known caller"
    assert len(acts(place)) == 2


def test_bytes_that_the_disk_changed_are_not_indexed_and_the_trail_says_so(place: Place) -> None:
    first, second = ct_series(2)
    origin = scanner()
    place.bring(first, origin)
    place.bring(second, origin)
    (lies, _), _ = place.promised()
    with lies.segment.open("r+b") as file:
        file.seek(lies.data_at + lies.data_size - 1)
        file.write(b"\xff")

    place.file()

    with place.db() as session:
        event = session.scalars(select(AuditEvent).where(AuditEvent.act == "instance.missing")).one()
        held = session.scalars(select(Instance.sop_instance_uid)).all()
    assert (event.sop_instance_uid, event.outcome) == (first.SOPInstanceUID, 8)
    assert held == [second.SOPInstanceUID]


def test_a_database_that_is_away_loses_nothing(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    place.db.kw["bind"].dispose()
    database, elsewhere = tmp_path / "gateway.db", tmp_path / "elsewhere"
    database.rename(elsewhere)
    database.mkdir()
    place.bring(ct_series(1)[0])
    with pytest.raises(Exception, match="unable to open"):
        place.file()

    database.rmdir()
    elsewhere.rename(database)
    place.file()

    assert place.count(Instance) == 1
    place.close()
