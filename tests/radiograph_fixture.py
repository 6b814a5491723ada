"""Radiographs made up from a seed: a chest seen from before, as projections of a chest that the synthetic CT shows in slices."""

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation

from gateway.dicom.uids import derived_uid
from tests.synthetic import chest, ct_series

MILLIMETRES = 1.5
_OF_SLICES = (
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "AcquisitionNumber", "PatientPosition", "KVP",
)  # fmt: skip


def shadows(rows: int = 48, columns: int = 64, *, seed: int = 0) -> np.ndarray:
    """(rows, columns) uint16 of 12 bits: the more tissue the larger, so that lungs are dark in MONOCHROME2."""
    thickness = (chest(rows, 32, columns, seed=seed).astype(np.float32) + 1024).sum(axis=1)[::-1]
    return np.rint(thickness / thickness.max() * 4000).astype("<u2")


def radiograph(
    view: str = "PA", *, number: int = 1, seed: int = 0, sop_class_uid: UID = DigitalXRayImageStorageForPresentation,
    **overrides: object,
) -> Dataset:  # fmt: skip
    """A DX image; `overrides` are keywords set on it, None deletes the element."""
    (ds,) = ct_series(1, 48, 64, seed=seed)
    for keyword in _OF_SLICES:
        delattr(ds, keyword)
    ds.SOPClassUID, ds.Modality = sop_class_uid, "DX"
    ds.SOPInstanceUID = derived_uid("synthetic", seed, "radiograph", number)
    ds.ImageType, ds.InstanceNumber, ds.ViewPosition = ["DERIVED", "PRIMARY"], number, view
    ds.StudyDescription = ds.SeriesDescription = "Chest"
    ds.PresentationIntentType, ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "FOR PRESENTATION", "LOG", -1
    ds.PatientOrientation, ds.ImageLaterality, ds.BurnedInAnnotation = ["L", "F"], "U", "NO"
    ds.ImagerPixelSpacing, ds.PresentationLUTShape, ds.LossyImageCompression = [MILLIMETRES] * 2, "IDENTITY", "00"
    ds.DetectorType, ds.PositionerType, ds.AcquisitionContextSequence = "DIRECT", "NONE", []
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds["PixelData"] = DataElement("PixelData", "OW", shadows(seed=seed).tobytes())
    for keyword, value in overrides.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
    return ds
