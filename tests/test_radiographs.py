"""Radiographs: what a pipeline gets of them, and results on images that have no place in the patient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import BreastTomosynthesisImageStorage, ComputedRadiographyImageStorage, ImplicitVRLittleEndian

from gateway.conformance import problems
from gateway.decisions.measured import Measured, measured
from gateway.errors import BadOutput, Unsuitable
from gateway.outputs import Encoding
from gateway.outputs.seg import Segmentation
from gateway.outputs.sr import PRESENT, PRIVATE_SCHEME, Group, Measurement, MeasurementReport
from gateway.pipeline import Needs, Study
from gateway.store import Store
from gateway.web import viewer
from gateway.work.load import load
from tests.console_fixture import shot
from tests.held_fixture import hold, hold_result
from tests.radiograph_fixture import MILLIMETRES, radiograph, shadows
from tests.results_fixture import LUNG, PERCENT, SEGMENTS, encoded, encoding, written
from tests.synthetic import ct_series, part10
from tests.test_validators import DATA
from tests.validators import dcentvfy, dciodvfy, dcmqi_sr, ohif_seg, pixelmed_sr

SQUARE_MM, MILLILITRE = Code("mm2", "UCUM", "mm2"), Code("ml", "UCUM", "ml")
XRAY, OPACITY = codes.SCT.ImagingProcedure, Code("OPACITY", PRIVATE_SCHEME, "Opacity")


def loaded(folder: Path, images: Sequence[Dataset], **needs: object) -> tuple[Study, list[str]]:
    store = Store(folder / "store", keep_free_bytes=0)
    inputs = [(str(ds.SOPInstanceUID), store.put([part10(ds)]).sha256) for ds in images]
    return load(inputs, Needs(**{"modality": ("CR", "DX", "MG"), **needs}), store)


def halves(study: Study) -> np.ndarray:
    """(1, rows, columns) uint8: a box on either side, of another size each."""
    labels = np.zeros(study.volume.spatial_shape, np.uint8)
    rows, columns = labels.shape[1:]
    labels[0, rows // 4 : rows // 2, columns // 8 : columns // 3] = 1
    labels[0, rows // 4 : rows // 2, columns // 2 : -3] = 2
    return labels


def job(study: Study, *, unit: Code = SQUARE_MM, labels: np.ndarray | None = None, numbers: tuple[int, ...] = (1,)) -> Encoding:
    labels = halves(study) if labels is None else labels
    segmentation = Segmentation(study.volume.with_array(labels), SEGMENTS, "LUNGS", "Lungs")
    area = float((labels == 1).sum() * np.prod(study.volume.spacing[1:]))
    groups = (
        Group("Left lung", numbers, LUNG, LUNG, codes.SCT.Left, (Measurement(codes.SCT.Area, area, unit),)),
        Group("Lungs", (1, 2), LUNG, LUNG, None, (Measurement(OPACITY, 12.5, PERCENT),)),
        Group("Nodule", (), codes.SCT.Nodule, LUNG, None, (), PRESENT),
    )
    return encoding(study.source, (segmentation, MeasurementReport(segmentation, groups, XRAY, "Lungs")))


# --- What a pipeline gets ---


def test_a_radiograph_is_a_volume_of_one_slice_in_the_millimetres_of_its_detector(tmp_path: Path) -> None:
    study, notes = loaded(tmp_path, [radiograph()])

    assert (study.volume.array == shadows()).all()
    assert study.volume.array.dtype == np.float32
    assert study.volume.spatial_shape == (1, 48, 64)
    assert study.volume.spacing[1:] == (MILLIMETRES, MILLIMETRES)
    assert notes == []


def test_larger_values_are_brighter_whichever_photometric_interpretation_a_scanner_chose(tmp_path: Path) -> None:
    turned = radiograph(
        PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", PixelData=(4095 - shadows()).tobytes()
    )

    study, notes = loaded(tmp_path, [turned], whole_numbers=True)

    assert (study.volume.array == shadows()).all()
    assert notes == ["MONOCHROME1: values were turned round, so that larger ones are brighter"]


def test_slices_in_monochrome1_stay_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsuitable, match="expected slices of PhotometricInterpretation MONOCHROME2"):
        loaded(tmp_path, ct_series(3, PhotometricInterpretation="MONOCHROME1"), modality="CT")


@pytest.mark.parametrize("orientation", [["R", "F"], ["P", "F"], ["PR", "FL"]])
def test_its_axes_are_those_of_patient_orientation(tmp_path: Path, orientation: list[str]) -> None:
    study, _ = loaded(tmp_path, [radiograph(PatientOrientation=orientation)])

    _, rows, columns = study.volume.get_closest_patient_orientation()
    assert [columns.value, rows.value] == [one[0] for one in orientation]


@pytest.mark.parametrize("orientation", [None, ["L", "R"], ["X", "F"], ["L"]])
def test_what_says_no_orientation_counts_as_seen_from_before(tmp_path: Path, orientation: list[str] | None) -> None:
    study, _ = loaded(tmp_path, [radiograph(PatientOrientation=orientation)])

    _, rows, columns = study.volume.get_closest_patient_orientation()
    assert (columns.value, rows.value) == ("L", "F")


def test_of_several_views_in_a_series_the_pipeline_says_which_it_wants(tmp_path: Path) -> None:
    views = [radiograph("PA"), radiograph("LL", number=2, PixelData=(shadows() // 2).tobytes())]

    study, notes = loaded(tmp_path, views, volume={"ViewPosition": "LL"})
    with pytest.raises(Unsuitable, match="expected one radiograph in the series; there are 2: 1 image of ViewPosition PA, Inst"):
        loaded(tmp_path, views)

    assert [one.ViewPosition for one in study.source] == ["LL"]
    assert (study.volume.array == shadows() // 2).all()
    assert notes == ["took 1 image of ViewPosition LL, InstanceNumber 2; left out 1 image of ViewPosition PA, InstanceNumber 1"]


def test_a_pipeline_of_several_modalities_takes_each_and_no_other(tmp_path: Path) -> None:
    computed = radiograph(Modality="CR", sop_class_uid=ComputedRadiographyImageStorage)

    assert loaded(tmp_path, [computed], modality=("CR", "DX"))[0].source[0].Modality == "CR"
    with pytest.raises(Unsuitable, match="expected modality DX or MG"):
        loaded(tmp_path, [computed], modality=("DX", "MG"))


@pytest.mark.parametrize("wrong", [(), ("CR", ""), ["CR"], 3])
def test_what_is_no_modality_is_told_when_a_pipeline_is_loaded(wrong: object) -> None:
    with pytest.raises(ValueError, match='expected modality: "CT", or several'):
        Needs(modality=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tomosynthesis", "a screen shot of CT"])
def test_what_only_looks_like_a_radiograph_is_none(tmp_path: Path, kind: str) -> None:
    ds = radiograph(Modality="MG", sop_class_uid=BreastTomosynthesisImageStorage, NumberOfFrames=2)
    if kind != "tomosynthesis":
        ds = radiograph(Modality="CT")

    with pytest.raises(Unsuitable):
        loaded(tmp_path, [ds], modality=("CT", "MG"))


# --- Results ---


@pytest.mark.parametrize(
    "changes", [{}, {"PixelSpacing": [1.4, 1.4]}, {"FrameOfReferenceUID": "1.2.3", "PatientOrientation": ""}]
)
def test_results_on_a_radiograph_are_accepted_by_the_programs_of_others(tmp_path: Path, changes: dict) -> None:
    image = radiograph(**changes)
    study, _ = loaded(tmp_path, [image])
    made = job(study)
    files, source = written(tmp_path, encoded(made), "result"), written(tmp_path, [image], "source")

    assert problems(encoded(made), encoding=made) == []
    assert [finding for file in files for finding in dciodvfy(file)] == []
    assert dcentvfy([*source, *files]) == []
    assert pixelmed_sr(files[1]) == []
    assert [len(one["measurementItems"]) for one in dcmqi_sr(files[1])["Measurements"]] == [1, 1, 0]
    assert ohif_seg(files[0], source) == {
        "voxels": {str(n): int((halves(study) == n).sum()) for n in (1, 2)}, "labels": ["Left lung", "Right lung"],
    }  # fmt: skip
    segmentation = encoded(made)[0]
    assert "FrameOfReferenceUID" not in segmentation
    assert segmentation.PatientOrientation == image.PatientOrientation


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("dx_chest_dog", "dx_image.dcm"),
        ("cr_chest_rsna_jpeg_as_sc", "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"),
        ("cr_chest_rsna_jpeg_as_sc", "Fake_MONOHR1.dcm"),
        ("cr_chest_fuji_mono1_no_preamble", "CR-MONO1-10-chest"),
        ("mg_siemens_overlay_out_of_bounds", "OutOfBoundsOverlay.dcm"),
    ],
)
def test_real_radiographs_get_results(tmp_path: Path, folder: str, name: str) -> None:
    path = DATA / folder / name
    if not path.is_file():
        pytest.skip(f"GATEWAY_TEST_DATA has no {folder}")
    image = dcmread(path, force=True)
    if "TransferSyntaxUID" not in image.file_meta:  # it came without a preamble
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = (
            image.SOPClassUID,
            image.SOPInstanceUID,
        )
    study, notes = loaded(tmp_path, [image])
    tells_its_size = not any("does not tell the size" in note for note in notes)

    made = job(study, unit=SQUARE_MM if tells_its_size else PERCENT)

    assert tells_its_size == (folder != "cr_chest_fuji_mono1_no_preamble")
    assert problems(encoded(made), encoding=made) == []
    assert [one for one in dciodvfy(written(tmp_path, encoded(made), "result")[0]) if one.startswith("Error")] == []


def test_the_gate_refuses_lengths_and_areas_where_nobody_told_the_size_of_a_pixel(tmp_path: Path) -> None:
    study, notes = loaded(tmp_path, [radiograph(ImagerPixelSpacing=None)])
    made = job(study)

    (problem,) = problems(encoded(made), encoding=made)

    assert notes == ["the image does not tell the size of its pixels: 1 mm stands for it"]
    assert problem.endswith("expected no lengths or areas on an image that does not tell the size of its pixels")


def test_the_gate_refuses_a_volume_of_a_shadow(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path, [radiograph()])
    segmentation = job(study).outputs[0]
    assert isinstance(segmentation, Segmentation)
    volume = Measurement(codes.SCT.Volume, 5.0, MILLILITRE)
    report = MeasurementReport(segmentation, (Group("Left lung", (1,), LUNG, LUNG, None, (volume,)),), XRAY, "Lungs")
    made = encoding(study.source, (segmentation, report))

    (problem,) = problems(encoded(made), encoding=made)

    assert problem.endswith("expected no volume on a radiograph: it shows shadows")


def test_a_group_on_a_segment_without_a_pixel_is_told_in_words(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path, [radiograph()])

    with pytest.raises(BadOutput, match="expected pixels of each segment that a group is about"):
        encoded(job(study, labels=(halves(study) == 1).astype(np.uint8), numbers=(2,)))


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_labels_that_were_turned_on_their_way_are_refused(tmp_path: Path, axes: tuple[int, ...]) -> None:
    study, _ = loaded(tmp_path, [radiograph()])
    turned = Segmentation(study.volume.with_array(halves(study)).flip_spatial(list(axes)), SEGMENTS, "LUNGS", "Lungs")

    with pytest.raises(BadOutput, match="expected labels on the p"):
        encoding(study.source, (turned,)).dataset(turned)


def test_ohif_shows_a_segmentation_over_its_radiograph(tmp_path: Path, console, chromium: Browser) -> None:
    if not viewer.is_installed(viewer.default_folder()):
        pytest.skip("the viewer is not installed (gateway viewer install; it wants npm)")
    image = radiograph(seed=5)
    study, _ = loaded(tmp_path, [image])
    made = encoded(job(study))[0]
    hold(console.db, console.site.store, [image])
    hold_result(console.db, console.site.store, made, of=image.SeriesInstanceUID)

    with console.visit(chromium, "viewer") as page:
        page.set_default_timeout(90_000)
        page.goto(console.url + viewer.address(image.StudyInstanceUID))
        page.get_by_text(made.SeriesDescription).first.dblclick()
        page.get_by_text("Left lung").first.wait_for()
        shot(page, "viewer-radiograph")

        assert page.get_by_text("Right lung").count() >= 1


def test_what_was_found_and_what_was_measured_stand_in_one_table(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path, [radiograph()])

    _, report = encoded(job(study))

    assert measured(report) == Measured(
        ["LUNGS Left lung", "Lungs", "Nodule"],
        {"Area": ["351.0 mm2", "", ""], "Opacity": ["", "12.5 %", ""], "Nodule": ["", "", "Present"]},
    )
