"""Results: what SEG and SR hold, that they repeat, and that the gate sees what is wrong with them."""

from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.conformance import problems
from gateway.errors import BadOutput
from gateway.outputs.seg import Segment, Segmentation, segment_voxels
from gateway.outputs.sr import PRESENT, Group, Measurement, MeasurementReport
from tests.results_fixture import (
    CT,
    LUNG,
    MILLILITRE,
    NOTHING_FOUND,
    SEGMENTS,
    encoded,
    encoding,
    headers,
    lung_job,
    lung_outputs,
    lungs,
    volume,
)
from tests.synthetic import ct_series, part10

FRACTURE = Code("72704001", "SCT", "Fracture")


@pytest.fixture(scope="module")
def job():
    return lung_job()


@pytest.fixture
def seg(job):
    return deepcopy(job.dataset(job.outputs[0]))


@pytest.fixture
def sr(job):
    return deepcopy(job.dataset(job.outputs[1]))


def items(report: Dataset, code: str) -> list[Dataset]:
    """Content items of this concept name anywhere in the report."""
    found = []
    for item in report.get("ContentSequence", []):
        found += [item] if item.ConceptNameCodeSequence[0].CodeValue == code else []
        found += items(item, code)
    return found


def test_same_job_gives_the_same_bytes(job):
    again = lung_job()

    assert [part10(made) for made in encoded(job)] == [part10(made) for made in encoded(again)]


def test_another_job_key_gives_other_uids(job):
    other = lung_job(key="another job key")

    for one, two in zip(encoded(job), encoded(other), strict=True):
        assert {one.SOPInstanceUID, one.SeriesInstanceUID}.isdisjoint({two.SOPInstanceUID, two.SeriesInstanceUID})


def test_reading_and_writing_again_changes_nothing(job):
    for made in encoded(job):
        data = part10(made)
        read = dcmread(BytesIO(data))
        read.walk(lambda _, element: element.value)
        assert part10(read) == data


def test_encoding_leaves_the_source_as_it_was():
    source = headers(ct_series())
    before = [part10(instance) for instance in source]

    encoded(encoding(source, lung_outputs(source, lungs(source))))

    assert [part10(instance) for instance in source] == before


def test_gate_has_nothing_to_say_about_good_results(job):
    assert problems(encoded(job), encoding=job) == []


def test_gate_has_nothing_to_say_about_nothing_found():
    job = encoding(headers(ct_series()), (NOTHING_FOUND,))

    assert problems(encoded(job), encoding=job) == []


@pytest.mark.parametrize(("rows", "columns"), [(17, 13), (9, 11), (16, 16), (64, 48)])
def test_frames_of_any_size_keep_their_voxels(rows, columns):
    job = lung_job(5, rows, columns)
    segmentation, _ = job.outputs

    counted = segment_voxels(job.dataset(segmentation))

    assert counted == {n: int((segmentation.labels.array == n).sum()) for n in (1, 2)}
    assert len(job.dataset(segmentation).PixelData) % 2 == 0
    assert problems(encoded(job), encoding=job) == []


def test_pixel_data_of_odd_length_is_padded_with_null():
    job = lung_job(4, 17, 13)

    made = job.dataset(job.outputs[0])

    assert -(-made.NumberOfFrames * 17 * 13 // 8) % 2 == 1
    assert made.PixelData[-1] == 0


def test_frames_lie_on_the_positions_of_their_source(job, seg):
    positions = {instance.SOPInstanceUID: instance.ImagePositionPatient for instance in job.source}

    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert frame.PlanePositionSequence[0].ImagePositionPatient == positions[image.ReferencedSOPInstanceUID]


def test_frames_of_empty_planes_are_left_out(seg):
    assert seg.NumberOfFrames == 11 + 9


def test_segment_says_what_it_is(seg):
    left = seg.SegmentSequence[0]

    assert left.SegmentLabel == "Left lung"
    assert left.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    assert left.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2.0"
    assert seg.SegmentsOverlap == "NO"


def test_dimension_organization_is_derived_and_the_same_everywhere(job, seg):
    expected = job.uid(job.outputs[0], "dimension organization")

    assert {item.DimensionOrganizationUID for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence)} == {
        expected
    }


def test_times_are_in_the_zone_of_the_source(seg, sr):
    for made in (seg, sr):
        assert (made.TimezoneOffsetFromUTC, str(made.ContentDate), str(made.ContentTime)) == (
            "+0100",
            "20260103",
            "003015.250000",
        )
        assert (made.SeriesDate, made.SeriesTime) == (made.ContentDate, made.ContentTime)
        assert (str(made.StudyDate), str(made.StudyTime)) == ("20260102", "101112")


def test_times_are_in_the_zone_of_the_caller_where_the_source_tells_none():
    job = lung_job(TimezoneOffsetFromUTC=None)

    made = job.dataset(job.outputs[0])

    assert "TimezoneOffsetFromUTC" not in made
    assert str(made.ContentTime) == "233015.250000"


def test_lossy_source_makes_a_lossy_result():
    source = headers(ct_series())
    source[3].LossyImageCompression = "01"
    source[3].LossyImageCompressionRatio = "12.5"
    source[3].LossyImageCompressionMethod = "ISO_10918_1"
    job = encoding(source, lung_outputs(source, lungs(source)))

    made = job.dataset(job.outputs[0])

    assert (made.LossyImageCompression, made.LossyImageCompressionRatio, made.LossyImageCompressionMethod) == (
        "01",
        12.5,
        "ISO_10918_1",
    )


def test_nobody_can_overlook_that_it_is_not_for_diagnosis(seg, sr):
    assert "Not for diagnosis" in seg.SeriesDescription
    assert "Not for diagnosis" in seg.ContentDescription
    assert "Not for diagnosis" in sr.SeriesDescription
    assert "Not for diagnosis" in items(sr, "121106")[0].TextValue


def test_patient_name_without_caret_is_kept_and_not_printed(recwarn):
    job = lung_job(PatientName="CANARY")

    made = encoded(job)

    assert [str(instance.PatientName) for instance in made] == ["CANARY", "CANARY"]
    assert not [warning for warning in recwarn if "CANARY" in str(warning.message)]


def test_text_outside_ascii_arrives():
    job = lung_job(PatientName="Müller^Jörg=山田^太郎", StudyDescription="Thorax nativ, Läsion")

    read = [dcmread(BytesIO(part10(made))) for made in encoded(job)]

    assert [str(instance.PatientName) for instance in read] == ["Müller^Jörg=山田^太郎"] * 2
    assert [instance.StudyDescription for instance in read] == ["Thorax nativ, Läsion"] * 2


def test_mask_without_a_voxel_is_no_segmentation():
    source = headers(ct_series())
    job = encoding(source, lung_outputs(source, np.zeros_like(lungs(source))))

    with pytest.raises(BadOutput, match="yield a report without segmentation"):
        job.dataset(job.outputs[0])


def test_structure_that_is_missing_stays_a_described_segment():
    source = headers(ct_series())
    labels = lungs(source)
    labels[labels == 2] = 0
    job = encoding(source, lung_outputs(source, labels))

    assert problems(encoded(job), encoding=job) == []
    assert [item.SegmentLabel for item in job.dataset(job.outputs[0]).SegmentSequence] == ["Left lung", "Right lung"]


@pytest.mark.parametrize(
    ("labels_of", "expected"),
    [
        (lambda source, labels: volume(source, labels.astype(np.uint16)), "uint8"),
        (lambda source, labels: volume(source, labels[:-1]), "shape"),
        (lambda source, labels: volume(source[::-1], labels), "planes of the source"),
        (lambda source, labels: volume(source, np.where(labels == 2, 3, labels).astype(np.uint8)), "numbers of the segments"),
    ],
    ids=["type", "shape", "upside down", "segment not described"],
)
def test_labels_off_the_grid_of_the_source_are_refused(labels_of, expected):
    source = headers(ct_series())
    job = encoding(source, (Segmentation(labels_of(source, lungs(source)), SEGMENTS, "LUNGS", "Lungs"),))

    with pytest.raises(BadOutput, match=expected):
        job.dataset(job.outputs[0])


@pytest.mark.parametrize("label", ["Lungs", "LUNGS\\LEFT", "", "LEFT AND RIGHT LUNG"])
def test_a_segmentation_label_that_is_no_code_string_is_refused_in_words(label):
    source = headers(ct_series())
    job = encoding(source, (Segmentation(volume(source, lungs(source)), SEGMENTS, label, "Lungs"),))

    with pytest.raises(BadOutput, match="1 to 16 capitals"):
        job.dataset(job.outputs[0])


@pytest.mark.parametrize("label", ["Left\\lung", "", "x" * 65])
def test_a_segment_label_that_validators_refuse_is_refused_in_words(label):
    source = headers(ct_series())
    segments = (replace(SEGMENTS[0], label=label), SEGMENTS[1])
    job = encoding(source, (Segmentation(volume(source, lungs(source)), segments, "LUNGS", "Lungs"),))

    with pytest.raises(BadOutput, match="1 to 64 characters"):
        job.dataset(job.outputs[0])


@pytest.mark.parametrize(
    "moved",
    [
        lambda grid: grid.permute_spatial_axes([0, 2, 1]),
        lambda grid: grid[:, 1:].pad_to_spatial_shape(grid.spatial_shape),
        lambda grid: hd.Volume(grid.array, grid.affine @ np.diag([1, 0.5, 0.5, 1]), "PATIENT"),
        lambda grid: hd.Volume(grid.array, grid.affine + np.eye(4, k=3) * grid.spacing[2] / 2, "PATIENT"),
    ],
    ids=["transposed", "cropped and padded", "scaled", "shifted by half a pixel"],
)
def test_labels_off_the_pixels_of_the_source_are_refused(moved):
    source = headers(ct_series(spacing_mm=5))
    job = encoding(source, (Segmentation(moved(volume(source, lungs(source))), SEGMENTS, "LUNGS", "Lungs"),))

    with pytest.raises(BadOutput, match="pixels of the source"):
        job.dataset(job.outputs[0])


def test_group_of_one_segment_shares_its_tracking_identifiers(seg, sr):
    uids = [item.UID for item in items(sr, "112040")]

    assert uids[:2] == [item.TrackingUID for item in seg.SegmentSequence]
    assert len(set(uids)) == 3


def test_group_of_several_segments_refers_to_all_of_them(seg, sr):
    both = items(sr, "125007")[2]

    assert both.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    (source,) = items(both, "260753009")
    assert source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
    assert source.ReferencedSOPSequence[0].ReferencedSegmentNumber == [1, 2]


def test_measurements_have_six_significant_digits(sr):
    means = items(items(sr, "125007")[0], "112031")

    assert [item.MeasuredValueSequence[0].NumericValue for item in means] == [-850.123]


def test_private_coding_scheme_is_declared_where_it_is_used(sr):
    silent = encoding(headers(ct_series()), (NOTHING_FOUND,)).dataset(NOTHING_FOUND)

    assert [item.CodingSchemeDesignator for item in sr.CodingSchemeIdentificationSequence] == ["99CAIGW"]
    assert "CodingSchemeIdentificationSequence" not in silent


def test_private_schemes_of_findings_and_segments_are_declared():
    own, source = Code("BONE", "99LAB", "Our bone"), headers(ct_series())
    segmentation = Segmentation(volume(source, lungs(source)), (replace(SEGMENTS[0], type=own), SEGMENTS[1]), "LUNGS", "Lungs")
    report = MeasurementReport(segmentation, (Group("x", (1,), own),), CT, "Lungs")

    made = encoded(encoding(source, (segmentation, report)))

    for one in made:
        assert [item.CodingSchemeDesignator for item in one.CodingSchemeIdentificationSequence] == ["99LAB"]


def test_nothing_found_is_said():
    job = encoding(headers(ct_series()), (NOTHING_FOUND,))

    (evaluation,) = items(job.dataset(NOTHING_FOUND), LUNG.value)

    assert evaluation.ConceptCodeSequence[0].CodeMeaning == "Absent"


@pytest.mark.parametrize("segments", [(1,), (1, 2)])
@pytest.mark.parametrize(("gone", "expected"), [((), "Present"), ((1, 2), "Absent")], ids=["voxels", "no voxels"])
def test_a_group_without_measurements_says_whether_its_segments_are_there(segments, gone, expected):
    source = headers(ct_series())
    labels = lungs(source)
    labels[np.isin(labels, gone)] = 3
    segmentation = Segmentation(volume(source, labels), (*SEGMENTS, replace(SEGMENTS[0], label="Other")), "LUNGS", "Lungs")
    report = MeasurementReport(segmentation, (Group("Lungs", segments, LUNG),), CT, "Lungs")
    job = encoding(source, (segmentation, report))

    (evaluation,) = items(job.dataset(report), LUNG.value)

    assert evaluation.ConceptCodeSequence[0].CodeMeaning == expected
    assert problems(encoded(job), encoding=job) == []


def test_a_classification_says_what_the_pipeline_says():
    report = MeasurementReport(None, (Group("Fracture", (), FRACTURE, evaluation=PRESENT),), CT, "Fracture")
    job = encoding(headers(ct_series()), (report,))

    (evaluation,) = items(job.dataset(report), FRACTURE.value)

    assert (evaluation.ValueType, evaluation.ConceptCodeSequence[0].CodeMeaning) == ("CODE", "Present")
    assert problems(encoded(job), encoding=job) == []


def test_request_of_the_source_is_carried():
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.ScheduledProcedureStepID = "SPS1"
    job = lung_job(RequestAttributesSequence=[request])

    (carried,) = job.dataset(job.outputs[1]).ReferencedRequestSequence

    assert (carried.RequestedProcedureID, carried.AccessionNumber) == ("RP1", "CANARYACC")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((), "at least one group"),
        ((Group("x", (3,), LUNG),), "among the segmentation's"),
        ((Group("x", (1,), LUNG, measurements=(Measurement(codes.SCT.Volume, float("nan"), MILLILITRE),)),), "finite"),
    ],
    ids=["no group", "unknown segment", "not a number"],
)
def test_report_that_cannot_be_is_refused(job, groups, expected):
    segmentation, _ = job.outputs
    report = MeasurementReport(segmentation, groups, CT, "Lungs")

    with pytest.raises(BadOutput, match=expected):
        encoding(job.source, (segmentation, report)).dataset(report)


def set_segment_of_frame(seg, sr):
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def drop_observer(seg, sr):
    sr.ContentSequence = [item for item in sr.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != "121012"]


def set_unit_scheme(seg, sr):
    items(sr, "112031")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodingSchemeDesignator = "99X"


def drop_region(seg, sr):
    group = items(sr, "125007")[0]
    group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "IMAGE"]


def set_relationship(seg, sr):
    items(sr, "121071")[0].RelationshipType = "HAS PROPERTIES"


def refer_to_segment(number):
    def mutate(seg, sr):
        items(sr, "121191")[0].ReferencedSOPSequence[0].ReferencedSegmentNumber = number

    return mutate


def set_volume(seg, sr):
    items(sr, "118565006")[2].MeasuredValueSequence[0].NumericValue = "1.01"


def set_device_uid(seg, sr):
    seg.ContributingEquipmentSequence[-2].DeviceUID = "1.2.3"


def set_algorithm(seg, sr):
    items(sr, "111003")[1].TextValue = "9"


MUTATIONS = {
    "no property type": (lambda seg, sr: delattr(seg.SegmentSequence[0], "SegmentedPropertyTypeCodeSequence"), "PropertyType"),
    "no SoftwareVersions": (lambda seg, sr: delattr(seg, "SoftwareVersions"), "SoftwareVersions"),
    "per-frame item short": (lambda seg, sr: seg.PerFrameFunctionalGroupsSequence.pop(), "each frame"),
    "pixel data short": (lambda seg, sr: setattr(seg, "PixelData", seg.PixelData[:-100]), "Pixel Data"),
    "frame in segment 9": (set_segment_of_frame, "described segment"),
    "no Referenced Series": (lambda seg, sr: delattr(seg, "ReferencedSeriesSequence"), "Referenced Series"),
    "bad UID": (lambda seg, sr: setattr(seg, "FrameOfReferenceUID", "1.2.03.4"), "FrameOfReferenceUID"),
    "no tracking": (lambda seg, sr: delattr(seg.SegmentSequence[1], "TrackingUID"), "TrackingUID"),
    "other algorithm equipment": (set_device_uid, "Processing Equipment"),
    "other patient": (lambda seg, sr: setattr(seg, "PatientID", "OTHER"), "PatientID"),
    "other study": (lambda seg, sr: setattr(sr, "StudyInstanceUID", "1.2.3"), "StudyInstanceUID"),
    "low series number": (lambda seg, sr: setattr(seg, "SeriesNumber", 2), "Series Number"),
    "other UID": (lambda seg, sr: setattr(sr, "SOPInstanceUID", "1.2.3"), "derived"),
    "no character set": (lambda seg, sr: delattr(sr, "SpecificCharacterSet"), "Character Set"),
    "private element": (lambda seg, sr: seg.private_block(0x0011, "US", create=True).add_new(1, "LO", "x"), "private"),
    "bad date": (lambda seg, sr: sr["ContentTime"].__setattr__("value", "256199"), "ContentTime"),
    "final": (lambda seg, sr: setattr(sr, "PreliminaryFlag", "FINAL"), "PRELIMINARY"),
    "verified": (lambda seg, sr: setattr(sr, "VerificationFlag", "VERIFIED"), "UNVERIFIED"),
    "no observer": (drop_observer, "Device Observer UID"),
    "unit not UCUM": (set_unit_scheme, "UCUM"),
    "group without region": (drop_region, "referenced segment"),
    "no evidence": (lambda seg, sr: delattr(sr, "CurrentRequestedProcedureEvidenceSequence"), "evidence"),
    "wrong relationship": (set_relationship, "relationship"),
    "segment that is not there": (refer_to_segment(9), "segments of a segmentation"),
    "segment of another group": (refer_to_segment(2), "tracking identifiers"),
    "volume not of the mask": (set_volume, "volume"),
    "other algorithm": (set_algorithm, "algorithm"),
    "no content": (lambda seg, sr: delattr(sr, "ContentSequence"), "all attributes"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # pydicom, on the value that the test wants
def test_gate_notices(mutation, job, seg, sr):
    mutate, expected = MUTATIONS[mutation]
    mutate(seg, sr)

    found = problems([seg, sr], encoding=job)

    assert any(expected in problem for problem in found), found
    assert not any("CANARY" in problem or "OTHER" in problem for problem in found)


@pytest.mark.parametrize("value", ["10624951000119103", "urn:oid:1.2.840.10008.2.16.4"])
def test_gate_reads_codes_of_any_length(value):
    measured = Measurement(Code(value, "SCT", "Long"), 1.0, MILLILITRE)
    report = MeasurementReport(None, (Group("x", (), LUNG, measurements=(measured,)),), CT, "Lungs")
    job = encoding(headers(ct_series()), (report,))

    assert problems(encoded(job), encoding=job) == []


def test_gate_wants_an_object_for_each_output(job, seg):
    assert problems([seg], encoding=job) == ["expected one object for each output"]


GROUP = Group("x", (), LUNG)
MISTAKES = {
    "no type": (lambda: Segment("Bone", LUNG, None, None, None, (1, 2, 3)), "segment 'Bone': expected codes"),
    "colour": (lambda: Segment("Bone", LUNG, LUNG, None, None, (300, 0, 0)), "segment 'Bone': expected a colour"),
    "unit": (lambda: Measurement(LUNG, 1.0, "ml"), "measurement: expected codes"),
    "comma": (lambda: MeasurementReport(None, (GROUP), CT, "Lungs"), "one alone needs its comma"),
    "procedure": (lambda: MeasurementReport(None, (GROUP,), "CT", "Lungs"), "report: expected codes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_typical_mistake_is_told_where_it_is_written(mistake):
    make, expected = MISTAKES[mistake]

    with pytest.raises(BadOutput, match=expected):
        make()
