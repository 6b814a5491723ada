"""Which earlier study a pipeline gets, and what the others are told."""

from datetime import date
from pathlib import Path

import pytest
from pydicom import Dataset

from gateway.fetching.prior import Past, chosen, day
from gateway.pipeline import Needs, Priors
from gateway.store import Store
from gateway.work import load
from gateway.work.load import Earlier
from tests.synthetic import ct_series, part10
from tests.test_run import EQUIPMENT

TODAY = date(2026, 1, 2)


def past(study: str, made_on: date | None, *, series: str = "1", modality: str = "CT", **more: object) -> Past:
    return Past("pacs", study, f"{study}.{series}", made_on, modality, **more)


def told(*found: Past, slices_at_least: int = 20, ours: tuple[str, ...] = (), **wants: object) -> dict[str, str]:
    return {
        one.series_instance_uid: why
        for one, why in chosen(found, TODAY, Priors(**wants), modalities=("CT",), slices_at_least=slices_at_least, ours=ours)
    }


def test_the_newest_study_is_taken_and_each_other_is_told_why_it_is_not():
    found = told(
        past("5", date(2026, 1, 3)),
        past("1", date(2020, 1, 2)),
        past("2", date(2025, 1, 2), body_part="HEAD"),
        past("3", date(2025, 1, 2), modality="MR"),
        past("4", date(2025, 6, 2), series="1", instances=40),
        past("4", date(2025, 6, 2), series="2", instances=200),
        past("4", date(2025, 6, 2), series="3", instances=3),
        past("6", date(2025, 5, 2)),
        past("7", None),
        days=1000,
        body_parts=("CHEST", "THORAX"),
    )

    assert list(found) == ["4.2", *list(found)[1:]]
    assert found == {
        "4.2": "",
        "4.1": "another series of its study has more instances, or comes first",
        "4.3": "it has 3 instances; at least 20 are wanted",
        "6.1": "a newer study was taken",
        "2.1": "expected a body part among CHEST, THORAX",
        "3.1": "expected modality CT",
        "1.1": "it was made 2192 days before; at most 1000 are wanted",
        "5.1": "it is no earlier study",
        "7.1": "its source does not say when it was made",
    }


def test_a_series_that_this_gateway_made_is_no_earlier_study():
    acquired, derived = (
        past("1", date(2025, 1, 2), series="1", instances=40),
        past("1", date(2025, 1, 2), series="2", instances=200),
    )

    assert told(acquired, derived, ours=("1.2",)) == {"1.1": "", "1.2": "this gateway made it"}


def test_of_several_that_are_wanted_each_is_of_another_study_and_a_series_of_two_sources_is_one():
    first, second = past("1", date(2025, 1, 2)), past("2", date(2024, 1, 2))

    found = told(
        first, second, Past("archive", *[first.study_instance_uid, first.series_instance_uid], first.made_on, "CT"), at_most=2
    )

    assert found == {"1.1": "", "2.1": ""}


def test_what_is_no_date_is_none():
    assert [day(text) for text in ("20250102", "2025-01-02", "20251301", "", "2025")] == [
        date(2025, 1, 2),
        None,
        None,
        None,
        None,
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def inputs(store: Store, series: list[Dataset]) -> list[tuple[str, str]]:
    return [(str(one.SOPInstanceUID), store.put([part10(one)]).sha256) for one in series]


@pytest.mark.parametrize(
    ("other", "note"),
    [
        ({}, "prior 1.2, 400 days before, from pacs"),
        ({"PatientID": "SOMEBODY"}, "prior 1.2 left out: expected a prior of the same patient (Patient ID, issuer, birth date)"),
        (
            {"PatientBirthDate": "19400101"},
            "prior 1.2 left out: expected a prior of the same patient (Patient ID, issuer, birth date)",
        ),
        (
            {"IssuerOfPatientID": "ELSEWHERE"},
            "prior 1.2 left out: expected a prior of the same patient (Patient ID, issuer, birth date)",
        ),
        ({"IssuerOfPatientID": None}, "prior 1.2, 400 days before, from pacs"),
        (
            {"ImagePositionPatient": [0, 0, 0]},
            "prior 1.2 left out: expected one image at each slice position; at 0.00 mm there are more",
        ),
        (
            {
                "Manufacturer": EQUIPMENT.manufacturer,
                "ManufacturerModelName": EQUIPMENT.model_name,
                "DeviceSerialNumber": "another",
            },
            "prior 1.2 left out: expected images that no gateway made",
        ),
    ],
)
def test_a_prior_is_a_volume_of_the_same_patient_or_is_left_out_with_its_reason(store, other, note):
    needs = Needs("CT", priors=Priors())
    study, _ = load.load(inputs(store, ct_series(3)), needs, store)

    earlier = [Earlier("1.2", "pacs", 400, inputs(store, ct_series(4, seed=1, **other)))]
    found, notes = load.beside(study, earlier, needs, store, EQUIPMENT)

    assert notes[0] == note
    assert [(prior.volume.spatial_shape, prior.days_before) for prior in found.priors] == [((4, 64, 64), 400)] * (
        "left out" not in note
    )
