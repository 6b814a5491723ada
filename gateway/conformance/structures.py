"""An RT Structure Set (PS3.3 A.19) whose contours lie on the images that it was made from."""

from collections.abc import Iterator, Mapping

import numpy as np
from pydicom import Dataset

from gateway.conformance.reading import text, unmet
from gateway.dicom.enhanced import frame_number
from gateway.dicom.radiograph import place
from gateway.outputs import Encoding

_OFF_PLANE = 0.01
"""How far a point may lie from the plane of its image, in mm: coordinates have three digits."""
_LEAST_POINTS = 3


def structures(made: Dataset, encoding: Encoding, _: Mapping[str, Dataset]) -> Iterator[str]:
    frame_of_reference = encoding.source[0].FrameOfReferenceUID
    sources = {str(one.SOPInstanceUID) for one in encoding.source}
    images = {(str(one.SOPInstanceUID), frame_number(one)): one for one in encoding.source}
    (of_frame,) = made.ReferencedFrameOfReferenceSequence
    (series,) = of_frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    regions = [int(one.ROINumber) for one in made.StructureSetROISequence]
    yield from unmet(
        (made.FrameOfReferenceUID == of_frame.FrameOfReferenceUID == frame_of_reference, "Frame of Reference UID of the source"),
        (text(made, "ApprovalStatus") == "UNAPPROVED", "Approval Status UNAPPROVED"),
        (
            sources == {str(one.ReferencedSOPInstanceUID) for one in series.ContourImageSequence},
            "exactly the source instances in Contour Image Sequence of the series",
        ),
        (len(set(regions)) == len(regions) > 0, "regions with numbers of their own"),
        *(
            (one.ReferencedFrameOfReferenceUID == frame_of_reference, "each region in that frame")
            for one in made.StructureSetROISequence
        ),
        *(
            (text(one, "ROIGenerationAlgorithm") == "AUTOMATIC", "regions made by an algorithm")
            for one in made.StructureSetROISequence
        ),
        (regions == [int(one.ReferencedROINumber) for one in made.ROIContourSequence], "contours of each region"),
        (regions == [int(one.ReferencedROINumber) for one in made.RTROIObservationsSequence], "an observation of each region"),
    )
    for contour in (one for region in made.ROIContourSequence for one in region.ContourSequence):
        yield from _contour(contour, images)


def _contour(contour: Dataset, images: Mapping[tuple[str, int | None], Dataset]) -> Iterator[str]:
    (referred,) = contour.ContourImageSequence
    number = referred.get("ReferencedFrameNumber")
    image = images.get((str(referred.ReferencedSOPInstanceUID), None if number is None else int(number)))
    points = _points(contour)
    yield from unmet(
        (text(contour, "ContourGeometricType") == "CLOSED_PLANAR", "closed planar contours"),
        (int(contour.NumberOfContourPoints) == len(points) >= _LEAST_POINTS, "the number of points that each contour has"),
        (image is not None and _is_on(image, points), "each contour on the plane of its image"),
    )


def _points(contour: Dataset) -> np.ndarray:
    """(points, 3) mm, without making objects of what is encoded already."""
    value = contour.get_item("ContourData").value
    return np.array(value.split(b"\\") if isinstance(value, bytes) else value, float).reshape(-1, 3)


def _is_on(image: Dataset, points: np.ndarray) -> bool:
    position, orientation, *_ = place(image)
    normal = np.cross(*np.array(orientation).reshape(2, 3))
    return bool(np.abs((points - position) @ (normal / np.linalg.norm(normal))).max() <= _OFF_PLANE)
