"""RT Structure Set (PS3.3 A.19, C.8.8.5, C.8.8.6): a segmentation as contours, for systems that plan radiotherapy.

A contour runs half-way between the pixels of a segment and those around it: who fills it, by the centres of pixels, gets the
segmentation again. Holes are joined with what is around them by a keyhole (C.8.8.6.3). The object is in Implicit VR, because the
decimal strings of a long contour are more than the 64 kB that an explicit VR leaves them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.radiograph import is_radiograph, place
from gateway.errors import BadOutput
from gateway.outputs import NOT_FOR_DIAGNOSIS, Encoding, modules
from gateway.outputs.outline import outlines
from gateway.outputs.seg import Segmentation

STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and still what stands for the study here
_CONTOUR_DATA = Tag("ContourData")


@dataclass(frozen=True, eq=False)
class StructureSet:
    """The segments of `segmentation` that have voxels, as regions of interest with their numbers, labels and colours."""

    segmentation: Segmentation

    def encode(self, encoding: Encoding) -> Dataset:
        """One RTSTRUCT instance.

        Raises BadOutput where the segmentation could not be encoded either, and on a radiograph: it has no frame of reference.
        """
        self.segmentation.check(encoding)
        if is_radiograph(encoding.source[0]):
            raise BadOutput("expected a structure set on a volume: a radiograph has no frame of reference")
        what = self.segmentation.description
        made = modules.make(
            _empty, encoding=encoding, output=self, images=encoding.source,
            series_description=modules.series_description(f"{what}, contours"),
        )  # fmt: skip
        made.StructureSetLabel = self.segmentation.label
        made.StructureSetDescription = f"{NOT_FOR_DIAGNOSIS}. {what}"
        made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(encoding.source)]
        numbers = [int(number) for number in np.unique(self.segmentation.labels.array) if number]
        made.StructureSetROISequence = [self._region(number, encoding) for number in numbers]
        made.ROIContourSequence = [self._contours(number, encoding) for number in numbers]
        made.RTROIObservationsSequence = [self._observation(number) for number in numbers]
        return made

    def _region(self, number: int, encoding: Encoding) -> Dataset:
        labels, item = self.segmentation.labels, Dataset()
        item.ROINumber = number
        item.ReferencedFrameOfReferenceUID = encoding.source[0].FrameOfReferenceUID
        item.ROIName = self.segmentation.segments[number - 1].label
        item.ROIVolume = format_number_as_ds(np.count_nonzero(labels.array == number) * float(np.prod(labels.spacing)) / 1000)
        item.ROIGenerationAlgorithm = "AUTOMATIC"
        item.ROIGenerationDescription = f"{encoding.algorithm.name} {encoding.algorithm.version}"[:64]
        return item

    def _contours(self, number: int, encoding: Encoding) -> Dataset:
        item = Dataset()
        item.ROIDisplayColor = list(self.segmentation.segments[number - 1].colour)
        item.ReferencedROINumber = number
        item.ContourSequence = list(_planar(self.segmentation.labels, number, encoding.source))
        return item

    def _observation(self, number: int) -> Dataset:
        item = Dataset()
        item.ObservationNumber = item.ReferencedROINumber = number
        item.RTROIIdentificationCodeSequence = [hd.sr.CodedConcept.from_code(self.segmentation.segments[number - 1].type)]
        item.RTROIInterpretedType = item.ROIInterpreter = ""
        return item


def structure_sets(outputs: Sequence[object]) -> tuple[StructureSet, ...]:
    """Of those segmentations among `outputs` that have none yet."""
    known = {id(one.segmentation) for one in outputs if isinstance(one, StructureSet)}
    return tuple(StructureSet(one) for one in outputs if isinstance(one, Segmentation) and id(one) not in known)


def _empty(images: Sequence[Dataset], **arguments: Any) -> Dataset:
    """It has a date of its own, and no Content Date."""
    del arguments["content_date"], arguments["content_time"]
    made = modules.bare(
        images, sop_class_uid=RTStructureSetStorage, modality="RTSTRUCT", transfer_syntax_uid=ImplicitVRLittleEndian, **arguments
    )  # fmt: skip
    made.StructureSetDate, made.StructureSetTime = made.SeriesDate, made.SeriesTime
    made.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    made.PositionReferenceIndicator = images[0].get("PositionReferenceIndicator") or ""
    made.OperatorsName, made.ApprovalStatus = "", "UNAPPROVED"
    return made


def _frame_of_reference(source: Sequence[Dataset]) -> Dataset:
    """All images, whether a contour lies on them or not."""
    found, study, series = Dataset(), Dataset(), Dataset()
    classes = {str(one.SOPInstanceUID): str(one.SOPClassUID) for one in source}
    series.SeriesInstanceUID = source[0].SeriesInstanceUID
    series.ContourImageSequence = [modules.reference(sop_class, uid) for uid, sop_class in classes.items()]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, source[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    found.FrameOfReferenceUID = source[0].FrameOfReferenceUID
    found.RTReferencedStudySequence = [study]
    return found


def _planar(labels: hd.Volume, number: int, source: Sequence[Dataset]) -> Iterator[Dataset]:
    """The contours of a segment, plane by plane, where their images lie (mm, LPS)."""
    down, along = labels.affine[:3, 1], labels.affine[:3, 2]
    for plane, image in zip(labels.array == number, source, strict=True):
        for outline in outlines(plane) if plane.any() else ():
            points = np.array(place(image).position) + outline[:, :1] * down + outline[:, 1:] * along
            item = Dataset()
            item.ContourImageSequence = [modules.referred(image)]
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(points)
            item["ContourData"] = _encoded(points)
            yield item


def _encoded(points: np.ndarray) -> RawDataElement:
    """As the decimal strings that are written: a lung has a million of them, and each as an object of pydicom would take 10 s."""
    value = b"\\".join(b"%.3f" % one for one in points.flat)
    value += b" " * (len(value) % 2)
    return RawDataElement(_CONTOUR_DATA, "DS", len(value), value, 0, is_implicit_VR=True, is_little_endian=True)
