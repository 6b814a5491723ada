"""The frames of a segmentation and its file are those that highdicom and pydicom would make; only sooner."""

from copy import deepcopy
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from gateway.conformance import problems
from gateway.dicom.header import clean
from gateway.dicom.part10 import part10
from gateway.imaging.volume import arrange, volume
from gateway.outputs import Encoding
from gateway.outputs.seg import Segment, Segmentation, frame_segments, segment_voxels
from tests import synthetic
from tests.results_fixture import by_highdicom, encoding, lung_job
from tests.synthetic import ct_series

FRAMES = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DimensionIndexSequence")
TOLD = ("NumberOfFrames", "DimensionOrganizationType", "SegmentsOverlap", "Rows", "Columns")


def read(file: bytes) -> Dataset:
    return dcmread(BytesIO(file))


def boxes(shape: tuple[int, ...], count: int, *, seed: int = 1) -> np.ndarray:
    """(slices, rows, columns) uint8, as many boxes, which may hide each other; some end at the last pixel of a plane."""
    drawn, labels = np.random.default_rng(seed), np.zeros(shape, np.uint8)
    for number in range(1, count + 1):
        low = [int(drawn.integers(0, side)) for side in shape]
        high = [
            side if drawn.random() < 0.3 else int(drawn.integers(start, side)) + 1 for start, side in zip(low, shape, strict=True)
        ]
        labels[tuple(slice(start, end) for start, end in zip(low, high, strict=True))] = number
    return labels


def job_of(instances: list[Dataset], labels_of=boxes, count: int = 5) -> Encoding:
    stack = arrange(instances)
    empty = volume(stack, (np.zeros((one.Rows, one.Columns)) for one in stack.headers))
    labels = labels_of(empty.array.shape, count)
    segments = tuple(
        Segment(f"Part {n}", codes.SCT.Organ, codes.SCT.Lung, codes.SCT.Lung if n % 2 else None, codes.SCT.Left, (n, 9, 99))
        for n in range(count)
    )
    source = [clean(one)[0] for one in stack.headers]
    for one in source:
        one.pop("PixelData", None)
    return encoding(source, (Segmentation(empty.with_array(labels), segments, "PARTS", "Parts"),))


def upside_down(instances: list[Dataset]) -> list[Dataset]:
    """The patient lies on the belly, feet first."""
    for one in instances:
        x, y, z = map(float, one.ImagePositionPatient)
        one.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [-x, y, -z]
    return instances


def coronal(instances: list[Dataset]) -> list[Dataset]:
    for number, one in enumerate(instances):
        one.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        one.ImagePositionPatient = [-12.5, 7.25 + 1.3 * number, 100]
    return instances


@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize(
    "instances",
    [ct_series(12, 64, 64), ct_series(7, 17, 13, 0.6), upside_down(ct_series(9, 16, 24)), coronal(ct_series(9, 16, 24))],
    ids=["axial", "odd size, positions of too many digits", "upside down", "coronal"],
)
def test_frames_are_those_that_highdicom_makes(instances, count):
    job = job_of(deepcopy(instances), count=count)

    made, expected = read(part10(job.dataset(job.outputs[0]))), read(synthetic.part10(by_highdicom(job)))
    for ours, theirs in zip(made.DimensionIndexSequence, expected.DimensionIndexSequence, strict=True):
        theirs.DimensionOrganizationUID = ours.DimensionOrganizationUID  # drawn, and derived here

    assert [made.get(keyword) for keyword in TOLD] == [expected.get(keyword) for keyword in TOLD]
    for keyword in FRAMES:
        assert made[keyword] == expected[keyword], keyword
    assert bytes(made.PixelData).rstrip(b"\0") == bytes(expected.PixelData).rstrip(b"0").rstrip(b"\0")
    assert problems([made], encoding=job) == []


def test_labels_lie_on_a_source_whose_directions_have_few_digits():
    instances = ct_series(9, 512, 512, ImageOrientationPatient=[0.999, 0.035, 0, -0.035, 0.999, 0.001])
    for number, one in enumerate(instances):
        one.ImagePositionPatient = [0, -0.001 * number, 0.999 * number]

    job = job_of(instances)

    assert problems([job.dataset(job.outputs[0])], encoding=job) == []


def test_one_segment_with_a_gap_is_no_volume():
    def gap(shape: tuple[int, ...], _: int) -> np.ndarray:
        labels = np.zeros(shape, np.uint8)
        labels[[1, 2, 3, 6], 2:5, 2:5] = 1
        return labels

    job = job_of(ct_series(9, 16, 24), gap, 1)

    made, expected = read(part10(job.dataset(job.outputs[0]))), read(synthetic.part10(by_highdicom(job)))

    assert "DimensionOrganizationType" not in made
    assert "DimensionOrganizationType" not in expected
    assert made.PerFrameFunctionalGroupsSequence == expected.PerFrameFunctionalGroupsSequence


def test_a_reader_finds_every_voxel_of_a_whole_body_again():
    job = job_of(ct_series(20, 40, 30), count=104)
    labels = job.outputs[0].labels.array

    found = hd.seg.segread(BytesIO(part10(job.dataset(job.outputs[0]))))
    uids = [one.SOPInstanceUID for one in job.source]

    back = found.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(back, labels)
    assert segment_voxels(found) == {n: int((labels == n).sum()) for n in set(labels.ravel().tolist()) - {0}}
    assert frame_segments(found) == sorted(frame_segments(found))


def test_slices_have_the_distance_that_was_measured_whatever_their_header_says():
    instances = ct_series(6, 16, 16, SpacingBetweenSlices=9)

    job = job_of(instances)

    measured = job.outputs[0].labels.spacing[0]
    assert measured != 9
    assert (
        float(job.dataset(job.outputs[0]).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices)
        == measured
    )


@pytest.mark.parametrize("thickness", [None, ""])
def test_slices_of_unknown_thickness_are_as_thick_as_they_are_apart(thickness):
    job = job_of(ct_series(6, 16, 16, 1.1, SliceThickness=thickness))

    made = job.dataset(job.outputs[0])

    assert made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == pytest.approx(1.1)
    assert problems([made], encoding=job) == []
    assert all(not one.get("SliceThickness") for one in job.source)


@pytest.mark.parametrize("name", ["Müller^Jörg=山田^太郎", "CANARY"])
def test_a_file_is_what_pydicom_writes(name):
    job = lung_job(7, 17, 13, PatientName=name)

    for output in job.outputs:
        made = job.dataset(output)
        assert part10(made) == synthetic.part10(made)


def test_a_file_of_ambiguous_elements_and_of_items_with_their_own_characters_is_what_pydicom_writes():
    (one,) = ct_series(1, 8, 8)
    one.SpecificCharacterSet = "ISO_IR 100"
    one.PatientName, one.SmallestImagePixelValue = "Müller^Jörg", -5
    item, text = Dataset(), "Больница"
    item.SpecificCharacterSet, item.InstitutionName = "ISO_IR 144", text
    one.ReferencedStudySequence, one.RequestAttributesSequence = [item, Dataset()], []

    file = part10(one)

    assert file == synthetic.part10(one)
    assert read(file).ReferencedStudySequence[0].InstitutionName == text


def test_an_element_that_items_with_other_characters_share_is_encoded_for_each():
    (one,) = ct_series(1, 8, 8)
    cyrillic, greek = Dataset(), Dataset()
    cyrillic.SpecificCharacterSet, greek.SpecificCharacterSet = "ISO_IR 144", "ISO_IR 192"
    cyrillic.InstitutionName = "Больница"
    greek["InstitutionName"] = cyrillic["InstitutionName"]
    one.ReferencedStudySequence = [cyrillic, greek]

    found = read(part10(one))

    assert {item.InstitutionName for item in found.ReferencedStudySequence} == {"Больница"}


def test_group_lengths_are_left_out_as_pydicom_does():
    (one,) = ct_series(1, 8, 8)
    item = Dataset()
    item.add_new(0x00080000, "UL", 99)
    one.ReferencedStudySequence = [item]
    one.add_new(0x00080000, "UL", 99)

    file = part10(one)

    assert file == synthetic.part10(one)
    assert 0x00080000 not in read(file)


@pytest.mark.parametrize("tag", [0x00020010, 0x00000002])
def test_what_is_no_part_of_a_data_set_is_refused(tag):
    (one,) = ct_series(1, 8, 8)
    one.add_new(tag, "UI", "1.2.840.10008.1.2.2")

    with pytest.raises(ValueError, match=r"must be in a FileMetaDataset|Command Set"):
        part10(one)
