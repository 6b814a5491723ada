"""A radiograph: one projection, without a place in the patient (PS3.3 C.8.1, C.8.11); it counts as a volume of one slice.

It has no frame of reference. Its millimetres, where it tells any, are those at the detector, and the patient is smaller than the
shadow; rows and columns run as Patient Orientation says, as near as the axes of the patient allow.
"""

from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from gateway.dicom.values import numbers, texts, whole

_MODALITIES = frozenset(("CR", "DX", "MG", "IO", "PX", "RG"))
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_UNTOLD = (1.0, 1.0)
_TOWARDS = MappingProxyType({"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)})
_FROM_BEFORE = ("L", "F")  # how a chest is looked at


class Place(NamedTuple):
    """Where the first pixel lies, the direction cosines of rows and columns (mm, LPS), and the pixel spacing (PS3.3 C.7.6.2).

    `is_told`: the image tells the size of its pixels, and nothing stands for it.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    is_told: bool = True


def is_radiograph(header: Dataset) -> bool:
    """Tomosynthesis has frames, or positions: it is none."""
    return (
        not _MODALITIES.isdisjoint(texts(header, "Modality"))
        and "ImagePositionPatient" not in header
        and ("NumberOfFrames" not in header or whole(header, "NumberOfFrames") == 1)
    )


def place(header: Dataset) -> Place:
    """Of the image in its volume; that of a radiograph begins at 0."""
    if not is_radiograph(header):
        position, orientation = numbers(header, "ImagePositionPatient"), numbers(header, "ImageOrientationPatient")
        return Place(position, orientation, numbers(header, "PixelSpacing"))
    told = texts(header, "PatientOrientation")
    row, column = (_TOWARDS.get(one[:1]) for one in (told if len(told) == len(_FROM_BEFORE) else _FROM_BEFORE))
    if row is None or column is None or np.dot(row, column):
        row, column = (_TOWARDS[one] for one in _FROM_BEFORE)
    spacings = (numbers(header, keyword) for keyword in _SPACINGS)
    spacing = next((one for one in spacings if len(one) == len(_UNTOLD) and min(one) > 0), None)
    return Place((0.0, 0.0, 0.0), (*map(float, row), *map(float, column)), spacing or _UNTOLD, spacing is not None)
