"""From stored values to Hounsfield units: the modality LUT of one slice (PS3.3 C.11.1) and its padding (PS3.3 C.7.5.1.1.2)."""

from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from gateway.dicom.values import numbers, texts, values, whole
from gateway.errors import Unsuitable

AIR_HU = -1024.0
KEYWORDS = (
    "Modality", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip
_METAL_HU = 3071.0
_MAX_HU = 2.0**18
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Lookup:
    """stored * slope + intercept; stored values from `air[0]` to `air[1]` become `AIR_HU`."""

    slope: float
    intercept: float
    air: tuple[int, int] | None

    def apply(self, stored: np.ndarray, *, out: np.ndarray) -> None:
        """`stored` are integers, `out` is float32 of the same shape and is written in place."""
        if self.slope == 1:
            np.add(stored, np.float32(self.intercept), out=out, casting="same_kind")
        else:
            np.multiply(stored, np.float32(self.slope), out=out, casting="same_kind")
            out += np.float32(self.intercept)
        if self.air:
            out[(stored >= self.air[0]) & (stored <= self.air[1])] = AIR_HU

    def apply_whole(self, stored: np.ndarray, *, out: np.ndarray) -> bool:
        """As `apply`, where `out` is int16 and holds each value as it is; False, and nothing written, where it may not."""
        if self.slope != 1 or not self.intercept.is_integer():
            return False
        low, high, intercept = int(stored.min()), int(stored.max()), int(self.intercept)
        if low + intercept < _INT16.min or high + intercept > _INT16.max:
            return False
        step = np.int64(intercept).astype(np.int16)  # both may wrap around, their sum is the right one
        np.add(stored, step, out=out, dtype=np.int16, casting="unsafe")
        if self.air and low <= self.air[1] and high >= self.air[0]:
            out[(stored >= self.air[0]) & (stored <= self.air[1])] = AIR_HU
        return True


def lookup(header: Dataset) -> Lookup:
    """Read the modality LUT; raise Unsuitable("IMAGE") where it is no straight line or, in CT, does not lead to HU.

    It looks at `KEYWORDS`.

    In CT, padding that no tissue can look like (below -1024 HU or above 3071 HU) becomes air, -1024 HU. Padding within
    that range stays as it is: a voxel of tissue may have the same value.
    """
    if "ModalityLUTSequence" in header:
        raise Unsuitable("IMAGE", "expected RescaleSlope and RescaleIntercept, not a Modality LUT Sequence")
    is_ct = texts(header, "Modality") == ("CT",)
    slope, intercept = numbers(header, "RescaleSlope"), numbers(header, "RescaleIntercept")
    absent = "RescaleSlope" not in header and "RescaleIntercept" not in header
    if absent and not is_ct:
        slope, intercept = (1.0,), (0.0,)
    if len(slope) != 1 or len(intercept) != 1 or slope[0] == 0:
        raise Unsuitable("IMAGE", "expected RescaleSlope (not 0) and RescaleIntercept, one finite number each")
    reach = abs(slope[0]) * 2.0 ** whole(header, "BitsStored") + abs(intercept[0])
    if reach > (_MAX_HU if is_ct else _MAX_FLOAT32) or (is_ct and slope[0] < 0):
        raise Unsuitable("IMAGE", "expected RescaleSlope and RescaleIntercept that lead to plausible values")
    if is_ct and texts(header, "RescaleType") not in ((), ("HU",)):
        raise Unsuitable("IMAGE", "expected Hounsfield units (RescaleType HU)")
    return Lookup(slope[0], intercept[0], _air(header, slope[0], intercept[0]) if is_ct else None)


def padding(header: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that stands for no tissue, with the signedness of the pixels.

    Scanners write 63536 with VR US into signed images and mean -2000.
    """
    first = values(header, "PixelPaddingValue")
    if len(first) != 1 or not isinstance(first[0], int):
        return None
    limit = (values(header, "PixelPaddingRangeLimit") or first)[0]
    bits = whole(header, "BitsAllocated")
    pads = [value % 2**bits for value in (first[0], limit if isinstance(limit, int) else first[0])]
    if whole(header, "PixelRepresentation") == 1:
        pads = [value - 2**bits if value >= 2 ** (bits - 1) else value for value in pads]
    return min(pads), max(pads)


def _air(header: Dataset, slope: float, intercept: float) -> tuple[int, int] | None:
    pads = padding(header)
    if pads is None or (pads[1] * slope + intercept >= AIR_HU and pads[0] * slope + intercept <= _METAL_HU):
        return None
    return pads
