"""One frame of stored values out of a data set (PS3.5 8, PS3.3 C.7.6.3): lengths and dimensions first, then the decoder."""

import struct
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import UID, JPEGExtended12Bit

from gateway.dicom.lookup import padding
from gateway.dicom.values import texts, whole
from gateway.errors import Unsuitable

FORMAT = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip
LAYOUT = (*FORMAT, "PixelPaddingValue", "PixelPaddingRangeLimit")
_GREY = (("MONOCHROME1",), ("MONOCHROME2",))
_HARMLESS_BYTES = 64 * 1024 * 1024
_MAX_RATIO = 1000
_EIGHT_BITS = 255
_JPEG_NO_FRAME = frozenset((0xC4, 0xC8, 0xCC))


@dataclass(frozen=True)
class Layout:
    """What the attributes `LAYOUT` say of a frame: (rows, columns), the type of a stored value, and which values there may be.

    From `lowest` to `highest` by Bits Stored; besides from `pads[0]` to `pads[1]`, which stand for no tissue.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    lowest: int
    highest: int
    pads: tuple[int, int] | None


def layout(header: Dataset) -> Layout:
    """Raises as check_format. It looks at `LAYOUT`."""
    check_format(header)
    kind, bits = "i" if whole(header, "PixelRepresentation") else "u", whole(header, "BitsStored")
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "i" else (0, 2**bits - 1)
    shape, dtype = (whole(header, "Rows"), whole(header, "Columns")), np.dtype(f"<{kind}{whole(header, 'BitsAllocated') // 8}")
    return Layout(shape, dtype, lowest, highest, padding(header))


def pixels(dataset: Dataset, known: Layout | None = None) -> np.ndarray:
    """(rows, columns) integers, before any lookup table; a view of the data set's bytes where they are native.

    `known` is its layout, where somebody has looked already. Raises Unsuitable: IMAGE where the attributes of the pixels do
    not go together, DECODE where bytes and attributes disagree.
    """
    if "PixelData" not in dataset:
        raise Unsuitable("IMAGE", "expected Pixel Data in every instance")
    syntax = UID(str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "")))
    if not syntax.is_transfer_syntax:
        raise Unsuitable("DECODE", "expected a known transfer syntax in every instance")
    if syntax.is_encapsulated or not syntax.is_little_endian:
        return _decoded(dataset, known or layout(dataset), encapsulated=syntax.is_encapsulated)
    return _native(dataset, known or layout(dataset))


def check_format(header: Dataset) -> None:
    """Raise Unsuitable("IMAGE") where the attributes of `FORMAT` are not those of one frame of integers in one channel."""
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    if not (0 < rows <= 0xFFFF and 0 < columns <= 0xFFFF):
        raise Unsuitable("IMAGE", "expected images with Rows and Columns of 1 to 65535")
    if whole(header, "SamplesPerPixel") != 1 or texts(header, "PhotometricInterpretation") not in _GREY:
        raise Unsuitable("IMAGE", "expected one sample per pixel, PhotometricInterpretation MONOCHROME1 or MONOCHROME2")
    allocated, stored = whole(header, "BitsAllocated"), whole(header, "BitsStored")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or whole(header, "HighBit") != stored - 1:
        raise Unsuitable("IMAGE", "expected 8, 16 or 32 Bits Allocated, no more Bits Stored, and the High Bit below them")
    if whole(header, "PixelRepresentation") not in (0, 1):
        raise Unsuitable("IMAGE", "expected PixelRepresentation 0 or 1")


def _native(dataset: Dataset, known: Layout) -> np.ndarray:
    shape, dtype = known.shape, known.dtype
    expected = shape[0] * shape[1] * dtype.itemsize
    data = dataset["PixelData"].value or b""
    if len(data) != expected + expected % 2 and len(data) != expected:
        raise Unsuitable("DECODE", f"expected {expected} bytes of Pixel Data for one frame of {shape[0]} x {shape[1]}")
    frame = np.frombuffer(data, dtype, shape[0] * shape[1]).reshape(shape)
    _check_unused_bits(frame, known)
    return frame


def _check_unused_bits(frame: np.ndarray, known: Layout) -> None:
    """Bits above Bits Stored hold the sign, or a padding value; what else stands there (overlays of old) would read as tissue."""
    bits = (known.highest - known.lowest).bit_length()
    if bits == frame.dtype.itemsize * 8 or (frame.min() >= known.lowest and frame.max() <= known.highest):
        return
    outside = frame[(frame < known.lowest) | (frame > known.highest)]
    if known.pads is None or outside.min() < known.pads[0] or outside.max() > known.pads[1]:
        raise Unsuitable("IMAGE", f"expected stored values of {bits} bits")


def _decoded(dataset: Dataset, known: Layout, *, encapsulated: bool) -> np.ndarray:
    shape = known.shape
    if encapsulated:
        check_codestream(_codestream(dataset), shape, known.dtype.itemsize * 8)
    try:
        frame = dataset.pixel_array
    except Exception as error:  # a decoder reads foreign bytes: it may raise anything
        if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and known.highest - known.lowest > _EIGHT_BITS:
            raise Unsuitable(
                "DECODE", "expected another transfer syntax: there is no decoder of JPEG Extended for 12 bits"
            ) from error
        raise Unsuitable("DECODE", f"expected Pixel Data that decodes as its transfer syntax ({type(error).__name__})") from error
    if frame.shape != shape:
        raise Unsuitable("DECODE", f"expected one frame of {shape[0]} x {shape[1]}")
    return frame


def _codestream(dataset: Dataset) -> bytes:
    try:
        return get_frame(dataset["PixelData"].value, 0, number_of_frames=1)
    except Exception as error:  # fragments are foreign bytes too
        raise Unsuitable("DECODE", "expected one encapsulated frame in fragments (PS3.5 A.4)") from error


def check_codestream(codestream: bytes, shape: tuple[int, int], bits: int) -> None:
    """Before a decoder allocates anything: one frame, of the size that the attributes say, and not out of nothing.

    `shape` are Rows and Columns, `bits` those of all samples of a pixel. Raises Unsuitable("DECODE").
    """
    try:
        coded = _coded_shape(codestream)
    except Exception as error:  # markers are foreign bytes
        raise Unsuitable("DECODE", "expected one encapsulated frame in fragments (PS3.5 A.4)") from error
    if coded not in (None, shape):
        raise Unsuitable("DECODE", f"expected a codestream of {shape[0]} x {shape[1]}, as Rows and Columns say")
    if shape[0] * shape[1] * bits // 8 > max(_HARMLESS_BYTES, _MAX_RATIO * len(codestream)):
        raise Unsuitable("DECODE", f"expected at most {_MAX_RATIO} times the compressed bytes")


def _coded_shape(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns in a JPEG 2000 or HTJ2K SIZ, or in a JPEG or JPEG-LS frame header; None for RLE, which has none."""
    if codestream.startswith(b"\xff\x4f\xff\x51"):
        x, y, x_offset, y_offset = struct.unpack_from(">4I", codestream, 8)
        return y - y_offset, x - x_offset
    if not codestream.startswith(b"\xff\xd8"):
        return None
    at = 2
    while True:
        marker, code, length = struct.unpack_from(">BBH", codestream, at)
        if marker != 0xFF:
            raise ValueError("expected a marker")
        if code == 0xFF:  # fill bytes may stand before any marker
            at += 1
        elif code == 0xF7 or (0xC0 <= code <= 0xCF and code not in _JPEG_NO_FRAME):
            rows, columns = struct.unpack_from(">HH", codestream, at + 5)
            return rows, columns
        else:
            at += 2 + length
