"""The gate before anything is stored: what no external validator checks, checked from the objects and their encoding.

PS3.3 A.51 and A.35.13, PS3.16 TID 1500, IHE AIR 6.5.3.1. Every sentence says what was expected, never what was found.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage, SegmentationStorage

from gateway.dicom.enhanced import frame_number
from gateway.dicom.header import CHECKED, UNICODE, is_legal
from gateway.dicom.radiograph import is_radiograph, place
from gateway.dicom.uids import is_uid
from gateway.outputs import NOT_FOR_DIAGNOSIS, Encoding, Output
from gateway.outputs.modules import FIRST_SERIES_NUMBER
from gateway.outputs.seg import frame_segments, segment_voxels, voxel_mm3

VOLUME_TOLERANCE = 0.001
_CHECKED = frozenset({"UI", *CHECKED})
PATIENT = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
STUDY = (
    "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
TYPE_1 = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ContentDate", "ContentTime")
SEGMENT = (
    "SegmentLabel", "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence", "SegmentAlgorithmName",
    "SegmentationAlgorithmIdentificationSequence", "TrackingID", "TrackingUID", "RecommendedDisplayCIELabValue",
)  # fmt: skip
FLAGS = {"CompletionFlag": "COMPLETE", "PreliminaryFlag": "PRELIMINARY", "VerificationFlag": "UNVERIFIED"}
EVIDENCE = "exactly the source instances and what the content refers to as evidence, each once"

_VOLUME = "118565006"
_GROUP, _SEGMENT, _SERIES, _FRAME, _IMAGE = "125007", "121191", "121232", "121214", "121233"
_MM3 = {"mm3": 1, "ml": 1e3, "mL": 1e3, "cm3": 1e3, "l": 1e6, "L": 1e6}
_OF_LENGTH = frozenset({*(f"{unit}{power}" for unit in ("um", "mm", "cm", "dm", "m") for power in ("", "2", "3")), *_MM3})
_RELATIONSHIPS = {
    **dict.fromkeys(("112039", "112040", "121005", "121012", "121013", "121014", "121015", "121016"), "HAS OBS CONTEXT"),
    **dict.fromkeys(("121049", "121058", "111001", "111003", "363698007", "272741003", "121401"), "HAS CONCEPT MOD"),
    **dict.fromkeys(("126010", _GROUP, _SEGMENT, _SERIES, "121071", _VOLUME), "CONTAINS"),
}


def problems(objects: Sequence[Dataset], *, encoding: Encoding) -> list[str]:
    """One sentence for each thing that is wrong; `objects[n]` is what `encoding.outputs[n]` became. Empty: may be stored."""
    if len(objects) != len(encoding.outputs):
        return ["expected one object for each output"]
    segmentations = {str(made.SOPInstanceUID): made for made in objects if made.SOPClassUID == SegmentationStorage}
    found = []
    for output, made in zip(encoding.outputs, objects, strict=True):
        checks = [_general(made, output, encoding), _elements(made, set())]
        if made.SOPClassUID == SegmentationStorage:
            checks.append(_segmentation(made, encoding))
        if made.SOPClassUID == Comprehensive3DSRStorage:
            checks.append(_report(made, segmentations, encoding))
        name = f"{type(output).__name__} {encoding.ordinal(output)}"
        found += [f"{name}: {problem}" for check in checks for problem in _sentences(check)]
    return found


def _sentences(check: Iterator[str]) -> Iterator[str]:
    try:
        yield from check
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        yield "expected all attributes that the checks read"


def _unmet(*expectations: tuple[bool, str]) -> Iterator[str]:
    return (f"expected {sentence}" for is_met, sentence in expectations if not is_met)


def _general(made: Dataset, output: Output, encoding: Encoding) -> Iterator[str]:
    first, meta = encoding.source[0], made.file_meta
    by_a_person = made.SOPClassUID == KeyObjectSelectionDocumentStorage
    yield from _unmet(
        *(
            (all(_text(made, k) == _text(source, k) for source in encoding.source), f"{k} of every source instance")
            for k in PATIENT
        ),
        *((_text(made, k) == _text(first, k), f"{k} of the source") for k in STUDY),
        *((_text(made, k) != "", f"a value of {k}") for k in TYPE_1),
        (made.SOPInstanceUID == encoding.uid(output, "instance"), "SOP Instance UID derived from the job key"),
        (made.SeriesInstanceUID == encoding.uid(output, "series"), "Series Instance UID derived from the job key"),
        (meta.MediaStorageSOPClassUID == made.SOPClassUID, "file meta information of this SOP class"),
        (meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID, "file meta information of this instance"),
        (int(made.SeriesNumber) >= FIRST_SERIES_NUMBER, f"Series Number {FIRST_SERIES_NUMBER} or more"),
        (NOT_FOR_DIAGNOSIS in _text(made, "SeriesDescription"), f"Series Description to say: {NOT_FOR_DIAGNOSIS}"),
        (_text(made, "SpecificCharacterSet") == UNICODE, f"Specific Character Set {UNICODE}"),
        (
            by_a_person or list(_processing_equipment(made)) == [_algorithm(encoding)],
            "the algorithm alone as Processing Equipment",
        ),
        (not by_a_person or not list(_processing_equipment(made)), "no algorithm in what a person says"),
    )


def _processing_equipment(made: Dataset) -> Iterator[list[str]]:
    for item in made.get("ContributingEquipmentSequence", []):
        if _code(item, "PurposeOfReferenceCodeSequence") == codes.DCM.ProcessingEquipment.value:
            yield [_text(item, keyword) for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")]


def _elements(data_set: Dataset, seen: set[int]) -> Iterator[str]:
    """`seen` are the sequences that were looked at, by their id: frames share them."""
    for element in data_set:
        if element.tag.is_private:
            yield "expected no private element"
        elif element.VR == "SQ":
            if id(element) not in seen:
                seen.add(id(element))
                for item in element.value:
                    yield from _elements(item, seen)
        elif element.VR in _CHECKED and element.value and not _is_valid(element):
            yield f"expected a legal value of {element.keyword}"


def _is_valid(element: DataElement) -> bool:
    values = element.value if element.VM > 1 else [element.value]
    return all(is_uid(str(value)) for value in values) if element.VR == "UI" else is_legal(element)


def _segmentation(made: Dataset, encoding: Encoding) -> Iterator[str]:
    first, frames = encoding.source[0], made.PerFrameFunctionalGroupsSequence
    frame_of_reference = None if is_radiograph(first) else first.get("FrameOfReferenceUID")
    sources = {str(source.SOPInstanceUID) for source in encoding.source}
    slices = {(str(source.SOPInstanceUID), frame_number(source)) for source in encoding.source}
    images = [{_referred(image) for image in _source_images(frame)} for frame in frames]
    numbers = [int(item.SegmentNumber) for item in made.SegmentSequence]
    size = -(-made.NumberOfFrames * made.Rows * made.Columns // 8)
    lossy = any(source.get("LossyImageCompression") == "01" for source in encoding.source)
    yield from _unmet(
        *((made.get(k) == first.get(k), f"{k} of the source") for k in ("Rows", "Columns")),
        (made.get("FrameOfReferenceUID") == frame_of_reference, "Frame of Reference UID of the source, none of a radiograph"),
        *((bool(item.get(k)), f"{k} in each segment") for item in made.SegmentSequence for k in SEGMENT),
        (made.LossyImageCompression == "01" or not lossy, "Lossy Image Compression 01, as in the source"),
        (numbers == list(range(1, len(numbers) + 1)), "Segment Numbers 1, 2, 3 and so on"),
        (len(frames) == made.NumberOfFrames, "one item of Per-Frame Functional Groups for each frame"),
        (len(made.PixelData) == size + size % 2, "Pixel Data of Number of Frames x Rows x Columns bits"),
        (set(frame_segments(made)) <= set(numbers), "each frame in a described segment"),
        (all(image and image <= slices for image in images), "source instances, and their frames, for each frame"),
        (
            _referenced_series(made) == {str(first.SeriesInstanceUID): sources},
            "exactly the source instances in Referenced Series",
        ),
    )


def _report(made: Dataset, segmentations: dict[str, Dataset], encoding: Encoding) -> Iterator[str]:
    manufacturer, name, _, device_uid = _algorithm(encoding)
    observer = {_name(item): item for item in made.ContentSequence}
    content = list(_items(made))
    groups = [item for item in content if _name(item) == _GROUP]
    referenced = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for item in content if "ReferencedSOPSequence" in item
    }
    evidence = Counter(str(reference.ReferencedSOPInstanceUID) for reference in _evidence(made))
    yield from _unmet(
        *((_text(made, keyword) == value, f"{keyword} {value}") for keyword, value in FLAGS.items()),
        (_value(observer.get("121005")) == codes.DCM.Device.value, "a device as observer"),
        (_value(observer.get("121012")) == device_uid, "the algorithm's Device UID as Device Observer UID"),
        (_value(observer.get("121013")) == name, "the algorithm's name as Device Observer Name"),
        (_value(observer.get("121014")) == manufacturer, "the algorithm's manufacturer as Device Observer Manufacturer"),
        (_value(observer.get("121015")) == name, "the algorithm's name as Device Observer Model Name"),
        (_value(observer.get("121016")) == encoding.algorithm.weights, "the weights' digest as Device Observer Serial Number"),
        (evidence == Counter({*referenced, *(str(source.SOPInstanceUID) for source in encoding.source)}), EVIDENCE),
        (bool(groups), "at least one measurement group"),
    )
    for item in content:
        yield from _content_item(item, encoding.source[0])
    for group in groups:
        yield from _group(group, segmentations, encoding)


def _content_item(item: Dataset, image: Dataset) -> Iterator[str]:
    relationship = _RELATIONSHIPS.get(_name(item))
    if relationship not in {None, item.get("RelationshipType")}:
        yield f"expected relationship {relationship} of content item {_name(item)}"
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        yield from _unmet(
            (measured.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM", "UCUM units"),
            (math.isfinite(float(measured.NumericValue)), "finite numbers"),
            (_name(item) != _VOLUME or not is_radiograph(image), "no volume on a radiograph: it shows shadows"),
            (
                _code(measured, "MeasurementUnitsCodeSequence") not in _OF_LENGTH or place(image).is_told,
                "no lengths or areas on an image that does not tell the size of its pixels",
            ),
        )


def _group(group: Dataset, segmentations: dict[str, Dataset], encoding: Encoding) -> Iterator[str]:
    items = {_name(item): item for item in group.ContentSequence}
    manufacturer, name, version, _ = _algorithm(encoding)
    told = [_value(items.get(code)) for code in ("122405", "111001", "111003")]
    template = group.ContentTemplateSequence[0].TemplateIdentifier
    yield from _unmet(
        (
            _value(items.get("112039")) != "" and is_uid(_value(items.get("112040"))),
            "a tracking identifier and UID in each group",
        ),
        (told == [manufacturer, name, version], "the algorithm identified in each group"),
        (
            template != "1411" or {_SEGMENT, _SERIES} <= set(items),
            "a referenced segment and its source series in a volumetric group",
        ),
        (template != "1410" or {_FRAME, _IMAGE} <= set(items), "a frame of a segment and its source image in a planar group"),
    )
    for image in (item for item in group.ContentSequence if item.ValueType == "IMAGE" and _name(item) != _IMAGE):
        yield from _region(image.ReferencedSOPSequence[0], items, segmentations)


def _region(reference: Dataset, items: dict[str, Dataset], segmentations: dict[str, Dataset]) -> Iterator[str]:
    segmentation = segmentations.get(str(reference.ReferencedSOPInstanceUID), Dataset())
    segments = {int(item.SegmentNumber): item for item in segmentation.get("SegmentSequence", [])}
    numbers = np.atleast_1d(reference.get("ReferencedSegmentNumber", [])).tolist()
    if "ReferencedFrameNumber" in reference:
        numbers = [frame_segments(segmentation)[int(reference.ReferencedFrameNumber) - 1]]
    if not numbers or not set(numbers) <= set(segments):
        yield "expected each group to refer to segments of a segmentation of this job"
        return
    first, tracking = segments[numbers[0]], (_value(items["112039"]), _value(items["112040"]))
    if not {_SEGMENT, _FRAME}.isdisjoint(items) and tracking != (first.TrackingID, first.TrackingUID):
        yield "expected the tracking identifiers of the segment in its group"
    if _VOLUME in items and "FrameOfReferenceUID" in segmentation:
        yield from _volume(items[_VOLUME], segmentation, numbers)


def _volume(item: Dataset, segmentation: Dataset, numbers: list[int]) -> Iterator[str]:
    """The volume that a receiver counts in the SEG is the volume that the SR states."""
    measured = item.MeasuredValueSequence[0]
    stated = float(measured.NumericValue) * _MM3.get(_code(measured, "MeasurementUnitsCodeSequence"), math.nan)
    voxels = segment_voxels(segmentation)
    counted = sum(voxels[number] for number in numbers) * voxel_mm3(segmentation)
    return _unmet(
        (abs(stated - counted) <= VOLUME_TOLERANCE * counted, "the volume that the segmentation holds, in mm3, cm3, ml or l")
    )


def _items(container: Dataset) -> Iterator[Dataset]:
    for item in container.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _evidence(made: Dataset) -> Iterator[Dataset]:
    for study in made.get("CurrentRequestedProcedureEvidenceSequence", []):
        for series in study.ReferencedSeriesSequence:
            yield from series.ReferencedSOPSequence


def _referenced_series(made: Dataset) -> dict[str, set[str]]:
    return {
        str(series.SeriesInstanceUID): {str(image.ReferencedSOPInstanceUID) for image in series.ReferencedInstanceSequence}
        for series in made.get("ReferencedSeriesSequence", [])
    }


def _source_images(frame: Dataset) -> list[Dataset]:
    return [image for derivation in frame.get("DerivationImageSequence", []) for image in derivation.SourceImageSequence]


def _referred(image: Dataset) -> tuple[str, int | None]:
    number = image.get("ReferencedFrameNumber")
    return str(image.ReferencedSOPInstanceUID), None if number is None else int(number)


def _algorithm(encoding: Encoding) -> list[str]:
    algorithm = encoding.algorithm
    return [algorithm.manufacturer, algorithm.name, algorithm.version, algorithm.device_uid]


def _text(data_set: Dataset, keyword: str) -> str:
    """Absent and empty are the same: Type 2 attributes of a result are empty where the source has none."""
    return str(data_set.get(keyword) or "")


def _code(data_set: Dataset, keyword: str) -> str:
    """Of more than 16 characters, or a URN, it has another attribute (PS3.3 8.8)."""
    code = data_set[keyword][0]
    return str(code.get("CodeValue") or code.get("LongCodeValue") or code.URNCodeValue)


def _name(item: Dataset) -> str:
    return _code(item, "ConceptNameCodeSequence")


def _value(item: Dataset | None) -> str:
    """The value of a CODE, TEXT or UIDREF content item."""
    if item is None:
        return ""
    return _code(item, "ConceptCodeSequence") if item.ValueType == "CODE" else _text(item, "TextValue") or _text(item, "UID")
