"""A BINARY segmentation (PS3.3 A.51, C.8.20) on the images that it was made from."""

from collections.abc import Iterator, Mapping

from pydicom import Dataset

from gateway.conformance.reading import unmet
from gateway.dicom.enhanced import frame_number
from gateway.dicom.radiograph import is_radiograph
from gateway.outputs import Encoding
from gateway.outputs.seg import frame_segments

SEGMENT = (
    "SegmentLabel", "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence", "SegmentAlgorithmName",
    "SegmentationAlgorithmIdentificationSequence", "TrackingID", "TrackingUID", "RecommendedDisplayCIELabValue",
)  # fmt: skip


def segmentation(made: Dataset, encoding: Encoding, _: Mapping[str, Dataset]) -> Iterator[str]:
    first, frames = encoding.source[0], made.PerFrameFunctionalGroupsSequence
    frame_of_reference = None if is_radiograph(first) else first.get("FrameOfReferenceUID")
    sources = {str(source.SOPInstanceUID) for source in encoding.source}
    slices = {(str(source.SOPInstanceUID), frame_number(source)) for source in encoding.source}
    images = [{referred(image) for image in source_images(frame)} for frame in frames]
    numbers = [int(item.SegmentNumber) for item in made.SegmentSequence]
    size = -(-made.NumberOfFrames * made.Rows * made.Columns // 8)
    lossy = any(source.get("LossyImageCompression") == "01" for source in encoding.source)
    yield from unmet(
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
            referenced_series(made) == {str(first.SeriesInstanceUID): sources},
            "exactly the source instances in Referenced Series",
        ),
    )


def referenced_series(made: Dataset) -> dict[str, set[str]]:
    return {
        str(series.SeriesInstanceUID): {str(image.ReferencedSOPInstanceUID) for image in series.ReferencedInstanceSequence}
        for series in made.get("ReferencedSeriesSequence", [])
    }


def source_images(frame: Dataset) -> list[Dataset]:
    return [image for derivation in frame.get("DerivationImageSequence", []) for image in derivation.SourceImageSequence]


def referred(image: Dataset) -> tuple[str, int | None]:
    number = image.get("ReferencedFrameNumber")
    return str(image.ReferencedSOPInstanceUID), None if number is None else int(number)
