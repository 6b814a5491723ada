"""Volumes of a series, and which of them a pipeline gets (issue 5.2)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import generate_uid

from gateway.decisions.choose import LARGEST, ONLY, choose
from gateway.decisions.facts import facts
from gateway.errors import Unsuitable
from gateway.imaging.split import parts
from gateway.outputs import Equipment
from tests.synthetic import ct_series

OURS = Equipment("Gateway", "Gateway", "1", "1")


def pixels_of(header: Dataset) -> bytes:
    return header.PixelData


def several(*changes: dict[str, object], slices: int = 4) -> list[Dataset]:
    """So many volumes in one series, their images mixed, numbered in the order of the volumes."""
    images = [ds for overrides in changes for ds in ct_series(slices, **overrides)]
    for number, ds in enumerate(images):
        ds.InstanceNumber, ds.SOPInstanceUID = number + 1, generate_uid(entropy_srcs=[str(number)])
    return random.Random(1).sample(images, len(images))


def names(headers: list[Dataset]) -> set[str]:
    return {", ".join(f"{keyword} {value}" for keyword, value in part.name.items()) for part in parts(headers)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}], {""}),
        ([{"EchoTime": 20}, {"EchoTime": 40}], {"EchoTime 20.0", "EchoTime 40.0"}),
        ([{"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}], {"DiffusionBValue 0.0", "DiffusionBValue 1000.0"}),
        ([{"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}], {"TemporalPositionIdentifier 1", "TemporalPositionIdentifier 2"}),
        ([{"TriggerTime": 0}, {"TriggerTime": 90}], {"TriggerTime 0.0", "TriggerTime 90.0"}),
        ([{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}], {"AcquisitionNumber 1", "AcquisitionNumber 2"}),
        ([{"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}], {"ConvolutionKernel B30f", "ConvolutionKernel B70f"}),
        ([{}, {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}], {"ImageType ORIGINAL\\PRIMARY\\AXIAL", "ImageType DERIVED\\SECONDARY\\MPR"}),
        ([{}, {}], {"InstanceNumber 1 to 4", "InstanceNumber 5 to 8"}),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_volumes_are_told_apart_and_named_by_what_differs(changes, expected):
    series = several(*changes)

    assert names(series) == expected
    assert all(len(part.headers) == 4 for part in parts(series))


def test_two_attributes_may_be_needed_to_tell_volumes_apart():
    series = several(*({"TemporalPositionIndex": time, "AcquisitionNumber": phase} for time in (1, 2) for phase in (1, 2)))

    assert {len(part.headers) for part in parts(series)} == {4}
    assert len(parts(series)) == 4


def test_acquisition_numbers_within_one_volume_do_not_split_it():
    series = ct_series(6)
    for n, ds in enumerate(series):
        ds.AcquisitionNumber = n

    assert len(parts(series)) == 1


def acquisitions(offset_mm: float, **overrides: object) -> list[Dataset]:
    """Two of four slices every 2.5 mm, the second as much higher; another breath."""
    series = several({"AcquisitionNumber": 1, **overrides}, {"AcquisitionNumber": 2, **overrides})
    for ds in series:
        if ds.AcquisitionNumber == 2:
            ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + offset_mm]
    return series


def test_ct_acquisitions_that_lie_between_each_others_slices_are_volumes_of_their_own():
    series = acquisitions(1.25)

    assert names(series) == {"AcquisitionNumber 1", "AcquisitionNumber 2"}
    with pytest.raises(Unsuitable, match="expected one volume in the series; there are 2") as refused:
        choose(series, ONLY, pixels_of)
    assert refused.value.code == "VOLUMES"
    assert {ds.AcquisitionNumber for ds in choose(series, {"AcquisitionNumber": 2}, pixels_of).headers} == {2}


@pytest.mark.parametrize(
    "series",
    [acquisitions(10), acquisitions(1.25, Modality="MR")],
    ids=["they continue one another", "magnetic resonance"],
)
def test_acquisitions_of_one_volume_stay_together(series):
    assert len(parts(series)) == 1


def test_images_that_nothing_tells_apart_stay_together_and_are_refused():
    series = several({}, {})
    for ds in series:
        ds.InstanceNumber = 1

    assert len(parts(series)) == 1


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)), kept=st.integers(1, 12))
def test_the_order_of_arrival_changes_no_volume(order, kept):
    series = several({"EchoTime": 20}, {"EchoTime": 40}, {"EchoTime": 60})

    def uids(headers: list[Dataset]) -> set[frozenset[str]]:
        return {frozenset(ds.SOPInstanceUID for ds in part.headers) for part in parts(headers)}

    assert uids([series[n] for n in order[:kept]]) == uids([series[n] for n in sorted(order[:kept])])


def test_several_volumes_are_refused_by_name_where_the_pipeline_does_not_say_which():
    with pytest.raises(
        Unsuitable, match=r"one volume in the series; there are 2: 4 images of EchoTime .*; 4 images of EchoTime"
    ) as refused:
        choose(several({"EchoTime": 20}, {"EchoTime": 40}), ONLY, pixels_of)

    assert refused.value.code == "VOLUMES"


def test_the_volume_that_the_pipeline_names_is_taken_and_the_others_are_noted():
    chosen = choose(several({"EchoTime": 20}, {"EchoTime": 40}), {"EchoTime": 40}, pixels_of)

    assert {float(ds.EchoTime) for ds in chosen.headers} == {40.0}
    assert chosen.notes == ("took 4 images of EchoTime 40.0; left out 4 images of EchoTime 20.0",)


@pytest.mark.parametrize("which", [{"EchoTime": 30}, {"Modality": "CT"}, LARGEST])
def test_none_or_two_of_a_kind_are_never_a_guess(which):
    with pytest.raises(Unsuitable):
        choose(several({"EchoTime": 20}, {"EchoTime": 40}), which, pixels_of)


def test_the_largest_regular_volume_is_taken():
    small = ct_series(3, ImageType=["DERIVED", "SECONDARY", "MPR"])
    large = ct_series(5)

    chosen = choose([*small, *large], LARGEST, pixels_of)

    assert len(chosen.headers) == 5


def test_a_copy_of_an_image_is_left_out_with_a_note_and_another_image_there_is_not():
    series = ct_series(5)
    copy = ct_series(5)[2]
    copy.SOPInstanceUID = generate_uid()

    chosen = choose([*series, copy], ONLY, pixels_of)
    assert (len(chosen.headers), chosen.notes) == (5, ("1 copy of images left out: the same pixels at the same position",))

    copy.PixelData = bytes(len(copy.PixelData))
    assert len(choose([*series, copy], ONLY, pixels_of).headers) == 6


def test_two_patients_in_one_series_are_refused_before_a_volume_is_chosen():
    series = several({"EchoTime": 20}, {"EchoTime": 40, "PatientID": "OTHER"})

    with pytest.raises(Unsuitable) as refused:
        choose(series, {"EchoTime": 20}, pixels_of)

    assert refused.value.code == "IDENTITY"


def test_rules_see_the_volumes():
    known = facts(
        several({"EchoTime": 20}, {"EchoTime": 40}), equipment=OURS, calling_ae_title="", called_ae_title="", ingest="dimse"
    )

    assert {name: known[name] for name in ("volumes", "regular_volumes", "volume_slices", "volume_spacing_mm", "regular", "slices")} == {
        "volumes": 2, "regular_volumes": 2, "volume_slices": 4, "volume_spacing_mm": 2.5, "regular": False, "slices": 8,
    }  # fmt: skip
