"""Small CT series made up from a seed: valid headers, plausible Hounsfield units, canaries where a patient would be.

The canaries (CANARY^NAME, CANARY-ID, CANARYACC) are what the leak test looks for in logs, metrics and tables.
"""

from io import BytesIO

import numpy as np
from pydicom import DataElement, Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derived_uid
from gateway.imaging.anatomy import LEFT, RIGHT, Anatomy
from gateway.imaging.phantom import Grid

INTERCEPT = -1024
PIXEL_SPACING_MM = 0.75


def lung_volumes_ml(*, slices: int = 90, rows: int = 512, columns: int = 512, seed: int = 0) -> tuple[float, float]:
    """The truth about the phantom: volume of the right and of the left lung in millilitres, vessels inside them included."""
    grid, anatomy = Grid(slices, rows, columns), Anatomy(seed)
    counts = sum(np.bincount(anatomy.lungs(grid.x, grid.y, float(z)).ravel(), minlength=3) for z in grid.z)
    millilitres = np.asarray(counts) * np.prod(grid.spacing) / 1000
    return float(millilitres[RIGHT]), float(millilitres[LEFT])


def ct_series(
    slices: int = 12, rows: int = 64, columns: int = 64, spacing_mm: float = 2.5, *, seed: int = 0, **overrides: object
) -> list[Dataset]:
    """Axial chest CT, feet to head; the same arguments give the same bytes, another `seed` another patient's study.

    Signed 16 bit, stored value = HU + 1024. `overrides` are keywords set on every instance; None deletes the element.
    """
    hounsfield = chest(slices, rows, columns, seed=seed)
    series = [_instance(n, plane, spacing_mm, seed) for n, plane in enumerate(hounsfield)]
    for instance in series:
        for keyword, value in overrides.items():
            if value is None:
                delattr(instance, keyword)
            else:
                setattr(instance, keyword, value)
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        instance.file_meta.MediaStorageSOPClassUID = instance.SOPClassUID
    return series


def chest(slices: int, rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    """(slices, rows, columns) int16 HU: air, a body of about 40 HU, two lungs of about -850 HU, one of them with a nodule."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in (slices, rows, columns)), indexing="ij", sparse=True)
    volume = generator.integers(-25, 26, (slices, rows, columns), dtype=np.int16)
    volume += np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, 40, -990).astype(np.int16)
    for centre in (-0.42, 0.42):
        volume[((x - centre) / 0.32) ** 2 + (y / 0.48) ** 2 + (z / 1.4) ** 2 < 1] -= 890
    volume[(x - 0.42) ** 2 + (y - 0.1) ** 2 + z**2 < 0.08**2] += 900
    return volume


def part10(ds: Dataset) -> bytes:
    """The PS3.10 file of `ds`: preamble, file meta, data set."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def meta_changed(file: bytes, **attributes: object) -> bytes:
    """A PS3.10 file with another file meta before the same data set."""
    meta, content = dcmread(BytesIO(file)).file_meta, DicomBytesIO()
    data_set = file[132 + 12 + meta.FileMetaInformationGroupLength :]
    for keyword, value in attributes.items():
        setattr(meta, keyword, value)
    write_file_meta_info(content, meta)
    return file[:132] + content.getvalue() + data_set


def _instance(n: int, hounsfield: np.ndarray, spacing_mm: float, seed: int) -> Dataset:
    rows, columns = hounsfield.shape
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = derived_uid("synthetic", seed, "instance", n)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260102"
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime, ds.ContentTime = "101112", "101120", "101125", "101130"
    ds.TimezoneOffsetFromUTC = "+0100"
    ds.AccessionNumber = "CANARYACC"
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = "Synthetic", "CT of numbers"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1.0"
    ds.ReferringPhysicianName = "Referring^Physician"
    ds.StudyDescription, ds.SeriesDescription = "CT chest", "Axial"
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "CANARY^NAME", "CANARY-ID", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500101", "F", "076Y"
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", "HFS"
    ds.KVP, ds.SliceThickness = "120", spacing_mm
    ds.StudyInstanceUID = derived_uid("synthetic", seed, "study")
    ds.SeriesInstanceUID = derived_uid("synthetic", seed, "series")
    ds.FrameOfReferenceUID = derived_uid("synthetic", seed, "frame of reference")
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 2, 1, n + 1
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-columns * PIXEL_SPACING_MM / 2, -rows * PIXEL_SPACING_MM / 2, n * spacing_mm]
    ds.PixelSpacing = [PIXEL_SPACING_MM, PIXEL_SPACING_MM]
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.WindowCenter, ds.WindowWidth = -500, 1500
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
    ds["PixelData"] = _pixel_data(hounsfield)
    ds.file_meta = _file_meta(ds)
    return ds


def _pixel_data(hounsfield: np.ndarray) -> DataElement:
    stored = (hounsfield - INTERCEPT).astype("<i2").tobytes()
    return DataElement("PixelData", "OW", stored + b"\0" * (len(stored) % 2))


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
    return meta
