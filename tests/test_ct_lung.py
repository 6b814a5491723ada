"""ct_lung on a real Triton: volumes of the phantom, a real chest beside another network's opinion, and what must be refused."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes

from gateway.dicom.header import clean
from gateway.dicom.pixels import pixels
from gateway.errors import Unsuitable
from gateway.imaging.phantom import chest_ct
from gateway.imaging.volume import arrange, volume
from gateway.inference.triton import Triton
from gateway.outputs.seg import Segmentation
from gateway.outputs.sr import MeasurementReport
from gateway.pipeline import Infer, Study
from pipelines.ct_lung import LAA_910, LAA_950, PERCENTILE_15, PIPELINE
from tests import validators
from tests.results_fixture import encoded, encoding, written
from tests.synthetic import lung_volumes_ml
from tests.unet import CHEST, chest_lungs

pytestmark = pytest.mark.xdist_group("lungs")
NOW = datetime(2026, 1, 2, 10, 11, 12, tzinfo=UTC)
SIZE = {"slices": 80, "rows": 192, "columns": 192}


@pytest.fixture(scope="module")
def infer(triton: str) -> Iterator[Infer]:
    client = Triton(triton, timeout_seconds=200, shared_memory=True)
    yield client.infer(PIPELINE.model)
    client.close()


@pytest.fixture(scope="module")
def phantom() -> Study:
    return study(list(chest_ct(now=NOW, **SIZE)))


@pytest.fixture(scope="module")
def results(phantom: Study, infer: Infer) -> tuple[Segmentation, MeasurementReport]:
    segmentation, report = PIPELINE.run(phantom, infer)
    return segmentation, report


def study(series: Sequence[Dataset]) -> Study:
    stack = arrange(series)
    images = {instance.SOPInstanceUID: instance for instance in series}
    return Study(
        volume(stack, (pixels(images[header.SOPInstanceUID]) for header in stack.headers), whole_numbers=True), stack.headers
    )


def read(folder: Path) -> Study:
    return study([pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))])


def numbers(report: MeasurementReport, code: object) -> dict[str, float]:
    return {group.label: m.value for group in report.groups for m in group.measurements if m.name == code}


def test_the_phantoms_volumes_are_found(results: tuple[Segmentation, MeasurementReport]) -> None:
    right, left = lung_volumes_ml(**SIZE)

    found = numbers(results[1], codes.SCT.Volume)

    assert found == pytest.approx({"Right lung": right, "Left lung": left, "Both lungs": right + left}, rel=0.02)


def test_densities_are_those_of_the_phantom(results: tuple[Segmentation, MeasurementReport]) -> None:
    both = {
        code: numbers(results[1], code)["Both lungs"]
        for code in (codes.DCM.AttenuationCoefficient, PERCENTILE_15, LAA_950, LAA_910)
    }

    mean, percentile, laa_950, laa_910 = both.values()
    assert -870 < mean < -800
    assert -910 < percentile < -860
    assert 1 < laa_950 < laa_910 < 20


def test_right_is_the_patients_right(results: tuple[Segmentation, MeasurementReport]) -> None:
    labels, segments = results[0].labels, results[0].segments
    left_mm = {
        segment.laterality.meaning: labels.map_indices_to_reference(np.argwhere(labels.array == number)[::997])[:, 0].mean()
        for number, segment in enumerate(segments, start=1)
    }

    assert left_mm["Right"] < -30
    assert left_mm["Left"] > 30


@pytest.mark.parametrize("orientation", ["HAR", "PLF"])
def test_however_the_volume_lies_in_memory_the_labels_lie_on_it(
    phantom: Study, results: tuple[Segmentation, MeasurementReport], infer: Infer, orientation: str
) -> None:
    turned = Study(phantom.volume.to_patient_orientation(orientation), phantom.source)

    segmentation, _ = PIPELINE.run(turned, infer)

    assert np.array_equal(segmentation.labels.affine, turned.volume.affine)
    back = segmentation.labels.to_patient_orientation(results[0].labels.get_closest_patient_orientation())
    assert np.array_equal(results[0].labels.array, back.array)


def test_the_outputs_please_the_validators(
    phantom: Study, results: tuple[Segmentation, MeasurementReport], tmp_path: Path
) -> None:
    job = encoding([clean(header)[0] for header in phantom.source], results)

    segmentation, report = written(tmp_path, encoded(job), "output")

    assert [] == validators.dciodvfy(segmentation) + validators.dciodvfy(report) + validators.pixelmed_sr(report)
    expected = np.bincount(results[0].labels.array.ravel())[1:]
    assert dict(enumerate(expected.tolist(), start=1)) == validators.dcmqi_seg(segmentation)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(slice(0, 45), id="upper part"),
        pytest.param(slice(40, None), id="lower part"),
        pytest.param(slice(30, 50), id="middle"),
    ],
)
def test_lungs_that_the_series_cuts_are_refused(phantom: Study, infer: Infer, part: slice) -> None:
    with pytest.raises(Unsuitable) as caught:
        list(PIPELINE.run(Study(phantom.volume[part], phantom.source[part]), infer))

    assert caught.value.code == "INCOMPLETE"


def test_a_lung_that_the_field_of_view_cuts_is_refused(phantom: Study, infer: Infer) -> None:
    with pytest.raises(Unsuitable) as caught:
        list(PIPELINE.run(Study(phantom.volume[:, :, 45:], phantom.source), infer))

    assert caught.value.code == "INCOMPLETE"


@pytest.mark.parametrize("hounsfield", [-1000, 40], ids=["nothing but air", "nothing but tissue"])
def test_a_picture_without_lungs_makes_a_report_that_says_so(phantom: Study, infer: Infer, hounsfield: int) -> None:
    empty = phantom.volume.with_array(np.full(phantom.volume.spatial_shape, hounsfield, np.int16))

    (report,) = PIPELINE.run(Study(empty, phantom.source), infer)

    assert isinstance(report, MeasurementReport)
    assert (None, ()) == (report.segmentation, report.groups[0].measurements)


def test_bowel_gas_below_the_lungs_is_no_lung(
    phantom: Study, results: tuple[Segmentation, MeasurementReport], infer: Infer
) -> None:
    array = phantom.volume.array.copy()
    array[-14:-3, 68:98, 60:135] = -1000

    segmentation, _ = PIPELINE.run(Study(phantom.volume.with_array(array), phantom.source), infer)

    assert np.array_equal(results[0].labels.array, segmentation.labels.array)


def test_a_lung_without_air_is_not_made_up(phantom: Study, results: tuple[Segmentation, MeasurementReport], infer: Infer) -> None:
    array = phantom.volume.array.copy()
    array[results[0].labels.array == 2] = 40

    segmentation, report = PIPELINE.run(Study(phantom.volume.with_array(array), phantom.source), infer)

    assert ["Right lung"] == [segment.label for segment in segmentation.segments]
    assert ["Right lung"] == [group.label for group in report.groups]
    assert segmentation.labels.array.max() == 1


@pytest.fixture(scope="module")
def chest(real_data: Path) -> Study:
    return read(real_data / CHEST)


def test_a_real_chest_agrees_with_another_network(chest: Study, infer: Infer, real_data: Path, weights: Path) -> None:
    segmentation, report = PIPELINE.run(chest, infer)

    found, expected = segmentation.labels.array > 0, chest_lungs(real_data, weights).match_geometry(chest.volume).array > 0
    millilitres = float(np.prod(chest.volume.spacing)) * expected.sum() / 1000
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.95
    assert numbers(report, codes.SCT.Volume)["Both lungs"] == pytest.approx(millilitres, rel=0.07)


def test_nine_slices_of_a_chest_are_refused(real_data: Path, infer: Infer) -> None:
    with pytest.raises(Unsuitable) as caught:
        list(PIPELINE.run(read(real_data / "ct_chest_ge_lidc0001_nodule_subrange"), infer))

    assert caught.value.code == "INCOMPLETE"
