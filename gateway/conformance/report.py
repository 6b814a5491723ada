"""A measurement report (PS3.3 A.35.13, PS3.16 TID 1500) and what it refers to (IHE AIR 6.5.3.1)."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage

from gateway.conformance.reading import algorithm, code, text, unmet
from gateway.dicom.radiograph import is_radiograph, place
from gateway.dicom.uids import is_uid
from gateway.outputs import Encoding
from gateway.outputs.seg import frame_segments, segment_voxels, voxel_mm3

VOLUME_TOLERANCE = 0.001
FLAGS = {"CompletionFlag": "COMPLETE", "PreliminaryFlag": "PRELIMINARY", "VerificationFlag": "UNVERIFIED"}
EVIDENCE = "exactly the source instances, companions and what the content refers to as evidence, each once"

_VOLUME = "118565006"
_GROUP, _SEGMENT, _SERIES, _FRAME, _IMAGE = "125007", "121191", "121232", "121214", "121233"
_MM3 = {"mm3": 1, "ml": 1e3, "mL": 1e3, "cm3": 1e3, "l": 1e6, "L": 1e6}
_OF_LENGTH = frozenset({*(f"{unit}{power}" for unit in ("um", "mm", "cm", "dm", "m") for power in ("", "2", "3")), *_MM3})
_RELATIONSHIPS = {
    **dict.fromkeys(("112039", "112040", "121005", "121012", "121013", "121014", "121015", "121016"), "HAS OBS CONTEXT"),
    **dict.fromkeys(("121049", "121058", "111001", "111003", "363698007", "272741003", "121401"), "HAS CONCEPT MOD"),
    **dict.fromkeys(("126010", _GROUP, _SEGMENT, _SERIES, "121071", _VOLUME), "CONTAINS"),
}


def report(made: Dataset, encoding: Encoding, together: Mapping[str, Dataset]) -> Iterator[str]:
    """`together` are the objects of the job, by their SOP Instance UID."""
    segmentations = {uid: one for uid, one in together.items() if one.SOPClassUID == SegmentationStorage}
    manufacturer, name, _, device_uid = algorithm(encoding)
    observer = {_name(item): item for item in made.ContentSequence}
    content = list(_items(made))
    groups = [item for item in content if _name(item) == _GROUP]
    referenced = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for item in content if "ReferencedSOPSequence" in item
    }
    sources = (*encoding.source, *encoding.companions)
    evidence = Counter(str(reference.ReferencedSOPInstanceUID) for reference in _evidence(made))
    yield from unmet(
        *((text(made, keyword) == value, f"{keyword} {value}") for keyword, value in FLAGS.items()),
        (_value(observer.get("121005")) == codes.DCM.Device.value, "a device as observer"),
        (_value(observer.get("121012")) == device_uid, "the algorithm's Device UID as Device Observer UID"),
        (_value(observer.get("121013")) == name, "the algorithm's name as Device Observer Name"),
        (_value(observer.get("121014")) == manufacturer, "the algorithm's manufacturer as Device Observer Manufacturer"),
        (_value(observer.get("121015")) == name, "the algorithm's name as Device Observer Model Name"),
        (_value(observer.get("121016")) == encoding.algorithm.weights, "the weights' digest as Device Observer Serial Number"),
        (evidence == Counter({*referenced, *(str(one.SOPInstanceUID) for one in sources)}), EVIDENCE),
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
        yield from unmet(
            (measured.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM", "UCUM units"),
            (math.isfinite(float(measured.NumericValue)), "finite numbers"),
            (_name(item) != _VOLUME or not is_radiograph(image), "no volume on a radiograph: it shows shadows"),
            (
                code(measured, "MeasurementUnitsCodeSequence") not in _OF_LENGTH or place(image).is_told,
                "no lengths or areas on an image that does not tell the size of its pixels",
            ),
        )


def _group(group: Dataset, segmentations: dict[str, Dataset], encoding: Encoding) -> Iterator[str]:
    items = {_name(item): item for item in group.ContentSequence}
    manufacturer, name, version, _ = algorithm(encoding)
    told = [_value(items.get(code)) for code in ("122405", "111001", "111003")]
    template = group.ContentTemplateSequence[0].TemplateIdentifier
    yield from unmet(
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
    stated = float(measured.NumericValue) * _MM3.get(code(measured, "MeasurementUnitsCodeSequence"), math.nan)
    voxels = segment_voxels(segmentation)
    counted = sum(voxels[number] for number in numbers) * voxel_mm3(segmentation)
    return unmet(
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


def _name(item: Dataset) -> str:
    return code(item, "ConceptNameCodeSequence")


def _value(item: Dataset | None) -> str:
    """The value of a CODE, TEXT or UIDREF content item."""
    if item is None:
        return ""
    return code(item, "ConceptCodeSequence") if item.ValueType == "CODE" else text(item, "TextValue") or text(item, "UID")
