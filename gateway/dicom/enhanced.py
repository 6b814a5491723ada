"""Enhanced objects as the single frames that a classic series would have (PS3.3 C.7.6.16): headers only, no pixels.

Rules, the geometry gate and results know images of one frame. So the functional groups of each frame are laid out in a header
of its own, under the keywords that a classic image has for the same; its ReferencedFrameNumber is its number in its instance.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

from gateway.dicom.values import numbers, texts, values, whole

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_OF_VOLUMES = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")
"""Groups of which no frame may have two (C.7.6.16.1.1): nobody could say which is meant."""
_ONLY_IN_GROUPS = frozenset(
    Tag(keyword)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
        "RescaleSlope", "RescaleIntercept", "RescaleType",
    )
)  # fmt: skip
_OF_THE_OBJECT = frozenset(
    Tag(keyword) for keyword in (_SHARED, _PER_FRAME, "DimensionIndexSequence", "NumberOfFrames", "PixelData")
)
_NESTED = frozenset((Tag("DiffusionGradientDirectionSequence"),))
_CLASSIC: Mapping[str, str] = MappingProxyType(
    {"FrameType": "ImageType", "EffectiveEchoTime": "EchoTime", "FrameAcquisitionNumber": "AcquisitionNumber"}
)
_PLACES = frozenset(
    Tag(keyword) for keyword in ("StackID", "InStackPositionNumber", "ImagePositionPatient", "PlanePositionSequence")
)

Elements = dict[BaseTag, DataElement | RawDataElement]


def unfolded(headers: Sequence[Dataset]) -> list[Dataset]:
    """A header for each frame of enhanced images, in their order; every other header as it is, those with a `problem` too."""
    return [frame for header in headers for frame in (_frames(header) if _is_enhanced(header) else (header,))]


def frame_number(header: Dataset) -> int | None:
    """Of an unfolded header: its frame in its instance, from 1; None where the instance has no frames."""
    number = whole(header, "ReferencedFrameNumber")
    return number if number > 0 else None


def problem(header: Dataset) -> str:
    """Why the frames of an enhanced image cannot be told apart, in a sentence; nothing where they can."""
    groups = _items(header, _PER_FRAME)
    if len(groups) != whole(header, "NumberOfFrames"):
        return "expected as many items of Per-Frame Functional Groups as NumberOfFrames says"
    shared = next(iter(_items(header, _SHARED)), Dataset())
    for keyword in _OF_VOLUMES:
        if keyword in shared and any(keyword in group and group[keyword] != shared[keyword] for group in groups):
            return f"expected {keyword} for all frames or for each one; there are both, and they differ"
    return ""


def _is_enhanced(header: Dataset) -> bool:
    return _PER_FRAME in header and "SEG" not in texts(header, "Modality") and not problem(header)


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    return [item for item in values(header, keyword) if isinstance(item, Dataset)]


def _frames(header: Dataset) -> Iterator[Dataset]:
    left_out = _OF_THE_OBJECT | _ONLY_IN_GROUPS
    own: Elements = {tag: element for tag, element in header.items() if tag not in left_out}
    shared = _flat(_items(header, _SHARED)[:1])
    implicit_vr, little_endian = header.original_encoding
    offset = max(0, whole(header, "ConcatenationFrameOffsetNumber"))
    pointers = [pointer for item in _items(header, "DimensionIndexSequence") for pointer in values(item, "DimensionIndexPointer")]
    for number, group in enumerate(_items(header, _PER_FRAME), start=1):
        frame = Dataset({**shared, **_flat([group]), **own})
        frame.set_original_encoding(implicit_vr, little_endian, header.original_character_set)
        if hasattr(header, "file_meta"):
            frame.file_meta = header.file_meta
        _add_classic(frame)
        _set(frame, "DimensionIndexValues", _other_dimensions(frame, pointers))
        _set(frame, "InstanceNumber", [offset + number])
        _set(frame, "ReferencedFrameNumber", [number])
        yield frame


def _flat(groups: Iterable[Dataset]) -> Elements:
    """What the macros of functional groups hold; each has one item (C.7.6.16.2)."""
    found: Elements = {}
    for group in groups:
        for tag in group.keys():  # noqa: SIM118 - iterating a Dataset would read every element
            if tag.is_private or group.get_item(tag).VR not in ("SQ", None):
                continue
            for macro in [item for item in _of(group, tag) if isinstance(item, Dataset)][:1]:
                found |= {one: element for one, element in macro.items() if not one.is_private}
                found |= _flat_nested(macro)
    return found


def _flat_nested(macro: Dataset) -> Elements:
    return {tag: element for one in _NESTED if one in macro for item in _of(macro, one)[:1] for tag, element in item.items()}


def _of(group: Dataset, tag: BaseTag) -> list[Dataset]:
    try:
        return list(group[tag].value)
    except Exception:  # noqa: BLE001 - foreign bytes: what cannot be read is absent, as in values.py
        return []


def _add_classic(frame: Dataset) -> None:
    for keyword, classic in _CLASSIC.items():
        if found := values(frame, keyword):
            _set(frame, classic, found)


def _other_dimensions(frame: Dataset, pointers: Sequence[object]) -> list[object]:
    """Its index in the dimensions that are no places: what sets frames at one place apart (C.7.6.17)."""
    index = numbers(frame, "DimensionIndexValues")
    if len(index) != len(pointers):
        return []
    return [int(value) for value, pointer in zip(index, pointers, strict=True) if pointer not in _PLACES]


def _set(frame: Dataset, keyword: str, found: Sequence[object]) -> None:
    if not found:
        frame.pop(keyword, None)
        return
    value = found[0] if len(found) == 1 else list(found)
    frame[keyword] = DataElement(Tag(keyword), dictionary_VR(keyword), value, validation_mode=config.IGNORE)
