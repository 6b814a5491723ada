"""Parametric maps: other people's programs read the numbers that were computed, in their unit, where they were computed."""

import math
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code
from pydicom.uid import ParametricMapStorage

from gateway.conformance import problems
from gateway.dicom.header import clean_series
from gateway.dicom.part10 import part10 as encoded_file
from gateway.errors import BadOutput
from gateway.imaging.volume import arrange
from gateway.outputs import Encoding
from gateway.outputs.parametric import ParametricMap
from gateway.peers import Sought, load_protocols, make_peer
from tests.enhanced_fixture import enhanced
from tests.peers_fixture import data_set_sha256, running_orthanc
from tests.radiograph_fixture import radiograph
from tests.results_fixture import encoded, encoding, headers, written
from tests.results_fixture import volume as on_grid
from tests.synthetic import ct_series, part10
from tests.test_radiographs import loaded
from tests.validators import dcentvfy, dciodvfy, dcmqi_map

SLICES, ROWS, COLUMNS = 6, 34, 26
NO_UNIT = Code("1", "UCUM", "no units")
ACTIVATION = Code("130402", "DCM", "Class activation")


def values(*, seed: int = 0) -> np.ndarray:
    """One plane of them is empty, and stays."""
    found = np.random.default_rng(seed).random((SLICES, ROWS, COLUMNS)).astype(np.float32)
    found[2] = 0
    return found


def job_of(images: list[Dataset], array: np.ndarray, **settings: object) -> Encoding:
    return encoding(images, (ParametricMap(on_grid(images, array), NO_UNIT, ACTIVATION, "Nodule probability", **settings),))


@pytest.fixture(scope="module")
def job() -> Encoding:
    return job_of(headers(ct_series(SLICES, ROWS, COLUMNS)), values())


def test_dcmqi_reads_the_values_where_they_are(tmp_path: Path, job: Encoding) -> None:
    (file,) = written(tmp_path, encoded(job), "map")

    read, told = dcmqi_map(file)

    assert np.array_equal(read, values()[::-1])  # from the feet on
    assert told["MeasurementUnitsCode"]["CodeValue"] == "1"
    assert told["QuantityValueCode"]["CodeMeaning"] == "Class activation"


def test_highdicom_reads_a_volume_of_real_values(job: Encoding, tmp_path: Path) -> None:
    (file,) = written(tmp_path, encoded(job), "map")

    read = hd.imread(file).get_volume(apply_real_world_transform=True).match_geometry(job.outputs[0].values)

    assert np.array_equal(read.array.astype(np.float32), values())


def test_validators_accept_it_beside_its_source(tmp_path: Path, job: Encoding) -> None:
    (file,) = written(tmp_path, encoded(job), "map")

    assert problems(encoded(job), encoding=job) == []
    assert dciodvfy(file) == []
    assert dcentvfy([*written(tmp_path, ct_series(SLICES, ROWS, COLUMNS), "source"), file]) == []


def test_same_job_gives_the_same_bytes(job: Encoding) -> None:
    (made,) = encoded(job)
    (again,) = encoded(job_of(headers(ct_series(SLICES, ROWS, COLUMNS)), values()))

    assert part10(made) == part10(again) == part10(dcmread(BytesIO(encoded_file(made))))
    organization = job.uid(job.outputs[0], "dimension organization")
    assert {one.DimensionOrganizationUID for one in made.DimensionIndexSequence} == {organization}


def test_every_plane_is_a_frame_that_names_its_source(job: Encoding) -> None:
    (made,) = encoded(job)

    assert (made.SOPClassUID, made.Modality, made.NumberOfFrames) == (ParametricMapStorage, "OT", SLICES)
    named = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in made.PerFrameFunctionalGroupsSequence]
    assert [one.ReferencedSOPInstanceUID for one in named] == [one.SOPInstanceUID for one in job.source][::-1]
    assert "Not for diagnosis" in made.SeriesDescription
    assert made.BodyPartExamined == "CHEST"


def test_frames_of_an_enhanced_image_are_named_by_their_number(tmp_path: Path) -> None:
    images = list(clean_series(arrange([enhanced(ct_series(SLICES, ROWS, COLUMNS))]).headers)[0])
    job = job_of(images, values())

    (made,) = encoded(job)

    assert problems([made], encoding=job) == []
    named = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in made.PerFrameFunctionalGroupsSequence]
    assert [one.ReferencedFrameNumber for one in named] == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(dcmqi_map(written(tmp_path, [made], "map")[0])[0], values()[::-1])


@pytest.mark.parametrize("name", ["ct_chest_philips_5mm_lungpetctdx_A0001", "mr_t1_enhanced_siemens_xa30_96frames"])
def test_a_map_of_a_real_series_is_accepted(tmp_path: Path, real_data: Path, name: str) -> None:
    series = [dcmread(path) for path in sorted((real_data / name).glob("*.dcm"))]
    study, _ = loaded(tmp_path, series, modality=str(series[0].Modality))
    bright = study.volume.with_array(study.volume.array / np.float32(7))
    job = encoding(study.source, (ParametricMap(bright, NO_UNIT, ACTIVATION, "A seventh"),))

    made = encoded(job)

    assert problems(made, encoding=job) == []
    (file,) = written(tmp_path, made, "map")
    assert dciodvfy(file) == []
    assert np.array_equal(dcmqi_map(file)[0], bright.array[::-1])


@pytest.mark.parametrize("of", [np.full((SLICES, ROWS, COLUMNS), 0.25, np.float32), values() * 1e6])
def test_values_of_any_range_are_kept_as_they_are(tmp_path: Path, of: np.ndarray) -> None:
    job = job_of(headers(ct_series(SLICES, ROWS, COLUMNS)), of)

    (file,) = written(tmp_path, encoded(job), "map")

    assert problems(encoded(job), encoding=job) == []
    assert dciodvfy(file) == []
    assert np.array_equal(np.frombuffer(dcmread(file).FloatPixelData, "<f4"), of[::-1].ravel())


def test_orthanc_takes_it_by_c_store_and_keeps_its_bytes(tmp_path: Path, job: Encoding) -> None:
    (made,) = encoded(job)
    (file,) = written(tmp_path, [made], "map")
    with running_orthanc(tmp_path) as orthanc:
        settings = {"name": "pacs", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC"}
        peer = make_peer({"protocol": "dimse", **settings}, protocols=load_protocols())

        sent = peer.send(file)

        assert sent.status == 0x0000
        uids = (made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID, made.SOPClassUID)
        assert peer.holds(Sought(*map(str, uids), file))
        assert data_set_sha256(orthanc.file(made.SOPInstanceUID)) == data_set_sha256(file)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.where(values() == 0, np.nan, values()).astype(np.float32), "finite"),
        (values().astype(np.float64), "float32"),
        (values()[1:], "values of the shape"),
    ],
    ids=["not a number", "double", "a slice too few"],
)
def test_what_cannot_be_stored_is_refused_in_words(array: np.ndarray, expected: str) -> None:
    images = headers(ct_series(SLICES, ROWS, COLUMNS))

    with pytest.raises(BadOutput, match=expected):
        encoded(job_of(images, array))


def test_a_radiograph_has_no_place_for_one(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path, [radiograph()])
    job = encoding(study.source, (ParametricMap(study.volume, NO_UNIT, ACTIVATION, "Heat"),))

    with pytest.raises(BadOutput, match="radiograph"):
        encoded(job)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"unit": Code("1", "99LAB", "no units")}, "UCUM"),
        ({"quantity": "probability"}, "expected codes"),
        ({"window": (0.5, 0)}, "width"),
        ({"window": (math.nan, 1)}, "window"),
    ],
)
def test_a_typical_mistake_is_told_where_it_is_written(settings: dict[str, object], expected: str) -> None:
    grid = on_grid(headers(ct_series(SLICES, ROWS, COLUMNS)), values())

    with pytest.raises(BadOutput, match=expected):
        ParametricMap(**{"values": grid, "unit": NO_UNIT, "quantity": ACTIVATION, "description": "x"} | settings)


def shared(made: Dataset) -> Dataset:
    return made.SharedFunctionalGroupsSequence[0]


def frame(made: Dataset) -> Dataset:
    return made.PerFrameFunctionalGroupsSequence[1]


MUTATIONS = {
    "moved": (lambda one: setattr(frame(one).PlanePositionSequence[0], "ImagePositionPatient", [0, 0, 0]), "position"),
    "of another image": (
        lambda one: setattr(frame(one).DerivationImageSequence[0].SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2"), "source image",
    ),
    "a frame short": (lambda one: one.PerFrameFunctionalGroupsSequence.pop(), "a frame for each plane"),
    "short": (lambda one: setattr(one, "FloatPixelData", one.FloatPixelData[:-4]), "Float Pixel Data"),
    "not a number": (lambda one: setattr(one, "FloatPixelData", b"\0\0\xc0\x7f" + one.FloatPixelData[4:]), "finite"),
    "no anatomy": (lambda one: delattr(shared(one), "FrameAnatomySequence"), "all attributes"),
    "unit": (
        lambda one: setattr(
            shared(one).RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0], "CodingSchemeDesignator", "99X"
        ), "UCUM",
    ),
    "slope": (lambda one: setattr(shared(one).RealWorldValueMappingSequence[0], "RealWorldValueSlope", 2.0), "real ones"),
    "no references": (lambda one: delattr(one, "ReferencedSeriesSequence"), "Referenced Series"),
    "other patient": (lambda one: setattr(one, "PatientID", "OTHER"), "PatientID"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_gate_notices(job: Encoding, mutation: str) -> None:
    mutate, expected = MUTATIONS[mutation]
    (made,) = deepcopy(encoded(job))
    mutate(made)

    found = problems([made], encoding=job)

    assert any(expected in problem for problem in found), found


def test_dciodvfy_and_dcmqi_notice_what_is_broken(tmp_path: Path, job: Encoding) -> None:
    (made,) = deepcopy(encoded(job))
    del made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    (file,) = written(tmp_path, [made], "broken")

    assert dciodvfy(file) != []
    assert dcmqi_map(file) is None
