"""A derived CT or MR series (PS3.3 A.3, A.4): images that a model made of images, such as denoised or synthetic ones.

Classic instances of one frame, of an enhanced source too: every archive and viewer takes them, and an enhanced object has to
tell, frame by frame, of an acquisition that these images never had.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Optional

import highdicom as hd
import numpy as np
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, CTImageStorage, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.values import whole
from gateway.errors import BadOutput
from gateway.outputs import NOT_FOR_DIAGNOSIS, Encoding, check_codes, modules
from gateway.outputs.grid import check_grid

CLASSES: Mapping[str, UID] = MappingProxyType({"CT": CTImageStorage, "MR": MRImageStorage})
_INT16, _AS_THEY_ARE, _LONGEST_DS = np.iinfo(np.int16), (1.0, 0.0), 16
_PLACE: Mapping[str, str | None] = MappingProxyType(
    {
        **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices")),
        **dict.fromkeys(("SliceThickness", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition"), ""),
    }
)
_ACQUISITION: Mapping[str, Mapping[str, str | None]] = MappingProxyType(
    {
        "CT": {"KVP": "", "AcquisitionNumber": "", "RescaleType": "HU"},
        "MR": {
            "ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "", "EchoTime": "",
            "EchoTrainLength": "", "RepetitionTime": "", "InversionTime": None, "TriggerTime": None,
        },
    }
)  # fmt: skip
_WINDOW: Mapping[str, str | None] = MappingProxyType(
    dict.fromkeys(("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"))
)
"""What still holds, as far as the image modules want it told, and what stands there where the source does not tell it."""


@dataclass(frozen=True, eq=False)
class DerivedImages:
    """`volume` is (slices, rows, columns) float32 or int16 on the grid of the source, in the unit of `study.volume`.

    `derivation` is of CID 7203, such as codes.DCM.Smoothing, or another code. `window` is centre and width in that unit, or else
    the source's. `modality` is the source's, or what it says: "CT" for a synthetic CT, in Hounsfield units.
    """

    volume: hd.Volume
    description: str
    derivation: Code
    window: tuple[float, float] | None = None
    modality: str = ""

    def __post_init__(self) -> None:
        check_codes("derived images", self.derivation)
        if self.modality not in ("", *CLASSES):
            raise BadOutput('derived images: expected modality "CT" or "MR", or none for that of the source')
        if self.window is not None and not (math.isfinite(self.window[0]) and 1 <= self.window[1] < math.inf):
            raise BadOutput("derived images: expected a window of a centre, and a width of 1 or more")

    def instances(self) -> tuple["DerivedImage", ...]:
        """One for each slice. Raises BadOutput where the values cannot be stored."""
        rescale = _rescale(self.volume.array)
        first = DerivedImage(self, 0, rescale)
        return first, *(DerivedImage(self, place, rescale, first) for place in range(1, len(self.volume.array)))


@dataclass(frozen=True, eq=False)
class DerivedImage:
    """The slice at `place` of the series that `first` begins; `rescale` are slope and intercept of all its slices."""

    of: DerivedImages
    place: int
    rescale: tuple[float, float]
    first: Optional["DerivedImage"] = None

    def encode(self, encoding: Encoding) -> Dataset:
        """One CT or MR instance. Raises BadOutput where the source is neither, or the series not on the grid of the source."""
        modality = self.of.modality or encoding.source[0].Modality
        if modality not in CLASSES:
            raise BadOutput("derived images: expected CT or MR as source, or their own modality")
        if self.first is None:
            check_grid(self.of.volume, encoding, "derived images")
        else:
            encoding.dataset(self.first)  # what is wrong with one is wrong with all
        source = encoding.source[self.place]
        made = modules.make(
            _blank, encoding=encoding, output=self, images=[source], sop_class_uid=CLASSES[modality], modality=modality,
            series_description=modules.series_description(self.of.description),
        )  # fmt: skip
        made.SeriesNumber = modules.FIRST_SERIES_NUMBER + encoding.ordinal(self.first or self)
        made.InstanceNumber = max(whole(source, "InstanceNumber"), 0) or self.place + 1  # as viewers name the one beside it
        made.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
        if "BodyPartExamined" not in made and "Laterality" not in made:
            made.Laterality = ""  # nobody tells whether it is one of a pair
        made.PatientOrientation = _patient_orientation(self.of.volume)
        self._describe_origin(made, source, encoding)
        self._copy(made, source)
        self._add_pixels(made)
        modules.copy_lossy(made, encoding)
        return made

    def _describe_origin(self, made: Dataset, source: Dataset, encoding: Encoding) -> None:
        algorithm, image = encoding.algorithm, modules.referred(source)
        purpose = codes.DCM.SourceImageForImageProcessingOperation
        image.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(purpose)]
        image.SpatialLocationsPreserved = "YES"
        made.SourceImageSequence = [image]
        made.DerivationCodeSequence = [hd.sr.CodedConcept.from_code(self.of.derivation)]
        made.DerivationDescription = f"{NOT_FOR_DIAGNOSIS}. {self.of.description}, by {algorithm.name} {algorithm.version}"[:1024]

    def _copy(self, made: Dataset, source: Dataset) -> None:
        """Of a synthetic image nothing was acquired, and the window of another modality shows nothing."""
        acquired = source if made.Modality == source.Modality else Dataset()
        window = _WINDOW if self.of.window is None else {}
        for told, wanted in ((source, _PLACE), (acquired, _ACQUISITION[made.Modality]), (acquired, window)):
            for keyword, untold in wanted.items():
                if told.get(keyword) not in (None, ""):
                    made[keyword] = _as_there(told, keyword)
                elif untold is not None:
                    setattr(made, keyword, untold)
        if self.of.window is not None:
            made.WindowCenter, made.WindowWidth = (format_number_as_ds(float(one)) for one in self.of.window)

    def _add_pixels(self, made: Dataset) -> None:
        plane, (slope, intercept) = self.of.volume.array[self.place], self.rescale
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        if made.Modality == "CT" or self.rescale != _AS_THEY_ARE:  # the MR module has none: it is told where it says something
            made.RescaleSlope, made.RescaleIntercept = map(format_number_as_ds, self.rescale)
            made.RescaleType = made.get("RescaleType") or "US"
        stored = np.rint((plane.astype(np.float64) - intercept) / slope)
        stored = np.clip(stored, _INT16.min, _INT16.max, out=stored).astype("<i2")
        made["PixelData"] = DataElement("PixelData", "OW", stored.tobytes())


def _blank(images: Sequence[Dataset], **arguments: Any) -> Dataset:
    made = modules.bare(images, **arguments)
    made.Rows, made.Columns = images[0].Rows, images[0].Columns
    return made


def _rescale(array: np.ndarray) -> tuple[float, float]:
    """Slope and intercept with which int16 holds all values within half a step: as they are, where they are whole and fit."""
    if array.dtype not in (np.int16, np.float32):
        raise BadOutput("expected derived images of type int16 or float32")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadOutput("expected derived images of finite values")
    if _INT16.min <= low and high <= _INT16.max and all(np.array_equal(plane, np.rint(plane)) for plane in array):
        return _AS_THEY_ARE
    if low == high:
        return 1.0, float(format_number_as_ds(low))
    slope = float(format_number_as_ds((high - low) / (int(_INT16.max) - int(_INT16.min))))
    return slope, float(format_number_as_ds(low - slope * int(_INT16.min)))


def _as_there(source: Dataset, keyword: str) -> DataElement:
    """Its own decimal strings; those that are too long, as scanners write them, are shortened."""
    element = source[keyword]
    if element.VR != "DS":
        return element
    values = element.value if element.VM > 1 else [element.value]
    short = [one if len(str(one)) <= _LONGEST_DS else format_number_as_ds(float(one)) for one in values]
    return DataElement(keyword, "DS", short)


def _patient_orientation(volume: hd.Volume) -> list[str]:
    _, rows, columns = volume.get_closest_patient_orientation()
    return [str(columns.value), str(rows.value)]
