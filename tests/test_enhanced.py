"""Enhanced objects give the volumes, the facts and the results that a classic series of the same images gives."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels.encoders import RLELosslessEncoder

from gateway.conformance import problems
from gateway.decisions import facts
from gateway.decisions.choose import ONLY, choose
from gateway.decisions.evidence import signals
from gateway.decisions.rank import traits
from gateway.dicom.enhanced import frame_number, unfolded
from gateway.errors import Unsuitable
from gateway.imaging.split import parts
from gateway.outputs import Equipment
from gateway.outputs.seg import Segmentation
from gateway.pipeline import Needs, Study
from gateway.store import Store
from gateway.work import kept, load
from tests.enhanced_fixture import enhanced
from tests.results_fixture import SEGMENTS, encoded, encoding, lung_outputs, lungs, written
from tests.synthetic import ct_series, part10
from tests.validators import dcentvfy, dciodvfy, dcmqi_seg
from tests.world import World

EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def known(headers: list[Dataset]) -> dict[str, object]:
    return facts.facts(headers, equipment=EQUIPMENT, calling_ae_title="CT1", called_ae_title="AI", ingest="dimse")


def read(instance: Dataset) -> Dataset:
    """As it comes from its file, without pixels."""
    return dcmread(BytesIO(part10(instance)), stop_before_pixels=True)


def loaded(store: Store, instances: list[Dataset], **needs: object) -> Study:
    inputs = [(str(one.SOPInstanceUID), store.put([part10(one)]).sha256) for one in instances]
    study, _ = load.load(inputs, Needs(**({"modality": "CT"} | needs)), store)
    return study


def refused(store: Store, *instances: Dataset) -> str:
    with pytest.raises(Unsuitable) as error:
        loaded(store, list(instances))
    return f"{error.value.code}: {error.value}"


def rle(frame: bytes) -> bytes:
    return bytes(RLELosslessEncoder.encode(frame, rows=64, columns=64, samples_per_pixel=1, photometric_interpretation="MONOCHROME2",
                                           bits_allocated=16, bits_stored=16, pixel_representation=1, number_of_frames=1,
                                           encoding_plugin="pydicom"))  # fmt: skip


def test_an_enhanced_object_gives_the_volume_of_the_classic_series(store):
    slices = ct_series(6)
    slices[2].RescaleIntercept = -1000
    shuffled = [slices[n] for n in (3, 0, 5, 1, 4, 2)]

    classic, found = loaded(store, slices), loaded(store, [enhanced(shuffled)])

    np.testing.assert_array_equal(found.volume.array, classic.volume.array)
    np.testing.assert_allclose(found.volume.affine, classic.volume.affine)
    assert [frame_number(header) for header in found.source] == [3, 5, 1, 6, 4, 2]


def test_a_compressed_object_is_decoded_frame_by_frame_also_without_a_table_of_offsets(store):
    slices = ct_series(4)

    found = loaded(store, [enhanced(slices, encode=rle)])

    np.testing.assert_array_equal(found.volume.array, loaded(store, slices).volume.array)


def test_rules_see_the_same_facts_and_attributes_as_of_the_classic_series():
    slices = ct_series(6, ConvolutionKernel="B30f")
    classic, one = [read(header) for header in slices], [read(enhanced(slices))]
    keywords = ("SliceThickness", "PixelSpacing", "RescaleSlope", "ConvolutionKernel", "StudyDescription", "Modality", "Rows")

    told = {name: value for name, value in known(one).items() if name not in ("instances", "multiframe")}

    assert told == {name: value for name, value in known(classic).items() if name in told}
    assert known(one)["multiframe"]
    assert known(one)["instances"] == 1
    assert facts.attributes(one, keywords) == facts.attributes(classic, keywords)
    assert traits(one) == traits(classic)


def test_what_rules_saw_of_frames_is_kept_for_later_rules():
    one = [read(enhanced(ct_series(3)))]

    again = kept.decoded(kept.encoded(one, known(one))).attributes(
        ["SliceThickness", "SharedFunctionalGroupsSequence/PixelMeasuresSequence/SliceThickness"]
    )

    assert list(again.values()) == [2.5, [2.5]]


MR = {"Modality": "MR", "RescaleType": "US"}


def echoes() -> Dataset:
    first, second = ct_series(3, EffectiveEchoTime=20.0, **MR), ct_series(3, EffectiveEchoTime=80.0, **MR)
    return enhanced([one for pair in zip(first, second, strict=True) for one in pair])


def test_echoes_within_an_object_are_volumes_of_which_a_pipeline_says_which(store):
    one = [read(echoes())]

    assert [str(part) for part in parts(one)] == ["3 images of EchoTime 20.0", "3 images of EchoTime 80.0"]
    assert known(one)["volumes"] == known(one)["regular_volumes"] == 2
    with pytest.raises(Unsuitable, match=r"there are 2: 3 images of EchoTime 20\.0"):
        choose(one, ONLY, lambda _: b"")
    assert [frame_number(header) for header in loaded(store, [echoes()], modality="MR", volume={"EchoTime": 80}).source] == [
        6,
        4,
        2,
    ]


@pytest.mark.parametrize(
    ("values", "dimensions", "name"),
    [
        ([{"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}], (), "DiffusionBValue"),
        ([{"TemporalPositionIndex": 1}, {"TemporalPositionIndex": 2}], (), "TemporalPositionIndex"),
        ([{"StackID": "1"}, {"StackID": "2"}], (), "StackID"),
        ([{"FrameAcquisitionNumber": 1}, {"FrameAcquisitionNumber": 2}], (), "AcquisitionNumber"),
        ([{"FrameType": ["ORIGINAL", "PRIMARY", "M"]}, {"FrameType": ["ORIGINAL", "PRIMARY", "P"]}], (), "ImageType"),
        ([{"DimensionIndexValues": [1, 0]}, {"DimensionIndexValues": [2, 0]}], ("EffectiveEchoTime", "InStackPositionNumber"),
         "DimensionIndexValues"),
    ],
)  # fmt: skip
def test_what_a_frame_says_of_itself_sets_volumes_apart(values, dimensions, name):
    slices = [one for own in values for one in ct_series(3, **MR, AcquisitionNumber=None, **own)]
    for place, one in enumerate(slices):
        if dimensions:
            one.DimensionIndexValues = [one.DimensionIndexValues[0], place % 3 + 1]

    found = parts([read(enhanced(slices, dimensions=dimensions))])

    assert [(len(part.headers), list(part.name)) for part in found] == [(3, [name])] * 2


def test_two_objects_of_a_series_are_two_volumes_and_may_be_two_halves_of_one(store):
    early, late = ct_series(4), ct_series(4, ContentTime="111213")

    phases = parts([read(enhanced(early, number=1)), read(enhanced(late, number=2))])

    assert [len(part.headers) for part in phases] == [4, 4]
    halves = [enhanced(early[:2], number=1), enhanced(early[2:], number=2)]
    np.testing.assert_array_equal(loaded(store, halves).volume.array, loaded(store, early).volume.array)


def concatenation(slices: list[Dataset], size: int, **overrides: object) -> list[Dataset]:
    whole, count = range(0, len(slices), size), -(-len(slices) // size)
    return [
        enhanced(slices[start : start + size], number=n, ConcatenationUID="1.2.3", InConcatenationNumber=n,
                 InConcatenationTotalNumber=count, ConcatenationFrameOffsetNumber=start, **overrides)
        for n, start in enumerate(whole, start=1)
    ]  # fmt: skip


def test_a_concatenation_is_one_volume_and_one_that_lacks_a_part_waits_and_is_refused(store):
    slices = ct_series(6)
    first, second, third = concatenation(slices, 2)

    assert loaded(store, [third, first, second]).volume.array.shape == (6, 64, 64)
    geometry, declared, _ = signals([read(first), read(third)])
    assert (geometry.says, declared.says) == ("short", "short")
    assert refused(store, first, third) == (
        "INCOMPLETE: expected a slice every 2.50 mm; 2 are missing: 2 between 10.00 mm and 2.50 mm"
    )


def without(keyword: str, frame: int) -> Callable[[Dataset], None]:
    return lambda one: delattr(one.PerFrameFunctionalGroupsSequence[frame], keyword)


def both(one: Dataset) -> None:
    other = Dataset()
    other.RescaleIntercept, other.RescaleSlope, other.RescaleType = 0, 1, "HU"
    one.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [other]


@pytest.mark.parametrize(
    ("mutate", "why"),
    [
        (lambda one: one.PerFrameFunctionalGroupsSequence.pop(),
         "GEOMETRY: expected as many items of Per-Frame Functional Groups as NumberOfFrames says"),
        (lambda one: setattr(one, "NumberOfFrames", 1_000_000_000),
         "GEOMETRY: expected as many items of Per-Frame Functional Groups as NumberOfFrames says"),
        (lambda one: setattr(one, "NumberOfFrames", -2), "GEOMETRY: expected NumberOfFrames to be a whole number from 1"),
        (without("PlanePositionSequence", 1), "GEOMETRY: expected 3 finite numbers in ImagePositionPatient of every slice"),
        (lambda one: delattr(one.SharedFunctionalGroupsSequence[0], "PlaneOrientationSequence"),
         "GEOMETRY: expected 6 finite numbers in ImageOrientationPatient of every slice"),
        (lambda one: delattr(one.SharedFunctionalGroupsSequence[0], "PixelMeasuresSequence"),
         "GEOMETRY: expected 2 finite numbers in PixelSpacing of every slice"),
        (without("PixelValueTransformationSequence", 2),
         "IMAGE: expected RescaleSlope (not 0) and RescaleIntercept, one finite number each"),
        (both, "GEOMETRY: expected PixelValueTransformationSequence for all frames or for each one; there are both, and they differ"),
        (lambda one: setattr(one, "PixelData", one.PixelData[:-64]),
         "DECODE: expected as much Pixel Data as Rows, Columns and Bits Allocated say"),
        (lambda one: delattr(one, "PerFrameFunctionalGroupsSequence"),
         "IMAGE: expected one slice per instance, or an enhanced image with functional groups for its frames"),
    ],
)  # fmt: skip
def test_a_bad_enhanced_object_is_refused_with_its_reason_and_its_facts_can_be_told(store, mutate, why):
    one = enhanced(ct_series(4))
    mutate(one)

    assert refused(store, one) == why
    assert known([read(one)])["regular"] is why.startswith("DECODE")
    assert signals([read(one)])


def test_a_group_that_is_said_twice_and_is_the_same_is_taken(store):
    one = enhanced(ct_series(4))
    shared = one.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence = one.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence

    assert loaded(store, [one]).volume.array.shape == (4, 64, 64)


def test_an_attribute_in_a_group_never_says_whose_the_object_is():
    one = enhanced(ct_series(2, FrameAcquisitionNumber=1))
    one.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0].PatientID = "SOMEBODY ELSE"

    assert {header.PatientID for header in unfolded([one])} == {"CANARY-ID"}


def test_results_refer_to_the_frames_of_each_part_and_are_accepted(store, tmp_path):
    instances = concatenation([*reversed(ct_series(12))], 6)
    source = list(loaded(store, instances).source)
    job = encoding(source, lung_outputs(source, lungs(source)))

    seg, sr = encoded(job)

    assert problems([seg, sr], encoding=job) == []
    files = written(tmp_path, [seg, sr], "enhanced")
    assert [finding for path in files for finding in dciodvfy(path)] == []
    assert dcentvfy(files) == []
    assert dcmqi_seg(files[0]) == {n: int((job.outputs[0].labels.array == n).sum()) for n in (1, 2)}
    positions = {(one.SOPInstanceUID, n): group.PlanePositionSequence[0].ImagePositionPatient
                 for one in instances for n, group in enumerate(one.PerFrameFunctionalGroupsSequence, start=1)}  # fmt: skip
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = positions[image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber]
        assert image.ReferencedSOPClassUID == instances[0].SOPClassUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == place
    (evidence,) = sr.CurrentRequestedProcedureEvidenceSequence
    assert {item.ReferencedSOPInstanceUID for series in evidence.ReferencedSeriesSequence for item in series.ReferencedSOPSequence} == {
        seg.SOPInstanceUID, *(one.SOPInstanceUID for one in instances),
    }  # fmt: skip


def test_a_result_that_refers_to_no_frame_is_not_stored(store):
    source = list(loaded(store, [enhanced(ct_series(4))]).source)
    job = encoding(source, lung_outputs(source, lungs(source)))
    seg, sr = encoded(job)
    del seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber

    assert problems([seg, sr], encoding=job) == ["Segmentation 0: expected source instances, and their frames, for each frame"]


@pytest.mark.parametrize(
    ("folder", "which", "slices"),
    [("mr_t1_enhanced_siemens_xa30_96frames", ONLY, 96), ("mr_enhanced_philips_b0map", {"EchoTime": 0}, 32)],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_real_enhanced_object_becomes_a_volume_and_its_results_are_accepted(real_data, store, tmp_path, folder, which, slices):
    (instance,) = [dcmread(path) for path in (real_data / folder).iterdir() if path.suffix != ".json"]

    study = loaded(store, [instance], modality="MR", volume=which)

    labels = np.zeros(study.volume.spatial_shape, np.uint8)
    labels[5:9, 20:30, 20:40] = 1
    segmentation = Segmentation(study.volume.with_array(labels), SEGMENTS[:1], "BOX", "Box")
    job = encoding(study.source, (segmentation,))
    assert len(labels) == slices
    assert problems(encoded(job), encoding=job) == []
    (path,) = written(tmp_path, encoded(job), "real")
    assert dciodvfy(path) == []
    assert dcmqi_seg(path) == {1: 4 * 10 * 20}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, triton: str) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("enhanced")
    with World(folder / "world", f"sqlite:///{folder / 'gateway.db'}", triton) as world:
        yield world.start()


def test_an_enhanced_object_goes_the_whole_way_and_its_results_come_back(running):
    slices = ct_series(6, seed=31)
    one = enhanced(slices)

    assert running.send([one]) == [0]
    story = running.wait_ended([one])

    (job,) = story.jobs
    assert job.job.state == "done", job.job.reason
    made = {dcmread(path).Modality: path for path in running.pacs_files()}
    assert dciodvfy(made["SEG"]) == dciodvfy(made["SR"]) == []
    frames = dcmread(made["SEG"]).PerFrameFunctionalGroupsSequence
    assert {
        image.ReferencedSOPInstanceUID for frame in frames for image in frame.DerivationImageSequence[0].SourceImageSequence
    } == {one.SOPInstanceUID}
    assert {frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for frame in frames} <= set(range(1, 7))
