"""Planes of any image and the segments on them are drawn as they lie, one frame at a time; what cannot be drawn says why."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from gateway.errors import Unsuitable
from gateway.imaging import plane
from gateway.store import Store
from gateway.views.pictures import Pictures
from tests.results_fixture import SEGMENTS, encoding, headers, lung_outputs, lungs
from tests.synthetic import ct_series, part10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def pictures(store: Store) -> Pictures:
    return Pictures(store)


def put(store: Store, *made: Dataset) -> list[tuple[str, str]]:
    return [(one.SOPInstanceUID, store.put([part10(one)]).sha256) for one in made]


def drawn(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


def test_planes_lie_from_the_head_on_whatever_they_are_called(pictures: Pictures, store: Store) -> None:
    source = ct_series(6)
    for number, one in enumerate(source):
        one.InstanceNumber = (number * 5) % 6

    planes = pictures.planes(put(store, *source))

    assert [one.sop_instance_uid for one in planes] == [one.SOPInstanceUID for one in reversed(source)]
    assert [one.position for one in planes] == sorted((one.position for one in planes), reverse=True)


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless, RLELossless])
def test_a_plane_shows_the_pixels_through_its_window(pictures: Pictures, store: Store, syntax: str | None) -> None:
    one = ct_series(1)[0]
    one.WindowCenter, one.WindowWidth = -300, 1400
    hounsfield = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
    if syntax:
        one.compress(syntax, generate_instance_uid=False)
    (plane_,) = pictures.planes(put(store, one))

    shown = drawn(pictures.image(plane_))
    lung = drawn(pictures.image(plane_, window="lung"))

    assert shown.shape == (64, 64)
    assert np.abs(shown - np.clip((hounsfield + 1000) / 1400, 0, 1) * 255).max() <= 1
    assert np.abs(lung - np.clip((hounsfield + 1350) / 1500, 0, 1) * 255).max() <= 1


def test_pixels_that_are_not_square_are_drawn_as_they_are_in_the_patient(pictures: Pictures, store: Store) -> None:
    one = ct_series(1)[0]
    one.PixelSpacing = [2.0, 1.0]

    assert drawn(pictures.image(pictures.planes(put(store, one))[0])).shape == (128, 64)


def test_an_inverted_image_is_drawn_with_bone_white(pictures: Pictures, store: Store) -> None:
    one = ct_series(1)[0]
    upright = drawn(pictures.image(pictures.planes(put(store, one))[0]))
    one.PhotometricInterpretation = "MONOCHROME1"

    assert np.abs(255 - upright.astype(int) - drawn(pictures.image(pictures.planes(put(store, one))[0]))).max() <= 1


def test_a_frame_of_many_and_colours_are_drawn(pictures: Pictures, store: Store) -> None:
    many = ct_series(1)[0]
    many.NumberOfFrames, many.Rows, many.Columns = 3, 4, 4
    many.PixelData = np.concatenate([np.full(16, value, "<i2") for value in (0, 1000, 2000)]).tobytes()
    many.WindowCenter, many.WindowWidth = 0, 2000
    colour = ct_series(1, seed=2)[0]
    colour.SamplesPerPixel, colour.PhotometricInterpretation, colour.PlanarConfiguration = 3, "RGB", 0
    colour.BitsAllocated = colour.BitsStored = 8
    colour.HighBit, colour.PixelRepresentation, colour.Rows, colour.Columns = 7, 0, 2, 2
    colour.PixelData = bytes([255, 0, 0] * 2 + [0, 0, 255] * 2)

    frames = pictures.planes(put(store, many))
    shown = [drawn(pictures.image(one)) for one in frames]

    assert [one.frame for one in frames] == [0, 1, 2]
    assert shown[0].mean() < shown[1].mean() < shown[2].mean()
    assert drawn(pictures.image(pictures.planes(put(store, colour))[0]))[0, 0].tolist() == [255, 0, 0]


def test_segments_lie_where_they_were_found_in_their_colours(pictures: Pictures, store: Store) -> None:
    source = ct_series(6)
    clean = headers(source)
    labels = lungs(clean)
    segmentation, report = lung_outputs(clean, labels)
    making = encoding(clean, [segmentation, report])
    ((_, key),) = put(store, making.dataset(segmentation))
    ((_, report_key),) = put(store, making.dataset(report))
    planes = pictures.planes(put(store, *source))

    found = pictures.drawn(key)
    overlays = [drawn(pictures.overlay(key, one)) for one in planes]

    assert [label for label, _ in found.segments.values()] == [segment.label for segment in SEGMENTS]
    for overlay, plane_labels in zip(overlays, labels, strict=True):
        assert np.array_equal(overlay[..., 3] > 0, plane_labels > 0)
    for number, segment in enumerate(SEGMENTS, 1):
        colours = overlays[3][labels[3] == number][:, :3]
        assert np.abs(colours - np.array(segment.colour)).max() <= 3
    assert labels[found.fullest(planes)].max() == 2
    assert pictures.measured(report_key).groups == ["LUNGS Left lung", "LUNGS Right lung", "Lungs"]


def test_what_cannot_be_drawn_says_why(pictures: Pictures, store: Store) -> None:
    source = ct_series(2)
    clean = headers(source)
    segmentation, report = lung_outputs(clean, lungs(clean))
    ((uid, key),) = put(store, encoding(clean, [segmentation, report]).dataset(report))
    without = pictures.planes([(uid, key)])[0]
    short = source[0]
    short.PixelData = short.PixelData[:100]
    broken = pictures.planes(put(store, short))[0]

    with pytest.raises(Unsuitable, match="holds no image"):
        pictures.image(without)
    with pytest.raises(Unsuitable, match="expected Pixel Data that decodes"):
        pictures.image(broken)
    with pytest.raises(Unsuitable, match="segmentation with frames"):
        pictures.drawn(key)
    with pytest.raises(Unsuitable, match="retention took them"):
        pictures.planes([("1.2", "0" * 64)])
    with pytest.raises(Unsuitable, match="at most 4000"):
        pictures.planes([(f"1.2.{number}", key) for number in range(4001)])
    with pytest.raises(Unsuitable, match="measurement report"):
        pictures.measured(broken.sha256)


def test_a_codestream_that_claims_more_than_its_header_is_not_decoded(store: Store) -> None:
    one = ct_series(1)[0]
    one.compress(JPEG2000Lossless, generate_instance_uid=False)
    one.Rows = one.Columns = 4096
    path = store.path(put(store, one)[0][1])

    with pytest.raises(Unsuitable, match="expected a codestream of 4096 x 4096"):
        plane.image(path, 0)
    assert dcmread(path, stop_before_pixels=True).Rows == 4096
