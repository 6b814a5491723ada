"""Enhanced CT and MR objects made of classic slices (PS3.3 A.38.1, A.36.2): what a scanner of today sends for the same images."""

from collections.abc import Callable, Sequence

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, RLELossless

from gateway.dicom.uids import derived_uid

OF_THE_OBJECT = (
    "SpecificCharacterSet", "StudyDate", "SeriesDate", "StudyTime", "SeriesTime", "TimezoneOffsetFromUTC", "AccessionNumber",
    "Modality", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ReferringPhysicianName",
    "StudyDescription", "SeriesDescription", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "PatientPosition", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "StudyID", "SeriesNumber",
    "PositionReferenceIndicator", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "ContentDate", "ContentTime",
)  # fmt: skip
MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "FrameContentSequence": ("FrameAcquisitionNumber", "StackID", "InStackPositionNumber", "TemporalPositionIndex", "DimensionIndexValues"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MRImageFrameTypeSequence": ("FrameType",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
}  # fmt: skip
SHARED = ("PlaneOrientationSequence", "PixelMeasuresSequence", "FrameVOILUTSequence", "CTReconstructionSequence")


def enhanced(
    slices: Sequence[Dataset],
    *,
    number: int = 1,
    dimensions: Sequence[str] = (),
    encode: Callable[[bytes], bytes] | None = None,
    **overrides: object,
) -> Dataset:
    """One object with a frame for each of `slices`, in their order; what each frame says is among its own keywords.

    `encode` compresses the native bytes of a frame (RLE). `overrides` are keywords of the object; None deletes.
    """
    first, made = slices[0], Dataset()
    for keyword in OF_THE_OBJECT:
        if keyword in first:
            made[keyword] = first[keyword]
    made.SOPClassUID = EnhancedMRImageStorage if first.Modality == "MR" else EnhancedCTImageStorage
    made.SOPInstanceUID = derived_uid("enhanced", first.SeriesInstanceUID, number)
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.InstanceNumber, made.NumberOfFrames = number, len(slices)
    made.DimensionIndexSequence = [_dimension(keyword) for keyword in dimensions]
    made.SharedFunctionalGroupsSequence = [_groups(first, SHARED)]
    made.PerFrameFunctionalGroupsSequence = [_groups(one, [name for name in MACROS if name not in SHARED]) for one in slices]
    frames = [one.PixelData for one in slices]
    made.PixelData = encapsulate([encode(frame) for frame in frames], has_bot=False) if encode else b"".join(frames)
    made["PixelData"].VR = "OB" if encode else "OW"
    for keyword, value in overrides.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    meta = made.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = RLELossless if encode else ExplicitVRLittleEndian
    return made


def _groups(header: Dataset, names: Sequence[str]) -> Dataset:
    groups = Dataset()
    for name in names:
        macro = Dataset()
        for keyword in MACROS[name]:
            if keyword in header:
                macro[keyword] = header[keyword]
        if macro:
            setattr(groups, name, [macro])
    return groups


def _dimension(keyword: str) -> Dataset:
    item = Dataset()
    item.DimensionIndexPointer = Tag(keyword)
    return item
