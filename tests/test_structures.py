"""Segmentations as contours: who fills them again gets the segmentation, and the programs of others take them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from pydicom import Dataset, dcmread

from gateway.conformance import problems
from gateway.dicom.enhanced import frame_number
from gateway.errors import BadOutput
from gateway.outputs import Encoding, Output
from gateway.outputs.outline import outlines
from gateway.outputs.seg import Segmentation
from gateway.outputs.structures import StructureSet
from gateway.pipeline import Infer, Study
from gateway.web import viewer
from gateway.work.extras import Extras
from tests.console_fixture import shot
from tests.door_fixture import Place
from tests.enhanced_fixture import enhanced
from tests.held_fixture import hold, hold_result
from tests.radiograph_fixture import radiograph
from tests.results_fixture import SEGMENTS, encoded, encoding, headers, lung_outputs, lungs, volume, written
from tests.synthetic import ct_series
from tests.test_radiographs import halves, loaded
from tests.test_run import done
from tests.validators import dcentvfy, dciodvfy, plastimatch


def filled(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """How many polygons hold the centre of each pixel, by the even-odd rule."""
    found = np.zeros(shape, int)
    for polygon in polygons:
        ends = np.roll(polygon, -1, axis=0)
        for row in range(shape[0]):
            (start, end) = (one[(polygon[:, 0] <= row) != (ends[:, 0] <= row)] for one in (polygon, ends))
            crossed = start[:, 1] + (row - start[:, 0]) * (end[:, 1] - start[:, 1]) / (end[:, 0] - start[:, 0])
            found[row] += (crossed[:, None] < np.arange(shape[1])).sum(axis=0) % 2
    return found


def holed(source: Sequence[Dataset]) -> np.ndarray:
    """(slices, rows, columns) uint8: the lungs with holes in them, islands in the holes, and pixels that touch at a corner."""
    labels = lungs(source)
    labels[3, 10:14, 36:40] = labels[3, 10:14, 44:50] = 0
    labels[3, 11:13, 37:39] = 1
    labels[4, 9, 40] = labels[4, 10, 41] = labels[4, 11, 40] = 0
    labels[5, -1, -1] = labels[5, 0, 0] = 2
    return labels


def job(source: Sequence[Dataset], labels: np.ndarray) -> Encoding:
    segmentation = Segmentation(volume(source, labels), SEGMENTS, "LUNGS", "Lungs")
    return encoding(source, (segmentation, StructureSet(segmentation)))


def masks(made: Dataset, source: Sequence[Dataset]) -> np.ndarray:
    """(slices, rows, columns) uint8, the contours filled again."""
    places = {str(one.SOPInstanceUID): number for number, one in enumerate(source)}
    found = np.zeros((len(source), source[0].Rows, source[0].Columns), np.uint8)
    for region in made.ROIContourSequence:
        planes: dict[int, list[np.ndarray]] = {}
        for contour in region.ContourSequence:
            place = places[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            image = source[place]
            along, down = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            away = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
            between_rows, between_columns = map(float, image.PixelSpacing)
            planes.setdefault(place, []).append(np.column_stack((away @ down / between_rows, away @ along / between_columns)))
        for place, polygons in planes.items():
            inside = filled(polygons, found.shape[1:])
            assert inside.max() == 1
            found[place][inside > 0] = region.ReferencedROINumber
    return found


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_outlines_of_any_mask_give_it_again(share: float) -> None:
    draw = np.random.default_rng(round(share * 10))
    for rows, columns in draw.integers(1, 24, (60, 2)):
        mask = draw.random((rows, columns)) < share

        found = outlines(mask)

        assert (filled(found, mask.shape) == mask).all()
        assert all(len(one) >= 3 for one in found)


def test_an_outline_has_points_only_where_it_turns() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 1:8] = True
    mask[4, 4] = False

    (found,) = outlines(mask)

    assert len(found) == 8 + 2 + 5  # a box with its corners cut, where the way to the hole begins and ends, the hole and back


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [0.8, 0.6, 0, 0, 0, -1]])
def test_contours_filled_again_are_the_segmentation(orientation: list[float]) -> None:
    normal = np.cross(*np.array(orientation, float).reshape(2, 3))
    series = ct_series(8, ImageOrientationPatient=orientation)
    for number, one in enumerate(series):
        one.ImagePositionPatient = [round(float(value), 4) for value in (10, -20, 30) - normal * 2.5 * (len(series) - number)]
    source = headers(series)
    labels = holed(source)

    whole = job(source, labels)
    made = encoded(whole)[1]

    assert problems(encoded(whole), encoding=whole) == []
    assert (masks(made, source) == labels).all()
    assert [float(one.ROIVolume) for one in made.StructureSetROISequence] == pytest.approx(
        [(labels == number).sum() * 0.75 * 0.75 * 2.5 / 1000 for number in (1, 2)]
    )


def test_the_programs_of_others_take_them_and_read_the_same_regions(tmp_path: Path) -> None:
    series = ct_series(8)
    source = headers(series)
    labels = holed(source)
    (file,) = written(tmp_path, encoded(job(source, labels))[1:], "structures")
    (tmp_path / "ct").mkdir()
    images = written(tmp_path / "ct", series, "ct")

    assert dciodvfy(file) == []
    assert dcentvfy([*images, file]) == []
    read = plastimatch(file, tmp_path / "ct")
    for number, segment in enumerate(SEGMENTS, start=1):
        assert (read[segment.label].reshape(labels.shape)[::-1] == (labels == number)).all()


def test_they_refuse_what_is_broken(tmp_path: Path) -> None:
    made = encoded(job(headers(ct_series(8)), lungs(headers(ct_series(8)))))[1]
    del made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    del made.ROIContourSequence
    (file,) = written(tmp_path, [made], "broken")

    assert len(dciodvfy(file)) >= 2


def test_a_segment_without_voxels_is_no_region() -> None:
    source = headers(ct_series(4))
    labels = lungs(source)
    labels[labels == 1] = 0

    made = encoded(job(source, labels))[1]

    assert [(one.ROINumber, one.ROIName) for one in made.StructureSetROISequence] == [(2, "Right lung")]


def test_the_contours_of_an_enhanced_object_name_its_frames(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path, [enhanced(ct_series(6))], modality="CT")
    labels = lungs(study.source)

    whole = job(study.source, labels)
    made = encoded(whole)[1]

    assert problems(encoded(whole), encoding=whole) == []
    of = {int(one.ContourImageSequence[0].ReferencedFrameNumber) for one in made.ROIContourSequence[0].ContourSequence}
    assert of == {frame_number(study.source[place]) for place in np.flatnonzero((labels == 1).any(axis=(1, 2)))}
    (series,) = made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert len(series.ContourImageSequence) == 1


def test_a_long_contour_keeps_all_its_points(tmp_path: Path) -> None:
    source = headers(ct_series(2, 512, 512))
    labels = np.zeros((2, 512, 512), np.uint8)
    labels[1, 10:500:2] = labels[1, 10:500, 10] = 1  # a comb

    (file,) = written(tmp_path, encoded(job(source, labels))[1:], "comb")

    read = dcmread(file)
    (contour,) = read.ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints > 900
    assert (masks(read, source) == labels).all()


def test_a_radiograph_has_none(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path, [radiograph()])
    segmentation = Segmentation(study.volume.with_array(halves(study)), SEGMENTS, "HALVES", "Halves")

    with pytest.raises(BadOutput, match="a radiograph has no frame of reference"):
        encoded(encoding(study.source, (segmentation, StructureSet(segmentation))))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda made: made.ROIContourSequence[0].ContourSequence[0].ContourData.__setitem__(2, "99"), "on the plane of its image"),
        (lambda made: made.ROIContourSequence[0].ContourSequence[0].__setattr__("NumberOfContourPoints", 3), "the number of points"),
        (lambda made: made.ROIContourSequence.pop(), "contours of each region"),
        (lambda made: made.__setattr__("ApprovalStatus", "APPROVED"), "Approval Status UNAPPROVED"),
        (lambda made: made.__setattr__("FrameOfReferenceUID", "1.2.3"), "Frame of Reference UID of the source"),
        (
            lambda made: made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence.pop(),
            "exactly the source instances",
        ),
    ],
)  # fmt: skip
def test_the_gate_refuses(change, expected: str) -> None:
    source = headers(ct_series(6))
    whole = job(source, lungs(source))
    made = encoded(whole)

    change(made[1])

    assert any(expected in one for one in problems(made, encoding=whole))


@pytest.mark.parametrize(("wanted", "own", "expected"), [(True, False, 1), (True, True, 1), (False, True, 1), (False, False, 0)])
def test_a_job_makes_them_where_the_configuration_or_the_pipeline_says_so(
    place: Place, wanted: bool, own: bool, expected: int
) -> None:
    def lung(study: Study, _infer: Infer) -> Iterable[Output]:
        segmentation, report = lung_outputs(study.source, lungs(study.source))
        yield from (segmentation, report, *([StructureSet(segmentation)] if own else []))

    job_, results = done(place, ct_series(6), lung, extras=Extras(structures=wanted))

    assert job_.state == "done"
    assert sorted(one.Modality for one in results) == ["RTSTRUCT"] * expected + ["SEG", "SR"]


def test_ohif_shows_the_contours_over_the_images(console, chromium: Browser) -> None:
    if not viewer.is_installed(viewer.default_folder()):
        pytest.skip("the viewer is not installed (gateway viewer install; it wants npm)")
    series = ct_series(6, seed=4)
    source = headers(series)
    made = encoded(job(source, lungs(source)))[1]
    hold(console.db, console.site.store, series)
    hold_result(console.db, console.site.store, made, of=series[0].SeriesInstanceUID)

    with console.visit(chromium, "viewer") as page:
        page.set_default_timeout(90_000)
        page.goto(console.url + viewer.address(series[0].StudyInstanceUID))
        page.get_by_text(made.SeriesDescription).first.dblclick()
        page.get_by_text("Left lung").first.wait_for()
        shot(page, "viewer-contours")

        assert page.get_by_text("Right lung").count() >= 1
