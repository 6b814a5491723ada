"""Comprehensive 3D SR, TID 1500 Measurement Report (PS3.3 A.35.13, PS3.16; IHE AIR): what was measured, by whom, on what.

A machine's report is COMPLETE, PRELIMINARY and UNVERIFIED, always.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from gateway import outputs
from gateway.dicom.radiograph import is_radiograph
from gateway.errors import BadOutput
from gateway.outputs import INCOMPLETE, NOT_FOR_DIAGNOSIS, Encoding, check_codes, modules
from gateway.outputs.seg import Segmentation, frame_segments

PRIVATE_SCHEME = outputs.PRIVATE_SCHEME  # where pipelines look for it
PRESENT, ABSENT = Code("52101004", "SCT", "Present"), Code("272519000", "SCT", "Absent")
REQUEST = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)

_GroupItem = (
    hd.sr.MeasurementsAndQualitativeEvaluations
    | hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
)
_SOURCE = Code("260753009", "SCT", "Source")


@dataclass(frozen=True)
class Measurement:
    """One number in a UCUM unit. `derivation` is of CID 7464 (mean, ...), `method` says how it was computed."""

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: Code | None = None

    def __post_init__(self) -> None:
        check_codes("measurement", self.name, self.unit, *(one for one in (self.derivation, self.method) if one is not None))


@dataclass(frozen=True)
class Group:
    """What was measured on `segments`, numbers from 1 of the report's segmentation.

    One segment makes a TID 1411 group that shares the segment's tracking identifiers, or on a radiograph a TID 1410 group.
    Several make a TID 1501 group whose source is those segments, because the others allow a single one. None makes a TID 1501
    group on the whole series.

    `evaluation` is what it states of `finding` in words: PRESENT, ABSENT, or another code. Without one, and without measurements,
    it states PRESENT where its segments have voxels, and else ABSENT: a classification that finds something has to say so.
    """

    label: str
    segments: tuple[int, ...]
    finding: Code
    finding_site: Code | None = None
    laterality: Code | None = None
    measurements: tuple[Measurement, ...] = ()
    evaluation: Code | None = None


@dataclass(frozen=True, eq=False)
class MeasurementReport:
    """`procedure` is the imaging procedure (CID 100), `title` of CID 7021, `description` is for people."""

    segmentation: Segmentation | None
    groups: tuple[Group, ...]
    procedure: Code
    description: str
    title: Code = codes.DCM.ImagingMeasurementReport

    def __post_init__(self) -> None:
        if isinstance(self.groups, Group) or not all(isinstance(group, Group) for group in self.groups):
            raise BadOutput("report: expected groups as a tuple of Group; one alone needs its comma: (group,)")
        check_codes("report", self.procedure, self.title)

    def encode(self, encoding: Encoding) -> Dataset:
        """One SR instance; its evidence are all source instances, companions and the segmentation.

        Raises BadOutput where there is no group, a group names a segment that is not there, or a number is not finite.
        """
        self._check()
        segmentation = None if self.segmentation is None else encoding.dataset(self.segmentation)
        report = hd.sr.MeasurementReport(
            observation_context=_observer(encoding),
            procedure_reported=self.procedure,
            imaging_measurements=[self._group(group, segmentation, encoding) for group in self.groups],
            title=self.title,
        )
        lacking = f". {INCOMPLETE}: {encoding.partial}" if encoding.partial else ""
        comment = f"{NOT_FOR_DIAGNOSIS}. {self.description}{lacking}"
        contains = hd.sr.RelationshipTypeValues.CONTAINS
        report[0].ContentSequence.append(hd.sr.TextContentItem(codes.DCM.Comment, comment, contains))
        return modules.make(
            hd.sr.Comprehensive3DSR,
            encoding=encoding,
            output=self,
            images=[*encoding.source, *encoding.companions, *([] if segmentation is None else [segmentation])],
            content=report,
            is_complete=True,
            is_final=False,
            is_verified=False,
            requested_procedures=_requests(encoding),
            previous_versions=[one for one in encoding.replaces if one.SOPClassUID == Comprehensive3DSRStorage] or None,
            series_description=modules.series_description(self.description),
        )

    def _check(self) -> None:
        known = 0 if self.segmentation is None else len(self.segmentation.segments)
        if not self.groups:
            raise BadOutput("expected at least one group: an empty finding is a group without segments and measurements")
        for group in self.groups:
            if any(not 1 <= number <= known for number in group.segments):
                raise BadOutput("expected each group's segments among the segmentation's")
            if any(not math.isfinite(measurement.value) for measurement in group.measurements):
                raise BadOutput("expected finite measurements: leave out what could not be measured")

    def _group(self, group: Group, segmentation: Dataset | None, encoding: Encoding) -> _GroupItem:
        evaluation = self.evaluation(group)
        arguments: dict[str, Any] = {
            "finding_type": group.finding,
            "finding_sites": None if group.finding_site is None else [hd.sr.FindingSite(group.finding_site, group.laterality)],
            "algorithm_id": _algorithm(encoding),
            "measurements": [_measurement(measurement) for measurement in group.measurements],
            "qualitative_evaluations": None if evaluation is None else [hd.sr.QualitativeEvaluation(group.finding, evaluation)],
        }
        if self.segmentation is not None and segmentation is not None and len(group.segments) == 1:
            (number,) = group.segments
            tracking_id, tracking_uid = self.segmentation.tracking(number, encoding)
            if is_radiograph(encoding.source[0]):
                return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                    hd.sr.TrackingIdentifier(tracking_uid, tracking_id),
                    referenced_segment=_segmented(number, segmentation, encoding.source[0]),
                    **arguments,
                )
            return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                hd.sr.TrackingIdentifier(tracking_uid, tracking_id),
                referenced_segment=_segment(number, segmentation, encoding),
                **arguments,
            )
        whole = hd.sr.MeasurementsAndQualitativeEvaluations(
            hd.sr.TrackingIdentifier(encoding.uid(self, f"group {group.label}"), group.label),
            **arguments,
        )
        if segmentation is not None and group.segments:
            whole[0].ContentSequence.append(_segments(group.segments, segmentation))
        return whole

    def evaluation(self, group: Group) -> Code | None:
        """What it states of the finding in words; None where it leaves that to its measurements."""
        if group.evaluation is not None or group.measurements:
            return group.evaluation
        labels = None if self.segmentation is None else self.segmentation.labels.array
        there = labels is not None and any((labels == number).any() for number in group.segments)
        return PRESENT if there else ABSENT

    def present(self) -> Iterator[str]:
        """What it states to be present, and where: in words of its codes, which the pipeline brings along."""
        for group in self.groups:
            stated = self.evaluation(group)
            if stated is not None and stated == PRESENT:  # a Code cannot be compared with None
                where = ", ".join(code.meaning for code in (group.finding_site, group.laterality) if code is not None)
                yield f"{group.finding.meaning}{f' ({where})' if where else ''}: {PRESENT.meaning}"


def _observer(encoding: Encoding) -> hd.sr.ObservationContext:
    """IHE AIR 6.5.3.1: the observer is the algorithm, not the gateway; the values of its Contributing Equipment item."""
    by = encoding.algorithm
    device = modules.observer(by.device_uid, name=by.name, manufacturer=by.manufacturer, serial_number=by.weights)
    return hd.sr.ObservationContext(observer_device_context=device)


def _algorithm(encoding: Encoding) -> hd.sr.AlgorithmIdentification:
    algorithm = encoding.algorithm
    return hd.sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        manufacturer=algorithm.manufacturer,
        parameters=[f"model={algorithm.model}", f"model version={algorithm.model_version}"],
        family=codes.DCM.ArtificialIntelligence,
    )


def _measurement(measurement: Measurement) -> hd.sr.Measurement:
    """Six significant digits: a decimal string holds them, and no scanner measures more."""
    return hd.sr.Measurement(
        measurement.name,
        float(f"{measurement.value:.6g}"),
        measurement.unit,
        derivation=measurement.derivation,
        method=measurement.method,
    )


def _segment(number: int, segmentation: Dataset, encoding: Encoding) -> hd.sr.ReferencedSegment:
    """The series stands for its images: one item instead of one for each slice in each group."""
    series = hd.sr.SourceSeriesForSegmentation(encoding.source[0].SeriesInstanceUID)
    return hd.sr.ReferencedSegment(segmentation.SOPClassUID, segmentation.SOPInstanceUID, number, source_series=series)


def _segmented(number: int, segmentation: Dataset, image: Dataset) -> hd.sr.ReferencedSegmentationFrame:
    """On its one image a segment has one frame, where it has pixels at all."""
    if number not in frame_segments(segmentation):
        raise BadOutput("expected pixels of each segment that a group is about: leave out what is not there")
    source = hd.sr.SourceImageForSegmentation(image.SOPClassUID, image.SOPInstanceUID)
    frame = frame_segments(segmentation).index(number) + 1
    made = hd.sr.ReferencedSegmentationFrame(segmentation.SOPClassUID, segmentation.SOPInstanceUID, frame, number, source)
    del made[0].ReferencedSOPSequence[0].ReferencedSegmentNumber  # not beside a frame (PS3.3 10.3)
    return made


def _segments(numbers: tuple[int, ...], segmentation: Dataset) -> hd.sr.ImageContentItem:
    return hd.sr.ImageContentItem(
        name=_SOURCE,
        referenced_sop_class_uid=segmentation.SOPClassUID,
        referenced_sop_instance_uid=segmentation.SOPInstanceUID,
        referenced_segment_numbers=list(numbers),
        relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
    )


def _requests(encoding: Encoding) -> list[Dataset] | None:
    """Referenced Request Sequence (PS3.3 C.17.2), where the source says which request it fulfils."""
    source = encoding.source[0]
    requests = []
    for asked in source.get("RequestAttributesSequence") or []:
        request = Dataset()
        request.StudyInstanceUID = source.StudyInstanceUID
        request.ReferencedStudySequence = []
        request.RequestedProcedureCodeSequence = asked.get("RequestedProcedureCodeSequence") or []
        for keyword in REQUEST:
            setattr(request, keyword, asked.get(keyword) or source.get(keyword) or "")
        requests.append(request)
    return requests or None
