"""The frames of a segmentation, one for each segment on each plane where it is, and of a parametric map, one for each plane.

PS3.3 C.7.6.16.2, C.8.20.3; PS3.5 8.1.1.

highdicom makes the object, with one frame; all others are made after the pattern of that one. What frames of one plane, or of
one segment, say alike is one element that they share: a model of the whole body has a hundred segments on hundreds of planes.
"""

from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from pydicom import DataElement, Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.enhanced import frame_number
from gateway.dicom.radiograph import is_radiograph
from gateway.outputs.modules import reference


def single(source: Dataset, spacing_mm: float) -> Dataset:
    """As a classic instance, also where it is one frame of many; where it tells no thickness, as thick as slices are apart.

    A radiograph has no frame of reference, whatever it says: it has no place in one.
    """
    single = Dataset()
    single.update(source)
    if is_radiograph(source):
        single.pop("FrameOfReferenceUID", None)
        return single
    if not single.get("SliceThickness"):
        single["SliceThickness"] = DataElement("SliceThickness", "DS", format_number_as_ds(spacing_mm))
    if frame_number(source) is not None:
        single["SOPClassUID"] = DataElement("SOPClassUID", "UI", CTImageStorage)
    return single


def organize(made: Dataset, uid: str) -> None:
    """Highdicom draws the UID of the dimensions."""
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def refer(made: Dataset, sources: Sequence[Dataset]) -> None:
    """To every instance, whether a frame comes from it or not (PS3.3 C.7.6.1.1.4, C.12.2)."""
    instances = {str(source.SOPInstanceUID): str(source.SOPClassUID) for source in sources}
    references = [reference(sop_class, uid) for uid, sop_class in instances.items()]
    made.SourceImageSequence = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references


def fill(made: Dataset, labels: hd.Volume, planes: Sequence[Dataset]) -> None:
    """Give `made` its frames, in the order of their segments, and in each of their planes.

    `labels` is (planes, rows, columns) uint8, not all 0; value n is segment n. `planes` are their headers.
    """
    shared, (pattern,) = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence
    there = np.array([_values(plane) for plane in labels.array])
    kept = np.flatnonzero(there.any(axis=1)).tolist()
    found = [(int(number), int(plane)) for number, plane in np.argwhere(there.T)]
    is_told_once = "SegmentIdentificationSequence" in shared  # where there is one segment
    is_placed = "FrameOfReferenceUID" in made  # a radiograph is not
    if is_placed:
        shared.PixelMeasuresSequence[0].SpacingBetweenSlices = format_number_as_ds(labels.spacing[0])
    if is_placed and is_told_once and len(set(np.diff(kept))) == 1:
        made.DimensionOrganizationType = "3D"
    (derivation,) = pattern.DerivationImageSequence
    alike = _alike(derivation)
    derivations = {plane: _derivation(alike, derivation["DerivationCodeSequence"], planes[plane]) for plane in kept}
    positions = {plane: [_position(planes[plane])] if is_placed else [] for plane in kept}
    segments = {
        number: _sequence("SegmentIdentificationSequence", DataElement("ReferencedSegmentNumber", "US", number))
        for number in {number for number, _ in found}
    }
    rank = {plane: place for place, plane in enumerate(kept, start=1)}
    made.PerFrameFunctionalGroupsSequence = [
        _item(
            derivations[plane],
            _content([number, rank[plane]][: 1 + is_placed]),
            *positions[plane],
            *(() if is_told_once else (segments[number],)),
        )
        for number, plane in found
    ]
    made.NumberOfFrames = len(found)
    made.PixelData = b"".join(_bits(labels.array, found))
    made["PixelData"].VR = "OB"


def fill_each(made: Dataset, values: hd.Volume, planes: Sequence[Dataset]) -> None:
    """Give `made` a frame for each plane, an empty one too; `values` is (planes, rows, columns) float32.

    The last plane, which lies first along the normal, is the first frame: there are readers that believe that order (dcmqi).
    """
    shared, (pattern,) = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = format_number_as_ds(values.spacing[0])
    (derivation,) = pattern.DerivationImageSequence
    alike, code = _alike(derivation), derivation["DerivationCodeSequence"]
    made.PerFrameFunctionalGroupsSequence = [_item(_derivation(alike, code, plane), _content([rank]), _position(plane))
                                             for rank, plane in enumerate(reversed(planes), start=1)]  # fmt: skip
    made.NumberOfFrames = len(planes)
    made["FloatPixelData"] = DataElement("FloatPixelData", "OF", values.array[::-1].astype("<f4", copy=False).tobytes())


def _alike(derivation: Dataset) -> list[DataElement]:
    """What it says of every source image."""
    return [element for element in derivation.SourceImageSequence[0] if "Referenced" not in element.keyword]


def _content(indices: list[int]) -> DataElement:
    return _sequence("FrameContentSequence", DataElement("DimensionIndexValues", "UL", indices))


def _values(plane: np.ndarray) -> np.ndarray:
    """(256,) bool, which values but 0 a plane has. Each stands where a run of equal ones ends: those are few."""
    flat, there = plane.reshape(-1), np.zeros(256, bool)
    there[flat[:-1][flat[1:] != flat[:-1]]] = there[flat[-1]] = True
    there[0] = False
    return there


def _bits(labels: np.ndarray, found: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Packed without a gap between frames: eight of any size end at a byte. An odd number of bytes is padded."""
    size = 0
    for start in range(0, len(found), 8):
        packed = np.packbits([labels[plane] == number for number, plane in found[start : start + 8]], bitorder="little")
        size += packed.size
        yield packed.tobytes()
    yield b"\0" * (size % 2)


def _derivation(alike: Sequence[DataElement], code: DataElement, source: Dataset) -> DataElement:
    """The source of a plane: an instance, or a frame of one. `alike` and `code` are the same for all."""
    image = [
        *alike,
        DataElement("ReferencedSOPClassUID", "UI", source.SOPClassUID),
        DataElement("ReferencedSOPInstanceUID", "UI", source.SOPInstanceUID),
    ]
    if (frame := frame_number(source)) is not None:
        image.append(DataElement("ReferencedFrameNumber", "IS", frame))
    return _sequence("DerivationImageSequence", code, _sequence("SourceImageSequence", *image))


def _position(source: Dataset) -> DataElement:
    """Its own decimal strings; those that are too long, as scanners write them, are shortened."""
    position = hd.PlanePositionSequence("PATIENT", source.ImagePositionPatient)
    return DataElement("PlanePositionSequence", "SQ", position)


def _sequence(keyword: str, *elements: DataElement) -> DataElement:
    return DataElement(keyword, "SQ", [_item(*elements)])


def _item(*elements: DataElement) -> Dataset:
    item = Dataset()
    for element in elements:
        item.add(element)
    return item
