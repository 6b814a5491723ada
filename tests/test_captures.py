"""Pictures of results, for viewers that show nothing else: what is on them, and that the programs of others take them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from gateway.conformance import problems
from gateway.dicom.header import clean_series
from gateway.imaging.picture import outline
from gateway.outputs import Output
from gateway.outputs.capture import Capture
from gateway.outputs.rejection import Rejection, key
from gateway.pipeline import Infer, Study
from gateway.work.captures import captures
from gateway.work.extras import Extras
from tests.door_fixture import Place
from tests.radiograph_fixture import radiograph
from tests.results_fixture import NOTHING_FOUND, SEGMENTS, encoded, encoding, lung_outputs, lungs, written
from tests.synthetic import ct_series
from tests.test_radiographs import job, loaded
from tests.test_run import done
from tests.validators import dcentvfy, dciodvfy


def chest(folder: Path, slices: int = 30, **changes: object) -> tuple[list[Dataset], Study, tuple[Output, ...]]:
    series = ct_series(slices, 96, 128, **changes)
    study, _ = loaded(folder, series, modality="CT")
    return series, study, lung_outputs(study.source, lungs(study.source))


def instances(study: Study, outputs: tuple[Output, ...]) -> tuple[tuple[Capture, ...], list[Dataset]]:
    made = captures(study, outputs, "ct_lung 1.2.0")
    whole = encoding(study.source, (*outputs, *made))
    assert problems(encoded(whole), encoding=whole) == []
    return made, encoded(whole)[len(outputs) :]


def test_the_programs_of_others_take_them_as_one_series_of_the_study(tmp_path: Path) -> None:
    series, study, outputs = chest(tmp_path)
    _, made = instances(study, outputs)
    files = written(tmp_path, made, "capture")

    assert [finding for file in files for finding in dciodvfy(file)] == []
    assert dcentvfy([*written(tmp_path, series, "source"), *files]) == []
    assert len({one.SeriesInstanceUID for one in made}) == len({one.SeriesNumber for one in made}) == 1
    assert [one.InstanceNumber for one in made] == list(range(1, 14))
    assert {one.BurnedInAnnotation for one in made} == {"NO"}
    assert not any("PixelSpacing" in one or "FrameOfReferenceUID" in one for one in made)


def test_twelve_planes_from_the_first_to_the_last_on_which_something_is(tmp_path: Path) -> None:
    _, study, outputs = chest(tmp_path)
    made, datasets = instances(study, outputs)

    there = np.flatnonzero(lungs(study.source).any(axis=(1, 2)))
    shown = [one.of for one in made[1:]]
    assert (len(shown), shown[0], shown[-1]) == (12, there[0], there[-1])
    assert shown == sorted(set(shown))
    of = [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in datasets[1:]]
    assert of == [study.source[place].SOPInstanceUID for place in shown]


def test_each_segment_is_outlined_in_its_colour_where_it_is(tmp_path: Path) -> None:
    _, study, outputs = chest(tmp_path)
    for one in captures(study, outputs, "ct_lung")[1:]:
        labels = Image.fromarray(lungs(study.source)[one.of]).resize((512, 384), Image.Resampling.NEAREST)
        for number, segment in enumerate(SEGMENTS, start=1):
            drawn = (one.picture[:384, :512] == segment.colour).all(axis=2)

            assert (drawn == outline(np.asarray(labels) == number)).all()


def test_the_picture_under_the_outlines_is_the_image_in_its_window_with_square_pixels(tmp_path: Path) -> None:
    _, study, outputs = chest(tmp_path, WindowCenter=0, WindowWidth=2000, PixelSpacing=[1.5, 0.75])
    last = captures(study, outputs, "ct_lung")[-1]

    assert last.of is not None
    grey = np.clip((study.volume.array[last.of] + 1000) / 2000 * 255, 0, 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(grey).resize((341, 512), Image.Resampling.BILINEAR))  # 144 mm high, 96 mm wide
    shown = last.picture[:512, (512 - 341) // 2 :][:, :341]
    is_grey = (shown == shown[:, :, :1]).all(axis=2)
    assert is_grey.mean() > 0.9
    assert (shown[is_grey, 0] == expected[is_grey]).all()


def test_the_same_job_gives_the_same_bytes(tmp_path: Path) -> None:
    _, study, outputs = chest(tmp_path, slices=6)

    first, again = (written(tmp_path, instances(study, outputs)[1], name) for name in ("first", "again"))

    assert [one.read_bytes() for one in first] == [one.read_bytes() for one in again]


def test_a_report_alone_is_a_page(tmp_path: Path) -> None:
    _, study, _ = chest(tmp_path, slices=4)

    (page,), (made,) = instances(study, (NOTHING_FOUND,))

    assert page.of is None
    assert page.picture.any()
    assert "SourceImageSequence" not in made


def test_what_does_not_fit_on_a_line_goes_on_below(tmp_path: Path) -> None:
    _, study, outputs = chest(tmp_path, slices=4)
    short, long = (captures(study, outputs, name)[-1].picture for name in ("a", "a model " * 30))

    assert long.shape[0] > short.shape[0]
    assert not long[384:, -8:].any()  # nothing runs over the edge of what is under the image


@pytest.mark.parametrize("turned", [False, True])
def test_a_radiograph_has_one(tmp_path: Path, turned: bool) -> None:
    image = radiograph(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE") if turned else radiograph()
    study, _ = loaded(tmp_path, [image])

    made, datasets = instances(study, job(study).outputs)

    assert [one.of for one in made] == [None, 0]
    assert datasets[1].PatientOrientation == ["L", "F"]
    assert [finding for file in written(tmp_path, datasets, "capture") for finding in dciodvfy(file)] == []
    assert 60 < made[1].picture[:300].mean() < 200  # neither black nor white


def test_a_job_makes_them_where_the_configuration_says_so_and_only_there(place: Place) -> None:
    def lung(study: Study, _infer: Infer) -> Iterable[Output]:
        yield from lung_outputs(study.source, lungs(study.source))

    job_, results = done(place, ct_series(6), lung, extras=Extras(pictures=True))

    assert job_.state == "done"
    assert sorted(one.Modality for one in results) == ["OT"] * 6 + ["SEG", "SR"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (lambda source: lungs(source)[:, :-1], "expected labels of the shape"),
        (lambda source: lungs(source) * 0, "expected at least one labelled voxel"),
    ],
)
def test_what_is_wrong_with_a_segmentation_is_told_as_without_pictures(place: Place, labels, expected: str) -> None:
    def lung(study: Study, _infer: Infer) -> Iterable[Output]:
        yield from lung_outputs(study.source, labels(study.source))

    job_, results = done(place, ct_series(6), lung, extras=Extras(pictures=True))

    assert (job_.state, results) == ("failed", [])
    assert expected in job_.reason


def test_without_it_there_are_none(place: Place) -> None:
    def lung(study: Study, _infer: Infer) -> Iterable[Output]:
        yield from lung_outputs(study.source, lungs(study.source))

    assert sorted(one.Modality for one in done(place, ct_series(6), lung)[1]) == ["SEG", "SR"]


def test_a_picture_can_be_taken_back_like_any_result(tmp_path: Path) -> None:
    _, study, outputs = chest(tmp_path, slices=4)
    clean, _ = clean_series([dcmread(file) for file in written(tmp_path, instances(study, outputs)[1][-1:], "capture")])
    note = Rejection("quality")
    whole = encoding(clean, (note,), key=key(str(clean[0].SOPInstanceUID)))

    assert problems(encoded(whole), encoding=whole) == []
    assert dciodvfy(written(tmp_path, encoded(whole), "note")[0]) == []


def test_lossy_once_is_lossy_on_its_picture_too(tmp_path: Path) -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5, "LossyImageCompressionMethod": "ISO_10918_1"}
    _, study, outputs = chest(tmp_path, slices=4, **lossy)

    _, made = instances(study, outputs)

    assert [{keyword: one[keyword].value for keyword in lossy} for one in made] == [lossy] * len(made)
    assert dciodvfy(written(tmp_path, made[:1], "capture")[0]) == []
