"""Studies of noise for load: PS3.10 files as a scanner would send them, with a place in their UIDs for the number of the run.

An instance that was sent before is another path through an archive than a new one. So every UID of a study holds `MARK`, ten
digits that stand nowhere else, and who sends it writes a number of the same length over them: nothing else moves.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID, CTImageStorage, MRImageStorage, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from tests.synthetic import ct_series

MARK = b"4242424242"
HEADER = 16384
"""All elements before PixelData end within so many bytes."""
_STORED_VALUES = 4096


@dataclass(frozen=True)
class Study:
    """`instances` in each of `series`; a series is sent over an association of its own. `edge` is rows and columns."""

    modality: str
    series: int
    instances: int
    edge: int
    frames: int = 1

    @property
    def count(self) -> int:
        return self.series * self.instances

    def write(self, folder: Path) -> list[Path]:
        """One folder a series."""
        noise = np.random.default_rng(0)
        folders = [folder / f"series{number:02d}" for number in range(self.series)]
        for number, series in enumerate(folders):
            series.mkdir(parents=True)
            for instance in range(self.instances):
                pixels = noise.integers(0, _STORED_VALUES, self.pixel_bytes // 2, dtype="<i2")
                (series / f"{instance:04d}.dcm").write_bytes(self.header(number, instance) + pixels.tobytes())
        return folders

    @property
    def pixel_bytes(self) -> int:
        return 2 * self.frames * self.edge**2

    def header(self, series: int = 0, instance: int = 0) -> bytes:
        """The PS3.10 file of an instance up to the value of its PixelData."""
        ds = self._template(series)
        _number(ds, series, instance)
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        del ds.PixelData
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue() + b"\xe0\x7f\x10\x00OW\x00\x00" + self.pixel_bytes.to_bytes(4, "little")
        assert len(content) <= HEADER
        return content

    def _template(self, series: int) -> Dataset:
        ds = ct_series(1, 16, 16, SeriesNumber=series + 1, Rows=self.edge, Columns=self.edge)[0]
        if self.modality == "MR":
            ds.SOPClassUID, ds.Modality, ds.ImageType = MRImageStorage, "MR", ["ORIGINAL", "PRIMARY", "OTHER"]
            ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
            ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength, ds.PixelRepresentation = 3, 8, 1, 0
            del ds.KVP, ds.RescaleType, ds.RescaleSlope, ds.RescaleIntercept
        elif self.frames > 1:
            ds.SOPClassUID, ds.Modality = MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "XC"
            ds.ConversionType, ds.PresentationLUTShape, ds.BurnedInAnnotation, ds.PatientOrientation = "WSD", "IDENTITY", "NO", []
            ds.NumberOfFrames, ds.FrameIncrementPointer, ds.FrameTime = self.frames, tag_for_keyword("FrameTime"), 40
            ds.RescaleType, ds.RescaleIntercept, ds.PixelRepresentation = "US", 0, 0
        else:
            ds.SOPClassUID = CTImageStorage
        return ds


def marked(content: bytes, run: int) -> bytes:
    """A file with the number of the run in its UIDs."""
    return content[:HEADER].replace(MARK, b"%010d" % (1_000_000_000 + run)) + content[HEADER:]


def _number(ds: Dataset, series: int, instance: int) -> None:
    root = f"2.25.{MARK.decode()}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(f"{root}1"), UID(f"{root}2{series:03d}")
    ds.FrameOfReferenceUID, ds.SOPInstanceUID = UID(f"{root}3{series:03d}"), UID(f"{root}4{series:03d}{instance:06d}")
    ds.InstanceNumber, ds.ImagePositionPatient = instance + 1, [-180, -180, instance]
