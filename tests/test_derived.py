"""Derived series: what a receiver reads out of them is what the model made, on the images that they say, and marked as made."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, MRImageStorage, ParametricMapStorage

from gateway.conformance import problems
from gateway.decisions.facts import facts
from gateway.decisions.rules import load, match
from gateway.dicom.enhanced import unfolded
from gateway.dicom.header import clean_series
from gateway.errors import BadOutput
from gateway.imaging.volume import arrange, volume
from gateway.inference.triton import Triton
from gateway.outputs import Encoding, Output
from gateway.outputs.derived import DerivedImage, DerivedImages
from gateway.outputs.kinds import unwanted
from gateway.peers import load_protocols, make_peer
from gateway.pipeline import Infer, Study
from gateway.work.extras import Extras
from tests.door_fixture import Place
from tests.enhanced_fixture import enhanced
from tests.results_fixture import encoded, encoding, headers, lung_outputs, lungs, written
from tests.results_fixture import volume as on_grid
from tests.synthetic import ct_series, part10
from tests.test_radiographs import loaded
from tests.test_run import EQUIPMENT, RULES, done
from tests.triton_fixture import start_triton, write_model
from tests.validators import dcentvfy, dciodvfy

SLICES, ROWS, COLUMNS = 6, 34, 26
OF_MR = {
    "Modality": "MR", "SOPClassUID": MRImageStorage, "ScanningSequence": ["GR", "IR"], "SequenceVariant": "SP", "ScanOptions": "",
    "MRAcquisitionType": "3D", "EchoTime": "2.5", "EchoTrainLength": 1, "RepetitionTime": "7.1", "InversionTime": "900",
    "KVP": None, "RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None, "MagneticFieldStrength": 3,
}  # fmt: skip
NO_MODALITY_LUT = ("RescaleIntercept", "RescaleSlope", "RescaleType")
"""The MR module has none (PS3.3 A.4.3): dicom3tools warns where values that are not whole need one, as vendors write them."""


def source(**overrides: object) -> list[Dataset]:
    return headers(ct_series(SLICES, ROWS, COLUMNS, **overrides))


def values(kind: type = np.float32, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-200, 300, (SLICES, ROWS, COLUMNS)).astype(kind)


def made_of(images: Sequence[Dataset], array: np.ndarray, **settings: object) -> Encoding:
    whole = DerivedImages(on_grid(images, array), "Denoised", codes.DCM.Smoothing, **settings)
    return encoding(images, whole.instances())


def read_back(folder: Path, made: Sequence[Dataset]) -> hd.Volume:
    """As a stranger reads it: from files, in the order of their geometry."""
    stack = arrange([dcmread(path) for path in written(folder, made, "read")])
    return volume(stack, (header.pixel_array for header in stack.headers))


@pytest.fixture(scope="module")
def job() -> Encoding:
    return made_of(source(), values())


def test_a_receiver_reads_the_values_of_the_model_where_it_put_them(tmp_path: Path, job: Encoding) -> None:
    array, made = values(), encoded(job)
    step = float(made[0].RescaleSlope)

    read = read_back(tmp_path, made)

    assert problems(made, encoding=job) == []
    assert 0 < step < 0.1
    assert np.abs(read.array.astype(np.float64) - array).max() <= step / 2 * 1.001
    assert np.allclose(read.affine, on_grid(job.source, array).affine)


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_whole_values_are_stored_as_they_are(tmp_path: Path, kind: type) -> None:
    array = values(np.int16).astype(kind)

    made = encoded(made_of(source(), array))

    assert (made[0].RescaleSlope, made[0].RescaleIntercept, made[0].RescaleType) == (1, 0, "HU")
    assert np.array_equal(read_back(tmp_path, made).array, array)


@pytest.mark.parametrize("array", [np.full((SLICES, ROWS, COLUMNS), 0.1), values() * 1e-6, np.ones((SLICES, ROWS, COLUMNS)) * -3])
def test_values_of_any_range_are_kept(tmp_path: Path, array: np.ndarray) -> None:
    array = array.astype(np.float32)

    made = encoded(made_of(source(), array))

    assert np.abs(read_back(tmp_path, made).array - array).max() <= np.ptp(array) / 65535 + 1e-8


def test_it_is_one_series_of_the_study_beside_its_source_image_by_image(job: Encoding) -> None:
    made = encoded(job)

    assert {(one.SeriesInstanceUID, one.SeriesNumber) for one in made} == {(job.uid(job.outputs[0], "series"), 9000)}
    assert len({one.SOPInstanceUID for one in made}) == SLICES
    for one, image in zip(made, job.source, strict=True):
        (reference,) = one.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "InstanceNumber", "SliceThickness", "KVP", "WindowWidth"):
            assert one[keyword].value == image[keyword].value
        assert one.BodyPartExamined == "CHEST"
        assert one.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert one.DerivationCodeSequence[0].CodeMeaning == "Smoothing"
        assert one.DerivationDescription == "Not for diagnosis. Denoised, by ct_lung 1.2.0"
        assert one.SeriesDescription == "Not for diagnosis - Denoised"
        assert one.PatientOrientation == ["L", "P"]


def test_the_next_output_has_a_series_of_its_own() -> None:
    images = source()
    more = lung_outputs(images, lungs(images))
    whole = encoding(images, (*made_of(images, values()).outputs, *more))

    assert len({one.SeriesInstanceUID for one in encoded(whole)}) == 3
    assert problems(encoded(whole), encoding=whole) == []


def test_what_was_made_of_a_part_or_of_more_says_so_on_every_image(job: Encoding) -> None:
    later = encoding(job.source, job.outputs, partial="one is missing", revision=2, replaces=encoded(job))

    assert {one.SeriesDescription for one in encoded(later)} == {"INCOMPLETE SERIES - REVISION 2 - Not for diagnosis - Denoised"}


def test_same_job_gives_the_same_bytes(job: Encoding) -> None:
    assert [*map(part10, encoded(job))] == [*map(part10, encoded(made_of(source(), values())))]


def test_the_window_is_the_authors_where_he_says_one() -> None:
    made = encoded(made_of(source(WindowCenterWidthExplanation="LUNG"), values(), window=(40, 400)))[0]

    assert (made.WindowCenter, made.WindowWidth) == (40, 400)
    assert "WindowCenterWidthExplanation" not in made


def test_frames_of_an_enhanced_image_become_images_that_name_their_frame(tmp_path: Path) -> None:
    series = ct_series(SLICES, ROWS, COLUMNS)
    images = clean_series(arrange([enhanced(series)]).headers)[0]
    job = made_of(images, values())

    made = encoded(job)

    assert problems(made, encoding=job) == []
    assert {one.SOPClassUID for one in made} == {CTImageStorage}
    assert [one.SourceImageSequence[0].ReferencedFrameNumber for one in made] == [6, 5, 4, 3, 2, 1]
    assert [finding for file in written(tmp_path, made, "made") for finding in dciodvfy(file)] == []
    assert len(unfolded(made)) == SLICES


def test_lossy_once_is_lossy_for_ever() -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5, "LossyImageCompressionMethod": "ISO_10918_1"}

    made = encoded(made_of(source(**lossy), values()))

    assert [{keyword: one[keyword].value for keyword in lossy} for one in made] == [lossy] * SLICES


def test_validators_accept_it_beside_its_source(tmp_path: Path, job: Encoding) -> None:
    files = written(tmp_path, encoded(job), "made")

    assert [finding for file in files for finding in dciodvfy(file)] == []
    assert dcentvfy([*written(tmp_path, ct_series(SLICES, ROWS, COLUMNS), "source"), *files]) == []


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_of_magnetic_resonance_too(tmp_path: Path, kind: type) -> None:
    job, array = made_of(source(**OF_MR), values(kind)), values(kind)

    made = encoded(job)

    assert problems(made, encoding=job) == []
    assert (made[0].ScanningSequence, made[0].InversionTime) == (["GR", "IR"], 900)
    assert made[0].ImageType == ["DERIVED", "SECONDARY", "OTHER"]
    assert "MagneticFieldStrength" not in made[0]
    assert ("RescaleSlope" in made[0]) == (kind is np.float32)
    assert np.allclose(read_back(tmp_path, made).array, array, atol=0.05)
    found = [finding for file in written(tmp_path, made, "made") for finding in dciodvfy(file)]
    assert not [one for one in found if not any(keyword in one for keyword in NO_MODALITY_LUT)]
    assert bool(found) == (kind is np.float32)


@pytest.mark.parametrize(("of", "into"), [(OF_MR, "CT"), ({}, "MR")])
def test_one_modality_out_of_another_tells_of_no_acquisition(tmp_path: Path, of: dict[str, object], into: str) -> None:
    job = made_of(source(**of), values(np.int16), modality=into)

    made = encoded(job)

    assert problems(made, encoding=job) == []
    assert {one.Modality for one in made} == {into}
    assert not made[0].get("KVP")
    assert made[0].get("ScanningSequence", "RM") == "RM"
    assert "WindowCenter" not in made[0]
    assert [finding for file in written(tmp_path, made, "made") for finding in dciodvfy(file)] == []


@pytest.mark.parametrize("name", ["ct_chest_philips_5mm_lungpetctdx_A0001", "mr_t1_enhanced_siemens_xa30_96frames"])
def test_a_real_series_is_accepted(tmp_path: Path, real_data: Path, name: str) -> None:
    series = [dcmread(path) for path in sorted((real_data / name).glob("*.dcm"))]
    study, _ = loaded(tmp_path, series, modality=str(series[0].Modality))
    smooth = study.volume.with_array(np.rint(study.volume.array * 0.5).astype(np.int16))
    outputs = DerivedImages(smooth, "Half as bright", codes.DCM.PixelByPixelMultiplication).instances()
    job = encoding(study.source, outputs)

    made = encoded(job)

    assert problems(made, encoding=job) == []
    files = written(tmp_path, made, "made")
    assert [finding for file in files[:3] for finding in dciodvfy(file)] == []
    assert dcentvfy([*written(tmp_path, series, "source"), *files]) == []
    assert np.array_equal(read_back(tmp_path, made).array, smooth.array)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.where(values() > 0, np.nan, values()).astype(np.float32), "finite"),
        (np.where(values() > 0, -np.inf, values()).astype(np.float32), "finite"),
        (values(np.float64), "int16 or float32"),
        (values()[:-1], "shape"),
    ],
    ids=["not a number", "infinite", "double", "a slice too few"],
)
def test_what_cannot_be_stored_is_refused_in_words(array: np.ndarray, expected: str) -> None:
    images = source()

    with pytest.raises(BadOutput, match=expected):
        encoded(made_of(images, array))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"window": (40, 0)}, "width"), ({"window": (np.nan, 10)}, "window"), ({"modality": "PT"}, "CT")],
)
def test_a_typical_mistake_is_told_where_it_is_written(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(BadOutput, match=expected):
        made_of(source(), values(), **settings)


def test_images_of_other_modalities_are_no_source() -> None:
    with pytest.raises(BadOutput, match="CT or MR"):
        encoded(made_of(source(Modality="PT"), values()))


def test_what_lies_beside_the_pixels_of_the_source_is_refused() -> None:
    images = source()
    grid = on_grid(images, values())
    moved = hd.Volume(grid.array, grid.affine + np.eye(4, k=3) * grid.spacing[2] / 2, "PATIENT")

    with pytest.raises(BadOutput, match="derived images on the pixels"):
        encoded(encoding(images, DerivedImages(moved, "Denoised", codes.DCM.Smoothing).instances()))


MUTATIONS = {
    "moved": (lambda one: setattr(one, "ImagePositionPatient", [0, 0, 0]), "ImagePositionPatient"),
    "spacing": (lambda one: setattr(one, "PixelSpacing", [1, 1]), "PixelSpacing"),
    "other frame of reference": (lambda one: setattr(one, "FrameOfReferenceUID", "1.2.3"), "FrameOfReferenceUID"),
    "original": (lambda one: setattr(one, "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"]), "DERIVED"),
    "of something else": (lambda one: setattr(one.SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2"), "source instance"),
    "of nothing": (lambda one: delattr(one, "SourceImageSequence"), "all attributes"),
    "no derivation": (lambda one: delattr(one, "DerivationCodeSequence"), "derived"),
    "for presentation": (lambda one: setattr(one, "PresentationIntentType", "FOR PRESENTATION"), "Presentation"),
    "short": (lambda one: setattr(one, "PixelData", one.PixelData[:-2]), "Pixel Data"),
    "no slope": (lambda one: setattr(one, "RescaleSlope", "0"), "Slope"),
    "no Hounsfield units": (lambda one: setattr(one, "RescaleSlope", "2"), "Hounsfield"),
    "other patient": (lambda one: setattr(one, "PatientID", "OTHER"), "PatientID"),
    "no warning": (lambda one: setattr(one, "SeriesDescription", "Denoised"), "Not for diagnosis"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_gate_notices(job: Encoding, mutation: str) -> None:
    mutate, expected = MUTATIONS[mutation]
    made = deepcopy(encoded(job))
    mutate(made[2])

    found = problems(made, encoding=job)

    assert any(expected in problem for problem in found), found
    assert all(problem.startswith("DerivedImage 2: ") for problem in found)


def test_what_is_wrong_with_every_image_is_told_once() -> None:
    job = made_of(source(), values() * 1e6)

    assert problems(encoded(job), encoding=job) == ["DerivedImage 0: expected Hounsfield units that int16 holds"]


@pytest.mark.parametrize(
    "mutate",
    [lambda one: delattr(one, "RescaleSlope"), lambda one: delattr(one, "ImageType"), lambda one: delattr(one, "PixelSpacing")],
)
def test_dciodvfy_notices_what_is_broken(tmp_path: Path, job: Encoding, mutate) -> None:
    broken = deepcopy(encoded(job)[0])
    mutate(broken)

    assert dciodvfy(written(tmp_path, [broken], "broken")[0]) != []


def test_dcentvfy_notices_another_patient(tmp_path: Path, job: Encoding) -> None:
    broken = deepcopy(encoded(job))
    broken[1].PatientBirthDate = "19991231"

    assert dcentvfy(written(tmp_path, broken, "broken")) != []


# --- In a job ---


def denoised(study: Study, _infer: Infer) -> Iterable[Output | DerivedImages]:
    yield DerivedImages(study.volume, "Denoised", codes.DCM.Smoothing)
    yield from lung_outputs(study.source, lungs(study.source))


def test_a_job_stores_a_series_beside_its_other_results_and_draws_no_pictures_of_it(place: Place) -> None:
    job, results = done(place, ct_series(SLICES), denoised, extras=Extras(pictures=True))

    assert job.state == "done"
    kinds = [(one.Modality, one.SeriesInstanceUID) for one in results]
    assert sorted({modality for modality, _ in kinds}) == ["CT", "OT", "SEG", "SR"]
    assert len([modality for modality, _ in kinds if modality == "CT"]) == SLICES
    assert len(set(kinds)) == 4
    assert len(results) == SLICES + 2 + 1 + SLICES - 1  # a page, and a plane for each with a lung


def test_values_that_are_not_finite_fail_the_job_in_words(place: Place) -> None:
    def broken(study: Study, _infer: Infer) -> Iterable[Output | DerivedImages]:
        yield DerivedImages(study.volume.with_array(study.volume.array * np.nan), "Denoised", codes.DCM.Smoothing)

    job, results = done(place, ct_series(SLICES), broken)

    assert (job.state, job.code, job.reason, results) == ("failed", "OUTPUT", "expected derived images of finite values", [])


@pytest.mark.parametrize("version", ["0.1.0", "of another gateway"])
def test_what_comes_back_starts_no_job_whoever_made_it(job: Encoding, version: str) -> None:
    made = deepcopy(encoded(job))
    for one in made if version != "0.1.0" else ():
        one.SoftwareVersions, one.DeviceSerialNumber = version, "gateway-2"
        del one.ContributingEquipmentSequence
    rules = load(RULES, pipelines=("p",), peers=("pacs",))
    sent = {"calling_ae_title": "PACS", "called_ae_title": "AIGATEWAY", "ingest": "dimse"}

    (outcome,) = match(rules, {"Modality": "CT"}, facts(made, equipment=EQUIPMENT, **sent))

    assert not outcome.matched


def test_a_peer_that_takes_reports_only_gets_neither_images_nor_maps(tmp_path: Path) -> None:
    table = {"name": "ris", "protocol": "folder", "path": str(tmp_path)}
    reports, images = (make_peer({**table, "objects": [kind]}, protocols=load_protocols()) for kind in ("reports", "images"))

    for sop_class in (CTImageStorage, MRImageStorage, ParametricMapStorage):
        assert unwanted(reports, sop_class) == 'its peer takes reports only (objects = ["reports"])'
    assert [unwanted(images, one) == "" for one in (CTImageStorage, MRImageStorage, ParametricMapStorage)] == [True, True, False]


def test_each_image_names_the_output_it_is(job: Encoding) -> None:
    assert all(isinstance(output, DerivedImage) for output in job.outputs)


# --- By a real network on real images ---

DNCNN = """
import numpy as np
import torch
import triton_python_backend_utils as triton

WEIGHTS = {weights!r}


class TritonPythonModel:
    def initialize(self, _arguments):
        torch.set_num_threads(2)
        layers = [torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU()]
        for _ in range(15):
            layers += [torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU()]
        self.noise = torch.nn.Sequential(*layers, torch.nn.Conv2d(64, 1, 3, padding=1))
        known = torch.load(WEIGHTS, weights_only=True)
        self.noise.load_state_dict({{name.removeprefix("model."): value for name, value in known.items()}})

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        hounsfield = torch.from_numpy(triton.get_input_tensor_by_name(request, "volume").as_numpy().copy())
        scaled = (hounsfield / 2000 + 0.5)[:, None]
        with torch.inference_mode():
            denoised = (scaled - self.noise(scaled))[:, 0] * 2000 - 1000
        return triton.InferenceResponse([triton.Tensor("denoised", denoised.numpy())])
"""
DNCNN_CONFIGURATION = """
input [{ name: "volume" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }]
output [{ name: "denoised" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }]
parameters { key: "shape_of.denoised" value { string_value: "volume" } }
instance_group [{ kind: KIND_CPU }]
"""


def test_a_real_chest_denoised_by_a_real_network_comes_out_as_a_series(tmp_path: Path, real_data: Path, weights: Path) -> None:
    if not (file := weights / "dncnn_25" / "dncnn_25.pth").is_file():
        pytest.skip("the developers' weights have no dncnn_25")
    write_model(tmp_path / "models", "dncnn", DNCNN_CONFIGURATION, DNCNN.format(weights=str(file)))
    chest = [dcmread(path) for path in (real_data / "ct_chest_philips_5mm_lungpetctdx_A0001").glob("*.dcm")]
    series = sorted(chest, key=lambda one: float(one.ImagePositionPatient[2]))[30:33]
    for one in series:  # the middle of it: the network takes seconds for all
        one.PixelData = one.pixel_array[192:320, 192:320].tobytes()
        one.Rows = one.Columns = 128
    study, _ = loaded(tmp_path, series, modality="CT")
    noise = np.random.default_rng(0).normal(0, 196, study.volume.spatial_shape).astype(np.float32)
    server = start_triton([tmp_path / "models"], tmp_path / "triton.log")
    client = Triton(server.url, timeout_seconds=200, shared_memory=True)
    try:
        clean = client.infer("dncnn")({"volume": study.volume.array + noise})["denoised"]
    finally:
        client.close()
        server.stop()
    job = encoding(study.source, DerivedImages(study.volume.with_array(clean), "Denoised", codes.DCM.Smoothing).instances())

    made = encoded(job)

    assert problems(made, encoding=job) == []
    assert [finding for file in written(tmp_path, made, "made") for finding in dciodvfy(file)] == []
    read = read_back(tmp_path, made).array
    assert np.abs(read - clean).max() <= float(made[0].RescaleSlope)
    assert (read - study.volume.array).std() < noise.std() / 2
