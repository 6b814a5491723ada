"""A derived CT or MR image (PS3.3 A.3, A.4) against the image that it says it was made of."""

import math
from collections.abc import Iterator, Mapping

from pydicom import Dataset
from pydicom.sr.codedict import codes

from gateway.conformance.reading import code, is_near, text, unmet
from gateway.dicom.enhanced import frame_number
from gateway.outputs import Encoding

_PLACE = ("FrameOfReferenceUID", "Rows", "Columns")
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_HOW = ("DerivationCodeSequence", "DerivationDescription")
_INT16 = (-(2**15), 2**15 - 1)


def derived(made: Dataset, encoding: Encoding, _: Mapping[str, Dataset]) -> Iterator[str]:
    (image,) = made.SourceImageSequence
    source = next((one for one in encoding.source if _is(one, image)), None)
    if source is None:
        yield "expected a source instance, and its frame, as Source Image"
        return
    slope, intercept = float(made.get("RescaleSlope", 1)), float(made.get("RescaleIntercept", 0))
    lossy = any(one.get("LossyImageCompression") == "01" for one in encoding.source)
    purpose, pixels = codes.DCM.SourceImageForImageProcessingOperation, ("BitsAllocated", "BitsStored", "PixelRepresentation")
    yield from unmet(
        *((made.get(keyword) == source.get(keyword), f"{keyword} of the source") for keyword in _PLACE),
        *((is_near(made, source, keyword), f"{keyword} of the source") for keyword in _GEOMETRY),
        (list(made.ImageType[:2]) == ["DERIVED", "SECONDARY"], "Image Type DERIVED, SECONDARY"),
        (code(image, "PurposeOfReferenceCodeSequence") == purpose.value, "the purpose of the Source Image: image processing"),
        (all(map(made.get, _HOW)), "how it was derived, as code and text"),
        ("PresentationIntentType" not in made, "no Presentation Intent: nobody made it for presentation"),
        ([made[keyword].value for keyword in pixels] == [16, 16, 1], "signed values of 16 bits"),
        (len(made.PixelData) == made.Rows * made.Columns * 2, "Pixel Data of Rows x Columns values"),
        (math.isfinite(intercept) and 0 < slope < math.inf, "a finite Rescale Intercept, a Rescale Slope above 0"),
        (made.Modality != "CT" or _is_hounsfield(made, slope, intercept), "Hounsfield units that int16 holds"),
        (made.get("LossyImageCompression") == "01" or not lossy, "Lossy Image Compression 01, as in the source"),
    )


def _is(source: Dataset, image: Dataset) -> bool:
    return bool(
        source.SOPInstanceUID == image.ReferencedSOPInstanceUID and frame_number(source) == image.get("ReferencedFrameNumber")
    )


def _is_hounsfield(made: Dataset, slope: float, intercept: float) -> bool:
    """Steps of more than one unit would be no CT any more, and what a model gives beyond is no tissue and no metal."""
    low, high = (slope * limit + intercept for limit in _INT16)
    return text(made, "RescaleType") != "HU" or (low > _INT16[0] - 1 and high < _INT16[1] + 1)
