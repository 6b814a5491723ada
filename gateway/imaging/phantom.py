"""A chest CT phantom as a CT Image series (PS3.3 A.3): for the demo and for tests that know the truth. No patient, no clock."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from gateway.dicom.part10 import file_meta
from gateway.dicom.uids import derived_uid
from gateway.imaging.anatomy import Anatomy

FIELD_MM = 360.0
HEIGHT_MM = 320.0
NOISE_HU = 17.0
INTERCEPT = -1024


@dataclass(frozen=True)
class Grid:
    """`slices` planes over 320 mm, from the feet to the head, of `rows` by `columns` pixels over 360 mm."""

    slices: int
    rows: int
    columns: int

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm between slices, rows and columns."""
        return HEIGHT_MM / self.slices, FIELD_MM / self.rows, FIELD_MM / self.columns

    @property
    def x(self) -> np.ndarray:
        return self._centres(self.columns, FIELD_MM)[None, :]

    @property
    def y(self) -> np.ndarray:
        return self._centres(self.rows, FIELD_MM)[:, None] + np.float32(20)  # the table takes its share of the field

    @property
    def z(self) -> np.ndarray:
        return self._centres(self.slices, HEIGHT_MM)

    @staticmethod
    def _centres(count: int, extent: float) -> np.ndarray:
        return np.asarray(((np.arange(count) + 0.5) / count - 0.5) * extent, dtype=np.float32)


def chest_ct(*, slices: int = 90, rows: int = 512, columns: int = 512, now: datetime, seed: int = 0) -> Iterator[Dataset]:
    """Slice by slice, feet to head, complete instances with file meta; the same arguments give the same bytes.

    Signed 16 bit, Explicit VR Little Endian; `now` is aware and dates the study.
    """
    grid, anatomy = Grid(slices, rows, columns), Anatomy(seed)
    for n, z in enumerate(grid.z):
        hounsfield = _scanned(anatomy.hounsfield(grid.x, grid.y, float(z)), np.random.default_rng([seed, 3, n]))
        yield _instance(n, hounsfield, grid, now, seed)


def _scanned(hounsfield: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """int16 HU as a scanner with a soft kernel shows it: edges a pixel wide, noise that neighbours share."""
    noise = generator.standard_normal(hounsfield.shape, dtype=np.float32) * np.float32(NOISE_HU * 2.2)
    return np.asarray(np.clip(np.rint(_blurred(hounsfield + noise)), INTERCEPT, 3071), dtype=np.int16)


def _blurred(image: np.ndarray) -> np.ndarray:
    """The binomial filter 1-2-1 along rows and columns."""
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if axis == n else (0, 0) for n in (0, 1)], mode="edge")
        low, high = (padded.take(range(start, start + image.shape[axis]), axis) for start in (0, 2))
        image = (low + 2 * image + high) / 4
    return image


def _instance(n: int, hounsfield: np.ndarray, grid: Grid, now: datetime, seed: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    _patient_and_study(ds, now, seed)
    _series(ds, now, seed)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = _uid(now, seed, "instance", n)
    ds.InstanceNumber, ds.AcquisitionNumber = n + 1, 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    thickness, row_mm, column_mm = grid.spacing
    ds.ImagePositionPatient = [_decimal(v) for v in (grid.x[0, 0], grid.y[0, 0], grid.z[n])]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [_decimal(row_mm), _decimal(column_mm)], _decimal(thickness)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = hounsfield.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = [-500, 40], [1500, 400]
    ds.WindowCenterWidthExplanation = ["LUNG", "SOFT TISSUE"]
    ds.PixelData = (hounsfield - INTERCEPT).astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = file_meta(ds.SOPClassUID, ds.SOPInstanceUID)
    return ds


def _patient_and_study(ds: Dataset, now: datetime, seed: int) -> None:
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Phantom^Chest", f"PHANTOM-{seed}", "CLINICAL AI GATEWAY"
    ds.PatientBirthDate, ds.PatientSex = "19600101", "O"
    ds.StudyInstanceUID = _uid(now, seed, "study")
    ds.StudyDate, ds.StudyTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.TimezoneOffsetFromUTC = f"{now:%z}"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "", "1", ""
    ds.StudyDescription = "CT chest phantom"


def _series(ds: Dataset, now: datetime, seed: int) -> None:
    ds.Modality, ds.SeriesNumber, ds.SeriesInstanceUID = "CT", 2, _uid(now, seed, "series")
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.StudyDate
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = ds.StudyTime
    ds.SeriesDescription, ds.BodyPartExamined, ds.PatientPosition = "Chest, axial", "CHEST", "HFS"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = _uid(now, seed, "frame of reference"), ""
    ds.Manufacturer, ds.ManufacturerModelName = "Clinical AI gateway", "Phantom"
    ds.DeviceSerialNumber, ds.SoftwareVersions = str(seed), "1"
    ds.KVP, ds.ConvolutionKernel = 120, "SOFT"


def _uid(now: datetime, seed: int, *names: object) -> str:
    return derived_uid("phantom", now.isoformat(), seed, *names)


def _decimal(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
