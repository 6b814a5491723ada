"""A prostate study made up from numbers: T2, ADC and DWI in one frame of reference, on grids of their own, with one lesion."""

import numpy as np
from pydicom import Dataset
from pydicom.uid import MRImageStorage, generate_uid

from tests.synthetic import ct_series

RULES = """\
rules:
  - name: prostate
    when: {all: [{attribute: SeriesDescription, matches: "t2.*tra"}]}
    pipeline: prostate
    companions:
      adc: {all: [{attribute: ImageType, contains: ADC}]}
      dwi: {all: [{attribute: SeriesDescription, matches: "dwi"}]}
    send_to: [PEERS]
"""
WIDTH_MM = 32
LESION_MM = ((-6, 2), (-4, 8), (6, 18))
"""From and to: x, y, z."""


def mr_series(
    number: int, description: str, slices: int = 10, rows: int = 32, *, inside: int = 900, outside: int = 100, **overrides: object
) -> list[Dataset]:
    """Series `number` of the study: `inside` and `outside` are its values in the lesion, and elsewhere; 3 mm between slices."""
    spacing_mm, step = 30 / slices, WIDTH_MM / rows
    series = ct_series(slices, rows, rows, spacing_mm, SeriesNumber=number, Modality="MR", SOPClassUID=MRImageStorage,
                       SeriesDescription=description, BodyPartExamined="PROSTATE", RescaleType=None, KVP=None,
                       ScanningSequence="SE", SequenceVariant="NONE", ScanOptions="", MRAcquisitionType="2D", EchoTime=100,
                       RepetitionTime=4000, EchoTrainLength=1, FlipAngle=90, MagneticFieldStrength=3,
                       PixelSpacing=[step, step], SeriesInstanceUID=f"1.2.3.{number}", RescaleIntercept=0, **overrides)  # fmt: skip
    for ds in series:
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[ds.SeriesInstanceUID, str(ds.InstanceNumber)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        left = -WIDTH_MM / 2 + step / 2
        z = (ds.InstanceNumber - 0.5) * spacing_mm
        ds.ImagePositionPatient = [left, left, z]
        x = y = left + step * np.arange(rows)
        (x0, x1), (y0, y1), (z0, z1) = LESION_MM
        lesion = ((y0 < y) & (y < y1))[:, None] & (x0 < x) & (x < x1) & (z0 < z < z1)
        ds.PixelData = np.where(lesion, inside, outside).astype("<i2").tobytes()
    return series


def t2(number: int = 2, **more: object) -> list[Dataset]:
    return mr_series(number, "t2_tse_tra", **more)


def adc(number: int = 5, slices: int = 5, rows: int = 16, **more: object) -> list[Dataset]:
    image_type = ["DERIVED", "PRIMARY", "ADC"]
    return mr_series(number, "map", slices, rows, **{"inside": 500, "outside": 1500, "ImageType": image_type} | more)


def dwi(number: int = 6, slices: int = 5, rows: int = 16, **more: object) -> list[Dataset]:
    return mr_series(number, "dwi_b1400", slices, rows, **more)
