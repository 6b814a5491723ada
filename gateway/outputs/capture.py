"""Secondary Capture (PS3.3 A.8.1, C.8.6): results as pictures, for viewers that show nothing else of them.

Nobody can measure on one: it has no spacing and no frame of reference. Beside the objects that programs read, never instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from gateway.outputs import Encoding, modules

_STUDY = ("StudyDescription", "PatientAge")


@dataclass(frozen=True, eq=False)
class Capture:
    """`picture` is (rows, columns, 3) uint8 sRGB, and names nobody. `number` is its place in the series that `first` begins.

    `of` is the place in the source of the image that it shows, None where it shows none; `orientation` as in Patient
    Orientation (PS3.3 C.7.6.1.1.1), for rows and columns.
    """

    picture: np.ndarray
    description: str
    number: int = 1
    first: Optional["Capture"] = None
    of: int | None = None
    orientation: tuple[str, str] | None = None

    def encode(self, encoding: Encoding) -> Dataset:
        """One SC instance. Raises BadOutput where highdicom does not accept it."""
        source = encoding.source
        made = modules.make(
            _image, encoding=encoding, output=self, images=[source[0]], picture=self.picture,
            series_description=modules.series_description(self.description),
        )  # fmt: skip
        made.SeriesNumber = modules.FIRST_SERIES_NUMBER + encoding.ordinal(self.first or self)
        made.InstanceNumber = self.number
        made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = made.ContentDate, made.ContentTime
        made.ConversionType, made.BurnedInAnnotation = "WSD", "NO"  # what is written in it tells of no patient
        made.PatientOrientation = list(self.orientation or ()) or ""
        modules.copy_lossy(made, encoding)
        for keyword in _STUDY:
            if source[0].get(keyword):
                made[keyword] = source[0][keyword]
        if self.of is not None:
            made.SourceImageSequence = [modules.referred(source[self.of])]
        return made


def _image(images: Sequence[Dataset], *, picture: np.ndarray, **arguments: Any) -> Dataset:
    return hd.sc.SCImage.from_ref_dataset(
        images[0], picture, "RGB", 8, "PATIENT", patient_orientation=("L", "P"), transfer_syntax_uid=ExplicitVRLittleEndian,
        **arguments,
    )  # fmt: skip
