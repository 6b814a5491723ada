"""A parametric map (PS3.3 A.75, C.8.32) on the images that it was made from."""

from collections.abc import Iterator, Mapping

import numpy as np
from pydicom import Dataset

from gateway.conformance.reading import is_near, unmet
from gateway.conformance.segmentation import referenced_series, referred, source_images
from gateway.dicom.enhanced import frame_number
from gateway.outputs import Encoding


def parametric(made: Dataset, encoding: Encoding, _: Mapping[str, Dataset]) -> Iterator[str]:
    first, frames, shared = encoding.source[0], made.PerFrameFunctionalGroupsSequence, made.SharedFunctionalGroupsSequence[0]
    (mapping,), sources = shared.RealWorldValueMappingSequence, {str(source.SOPInstanceUID) for source in encoding.source}
    slices = [{(str(source.SOPInstanceUID), frame_number(source))} for source in reversed(encoding.source)]
    lossy = any(source.get("LossyImageCompression") == "01" for source in encoding.source)
    named = [{referred(image) for image in source_images(frame)} for frame in frames]
    values, places = np.frombuffer(made.FloatPixelData, "<f4"), [frame.PlanePositionSequence[0] for frame in frames]
    yield from unmet(
        *((made.get(k) == first.get(k), f"{k} of the source") for k in ("Rows", "Columns", "FrameOfReferenceUID")),
        (len(frames) == made.NumberOfFrames == len(encoding.source), "a frame for each plane of the source"),
        (len(values) == len(frames) * made.Rows * made.Columns, "Float Pixel Data of all frames"),
        (bool(np.isfinite(values).all()), "finite values"),
        (named == slices, "its source image for each frame, from the last on"),
        (all(map(_lies_there, places, reversed(encoding.source))), "each frame on the position of its source"),
        (referenced_series(made) == {str(first.SeriesInstanceUID): sources}, "exactly the source instances in Referenced Series"),
        (mapping.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM", "a UCUM unit"),
        (bool(mapping.QuantityDefinitionSequence[0].ConceptCodeSequence), "a definition of the quantity"),
        ((mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0), "stored values that are the real ones"),
        (bool(shared.FrameAnatomySequence[0].AnatomicRegionSequence), "Frame Anatomy: there are readers that end without it"),
        (made.LossyImageCompression == "01" or not lossy, "Lossy Image Compression 01, as in the source"),
    )


def _lies_there(place: Dataset, source: Dataset) -> bool:
    return is_near(place, source, "ImagePositionPatient")
