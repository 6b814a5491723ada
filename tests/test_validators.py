"""Other people's programs accept our results, read the same numbers out of them, and refuse what is broken."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from gateway.conformance import problems
from gateway.outputs.seg import Segmentation
from gateway.outputs.sr import PRESENT, Group, MeasurementReport
from tests.results_fixture import (
    CT,
    LUNG,
    NOTHING_FOUND,
    SEGMENTS,
    encoded,
    encoding,
    headers,
    lung_job,
    lung_outputs,
    lungs,
    volume,
    written,
)
from tests.synthetic import ct_series, part10
from tests.validators import dcentvfy, dciodvfy, dcmqi_seg, dcmqi_sr, ohif_seg, pixelmed_sr

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # pydicom, where a test writes such a value


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def job():
    return lung_job(rows=34, columns=26)


@pytest.fixture(scope="module")
def files(folder, job):
    """(SEG, SR, sources)"""
    seg, sr = written(folder, encoded(job), "result")
    return seg, sr, written(folder, ct_series(rows=34, columns=26), "source")


@pytest.fixture(scope="module")
def nothing_found(folder):
    return written(folder, encoded(encoding(headers(ct_series()), (NOTHING_FOUND,))), "nothing")[0]


@pytest.fixture(scope="module")
def voxels(job) -> dict[int, int]:
    return {n: int((job.outputs[0].labels.array == n).sum()) for n in (1, 2)}


def test_dciodvfy_accepts_the_segmentation(files):
    assert dciodvfy(files[0]) == []


def test_dciodvfy_accepts_the_report(files, nothing_found):
    assert dciodvfy(files[1]) == []
    assert dciodvfy(nothing_found) == []


@pytest.mark.slow
def test_validators_accept_what_is_there_without_a_measurement(folder, job):
    segmentation, _ = job.outputs
    groups = (Group("Left", (1,), LUNG), Group("Both", (1, 2), LUNG), Group("Fracture", (), LUNG, evaluation=PRESENT))
    report = MeasurementReport(segmentation, groups, CT, "Lungs")

    _, file = written(folder, encoded(encoding(job.source, (segmentation, report))), "evaluated")

    assert (dciodvfy(file), pixelmed_sr(file)) == ([], [])


@pytest.mark.slow
def test_validators_accept_results_that_take_the_place_of_earlier_ones(folder, job):
    later = encoding(job.source, job.outputs, key="a later job key", revision=2, replaces=encoded(job))

    seg, sr = written(folder, encoded(later), "later")

    assert (dciodvfy(seg), dciodvfy(sr), pixelmed_sr(sr)) == ([], [], [])
    assert problems([dcmread(seg), dcmread(sr)], encoding=later) == []


def test_dciodvfy_accepts_the_synthetic_source(files):
    assert dciodvfy(files[2][0]) == []


def test_dciodvfy_accepts_the_segmentation_of_images_whose_codes_are_written_small(folder):
    job = lung_job(BodyPartExamined="Chest")

    assert dciodvfy(written(folder, encoded(job), "small")[0]) == []


def test_dcentvfy_finds_one_patient_and_one_study(files):
    assert dcentvfy([*files[2], files[0], files[1]]) == []


@pytest.mark.slow
def test_pixelmed_accepts_the_report(files):
    assert pixelmed_sr(files[1]) == []


@pytest.mark.slow
def test_pixelmed_accepts_nothing_found(nothing_found):
    assert pixelmed_sr(nothing_found) == []


def test_dcmqi_reads_the_voxels_that_were_labelled(files, voxels):
    assert dcmqi_seg(files[0]) == voxels


def test_ohif_reads_the_voxels_that_were_labelled(files, voxels):
    loaded = ohif_seg(files[0], files[2])

    assert loaded == {"voxels": {str(n): count for n, count in voxels.items()}, "labels": ["Left lung", "Right lung"]}


def test_dcmqi_reads_the_numbers_that_were_measured(files, job):
    _, report = job.outputs

    read = dcmqi_sr(files[1])

    measured = [[float(item["value"]) for item in group["measurementItems"]] for group in read["Measurements"]]
    assert measured == [[pytest.approx(m.value, rel=1e-5) for m in group.measurements] for group in report.groups]
    assert [group.get("ReferencedSegment") for group in read["Measurements"]] == [1, 2, None]
    assert read["observerContext"]["DeviceObserverUID"] == job.algorithm.device_uid
    assert read["VerificationFlag"] == "UNVERIFIED"


def test_dcmqi_reads_nothing_found(nothing_found):
    (group,) = dcmqi_sr(nothing_found)["Measurements"]

    assert group["measurementItems"] == []
    assert group["qualitativeEvaluations"][-1]["conceptValue"]["CodeMeaning"] == "Absent"


def test_segment_without_voxels_hangs_nobody(folder):
    source = headers(ct_series(6, 20, 20))
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[2:4, 5:9, 5:9] = 2
    (seg,) = written(
        folder, encoded(encoding(source, (Segmentation(volume(source, labels), SEGMENTS, "LUNGS", "Lungs"),))), "empty"
    )
    sources = written(folder, ct_series(6, 20, 20), "empty-source")

    assert dciodvfy(seg) == []
    assert dcmqi_seg(seg) == {1: 0, 2: 32}
    assert ohif_seg(seg, sources)["voxels"] == {"2": 32}


DATA = Path(os.environ.get("GATEWAY_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def real(name: str) -> list[Dataset]:
    paths = sorted((DATA / name).glob("*"))
    if not paths:
        pytest.skip(f"GATEWAY_TEST_DATA has no {name}")
    return [dcmread(path) for path in paths if path.suffix != ".json"]


@pytest.mark.parametrize("name", ["ct_chest_philips_5mm_lungpetctdx_A0001", "ct_chest_ge_lidc0001_nodule_subrange"])
def test_results_on_a_real_chest_are_accepted(folder, name):
    series = sorted(real(name), key=lambda instance: float(instance.ImagePositionPatient[2]))
    source = headers(series)
    job = encoding(source, lung_outputs(source, lungs(source)))
    files = written(folder, encoded(job), name)

    assert problems(encoded(job), encoding=job) == []
    assert [finding for path in files for finding in dciodvfy(path)] == []
    assert dcentvfy([*written(folder, series, f"{name}-source"), *files]) == []
    assert dcmqi_seg(files[0]) == {n: int((job.outputs[0].labels.array == n).sum()) for n in (1, 2)}


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    slices=st.integers(2, 6),
    rows=st.integers(3, 19),
    columns=st.integers(3, 19),
    spacing_mm=st.sampled_from([0.6, 1.25, 5]),
    data=st.data(),
)
def test_any_mask_on_any_grid_survives_dcmqi(folder, slices, rows, columns, spacing_mm, data):
    series = ct_series(slices, rows, columns, spacing_mm)
    source = headers(series)
    labels = np.random.default_rng(data.draw(st.integers(0, 1000))).integers(0, 3, (slices, rows, columns)).astype(np.uint8)
    labels[0, 0, :2] = 1, 2
    (path,) = written(folder, encoded(encoding(source, (Segmentation(volume(source, labels), SEGMENTS, "ANY", "Any"),))), "any")

    assert dcmqi_seg(path) == {n: int((labels == n).sum()) for n in (1, 2)}
    assert dciodvfy(path) == []


def broken(path: Path, folder: Path, mutate) -> Path:
    made = dcmread(path)
    mutate(made)
    bad = folder / f"broken-{path.name}"
    bad.write_bytes(part10(made))
    return bad


def set_segment_of_frame(seg):
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def set_relationship(sr):
    """The report's first coded finding, in its first group."""
    group = sr.ContentSequence[-2].ContentSequence[0]
    next(item for item in group.ContentSequence if item.ValueType == "CODE").RelationshipType = "HAS PROPERTIES"


SEG_MUTATIONS = {
    "no property type": lambda seg: delattr(seg.SegmentSequence[0], "SegmentedPropertyTypeCodeSequence"),
    "no SoftwareVersions": lambda seg: delattr(seg, "SoftwareVersions"),
    "per-frame item short": lambda seg: seg.PerFrameFunctionalGroupsSequence.pop(),
    "frame in segment 9": set_segment_of_frame,
    "no Referenced Series": lambda seg: delattr(seg, "ReferencedSeriesSequence"),
    "bad UID": lambda seg: setattr(seg, "FrameOfReferenceUID", "1.2.03.4"),
}


@pytest.mark.parametrize("mutation", SEG_MUTATIONS)
def test_dciodvfy_notices_a_broken_segmentation(files, tmp_path, mutation):
    assert dciodvfy(broken(files[0], tmp_path, SEG_MUTATIONS[mutation])) != []


def test_dciodvfy_notices_a_report_without_evidence(files, tmp_path):
    assert dciodvfy(broken(files[1], tmp_path, lambda sr: setattr(sr, "CurrentRequestedProcedureEvidenceSequence", []))) != []


def test_dcentvfy_notices_another_patient(files, tmp_path):
    assert dcentvfy([*files[2], broken(files[0], tmp_path, lambda seg: setattr(seg, "PatientBirthDate", "19991231"))]) != []


@pytest.mark.slow
def test_pixelmed_notices_a_wrong_relationship(files, tmp_path):
    assert pixelmed_sr(broken(files[1], tmp_path, set_relationship)) != []


@pytest.mark.parametrize(
    "mutate", [set_segment_of_frame, lambda seg: setattr(seg, "PixelData", seg.PixelData[:-100])], ids=["segment 9", "short"]
)
def test_dcmqi_notices_a_broken_segmentation(files, tmp_path, mutate):
    assert dcmqi_seg(broken(files[0], tmp_path, mutate)) == {}


def test_dcmqi_reads_no_report_from_a_segmentation(files):
    assert dcmqi_sr(files[0]) == {}


def test_ohif_notices_short_pixel_data(files, tmp_path):
    assert ohif_seg(broken(files[0], tmp_path, lambda seg: setattr(seg, "PixelData", seg.PixelData[:-100])), files[2]) == {}
