"""What is held, as DICOMweb searches it."""

from datetime import timedelta

import pytest
from pydicom import Dataset
from sqlalchemy import select, update

from gateway.db import open_database
from gateway.dicom.query import parse
from gateway.rows.tables import Instance, OutputInstance
from gateway.store import Store
from gateway.views import holdings
from tests.held_fixture import NOW, hold, hold_result
from tests.synthetic import ct_series


@pytest.fixture
def archive(database_url, tmp_path):
    """Two studies: one CT of three slices with a result, one MR of two."""
    db, store = open_database(database_url), Store(tmp_path / "store")
    chest = ct_series(3)
    hold(db, store, chest)
    hold(db, store, ct_series(2, seed=1, Modality="MR", PatientName="Roe^Richard", PatientID="P%2", StudyDate="20250101"))
    hold_result(db, store, result_of(chest[0]), of=chest[0].SeriesInstanceUID)

    def search(level: str, **wanted: str) -> list[Dataset]:
        return holdings.search(db, level, parse(wanted.items()), store.path)

    search.db, search.store = db, store
    yield search
    db.kw["bind"].dispose()


def result_of(source: Dataset) -> Dataset:
    (made,) = ct_series(1, seed=7, Modality="SEG", SeriesDescription="Lungs")
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber", "StudyDate"):
        setattr(made, keyword, source[keyword].value)
    return made


def test_a_study_is_found_with_its_counts_and_the_modalities_of_images_and_results(archive) -> None:
    (study,) = archive("studies", PatientID="CANARY-ID")

    assert study.ModalitiesInStudy == ["CT", "SEG"]
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (2, 4)
    assert (study.StudyDescription, str(study.PatientName)) == ("CT chest", "CANARY^NAME")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, 2),
        ({"PatientName": "roe*"}, 1),
        ({"PatientName": "roe"}, 0),
        ({"PatientID": "P%2"}, 1),
        ({"PatientID": "P_2"}, 0),
        ({"PatientID": "%"}, 0),
        ({"StudyDate": "20260101-"}, 1),
        ({"StudyDate": "-20251231"}, 1),
        ({"ModalitiesInStudy": "SEG"}, 1),
        ({"ModalitiesInStudy": "US"}, 0),
        ({"AccessionNumber": "CANARYACC"}, 2),
        ({"StudyInstanceUID": "1.2.3"}, 0),
        ({"limit": "1"}, 1),
        ({"limit": "5", "offset": "1"}, 1),
        ({"limit": "0"}, 0),
    ],
)
def test_studies_are_narrowed_down(archive, wanted: dict[str, str], expected: int) -> None:
    assert len(archive("studies", **wanted)) == expected


def test_series_of_a_study_are_images_and_results(archive) -> None:
    found = archive("series", PatientID="CANARY-ID")

    assert {(one.Modality, one.NumberOfSeriesRelatedInstances, one.SeriesDescription) for one in found} == {
        ("CT", 3, "Axial"),
        ("SEG", 1, "Lungs"),
    }


def test_an_instance_is_found_by_its_uid(archive) -> None:
    wanted = ct_series(3)[1]

    (found,) = archive("instances", SOPInstanceUID=wanted.SOPInstanceUID)

    assert (found.InstanceNumber, found.SOPClassUID, found.Rows) == (2, wanted.SOPClassUID, 64)


def test_what_retention_took_is_not_found(archive) -> None:
    with archive.db.begin() as session:
        session.execute(update(Instance).values(gone_at=NOW + timedelta(days=1)))

    (study,) = archive("studies")

    assert study.ModalitiesInStudy == "SEG"


def test_a_result_that_came_back_in_is_told_once(archive) -> None:
    (result,) = archive("series", Modality="SEG")
    came_back = result_of(ct_series(3)[0])
    hold(archive.db, archive.store, [came_back])

    (series,) = archive("series", SeriesInstanceUID=result.SeriesInstanceUID)

    assert series.NumberOfSeriesRelatedInstances == 1
    assert len(holdings.held(archive.db, came_back.StudyInstanceUID, instance=came_back.SOPInstanceUID)) == 1


def test_a_result_that_was_retracted_is_not_told_and_its_note_is(archive) -> None:
    with archive.db.begin() as session:
        (result,) = session.scalars(select(OutputInstance)).all()
        note = {column.name: getattr(result, column.name) for column in OutputInstance.__table__.columns}
        note |= {
            "sop_instance_uid": "2.25.9",
            "series_instance_uid": "2.25.8",
            "modality": "KO",
            "retracts": result.sop_instance_uid,
        }
        session.add(OutputInstance(**note))

    found = archive("series", StudyInstanceUID=result.study_instance_uid)

    assert sorted(one.Modality for one in found) == ["CT", "KO"]
    assert holdings.held(archive.db, result.study_instance_uid, instance=result.sop_instance_uid) == []


def test_a_search_that_would_read_too_much_says_so(archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "_READ_AT_MOST", 1)

    with pytest.raises(holdings.Broad, match="name a patient"):
        archive("instances")


def test_an_attribute_that_was_asked_for_is_told(archive) -> None:
    (study,) = archive("studies", PatientID="CANARY-ID", includefield="Manufacturer")

    assert study.Manufacturer == "Synthetic"
