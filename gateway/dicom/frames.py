"""Frames of an instance as their file has them (PS3.5 8 and A.4), for those who show images (PS3.18 8.7.3, 10.4).

Nothing is decoded: of a file of many frames only those that are asked for are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame, parse_basic_offsets, parse_fragments
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from gateway.dicom.values import whole
from gateway.errors import Unsuitable

OCTETS = "application/octet-stream"
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "1.2.840.10008.1.2.5": "image/dicom-rle",
        "1.2.840.10008.1.2.4.50": "image/jpeg",
        "1.2.840.10008.1.2.4.51": "image/jpeg",
        "1.2.840.10008.1.2.4.57": "image/jpeg",
        "1.2.840.10008.1.2.4.70": "image/jpeg",
        "1.2.840.10008.1.2.4.80": "image/jls",
        "1.2.840.10008.1.2.4.81": "image/jls",
        "1.2.840.10008.1.2.4.90": "image/jp2",
        "1.2.840.10008.1.2.4.91": "image/jp2",
        "1.2.840.10008.1.2.4.201": "image/jphc",
        "1.2.840.10008.1.2.4.202": "image/jphc",
        "1.2.840.10008.1.2.4.203": "image/jphc",
    }
)
"""Of encapsulated frames (PS3.18 8.7.3.3.2)."""
_NOT_IN_FRAGMENTS = "expected encapsulated frames in fragments (PS3.5 A.4)"
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_ATTRIBUTES = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "ExtendedOffsetTable",
               "ExtendedOffsetTableLengths")  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """`content` is one frame: little endian and packed as in Pixel Data, or a codestream of `transfer_syntax_uid`."""

    content: bytes
    media_type: str
    transfer_syntax_uid: str


def frames(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
    """The frames of these numbers, counted from 1. Raises Unsuitable: there is no such frame, or none that can be read."""
    with path.open("rb") as file:
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(_ATTRIBUTES))
            syntax = header.file_meta.TransferSyntaxUID
        except Exception as error:  # foreign bytes
            raise Unsuitable("DECODE", "expected a file that can be read") from error
        count = max(1, whole(header, "NumberOfFrames"))
        if not all(1 <= number <= count for number in numbers):
            raise Unsuitable("IMAGE", f"expected frames from 1 to {count}")
        if syntax.is_encapsulated:
            yield from _encapsulated(file, header, numbers, count, str(syntax))
        elif syntax == DeflatedExplicitVRLittleEndian:
            yield from _cut(dcmread(path).get("PixelData", b""), 0, header, numbers)
        else:
            yield from _native(file, header, numbers)


def _native(file: BinaryIO, header: Dataset, numbers: Sequence[int]) -> Iterator[Frame]:
    is_implicit, _ = header.original_encoding
    start = file.read(8 if is_implicit else 12)
    if start[:4] != _PIXEL_DATA:
        raise Unsuitable("IMAGE", "expected Pixel Data in the instance")
    at = file.tell()
    for number in numbers:
        first, last = _bits(header, number)
        file.seek(at + first // 8)
        yield from _cut(file.read((last + 7) // 8 - first // 8), first // 8 * 8, header, [number])


def _cut(data: bytes, begins_at_bit: int, header: Dataset, numbers: Sequence[int]) -> Iterator[Frame]:
    """Frames of one bit a pixel lie side by side without a gap (PS3.5 8.1.1): each is moved to begin with a byte."""
    for number in numbers:
        first, last = (bit - begins_at_bit for bit in _bits(header, number))
        content = data[first // 8 : (last + 7) // 8]
        if len(content) * 8 < last - first:
            raise Unsuitable("DECODE", "expected as much Pixel Data as Rows, Columns and Bits Allocated say")
        if first % 8 or last % 8:
            bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[first % 8 :][: last - first]
            content = np.packbits(bits, bitorder="little").tobytes()
        yield Frame(content, OCTETS, str(ExplicitVRLittleEndian))


def _bits(header: Dataset, number: int) -> tuple[int, int]:
    """Where the frame begins and ends in Pixel Data, in bits."""
    size = 1
    for keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
        size *= max(0, whole(header, keyword))
    if not size:
        raise Unsuitable("IMAGE", "expected Rows, Columns, Bits Allocated and Samples per Pixel above 0")
    return (number - 1) * size, number * size


def _encapsulated(file: BinaryIO, header: Dataset, numbers: Sequence[int], count: int, syntax: str) -> Iterator[Frame]:
    if file.read(12)[:4] != _PIXEL_DATA:
        raise Unsuitable("IMAGE", "expected Pixel Data in the instance")
    table = None
    if "ExtendedOffsetTable" in header and "ExtendedOffsetTableLengths" in header:
        table = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    at = file.tell()
    table = table or _table(file, count)
    for number in numbers:
        file.seek(at)
        try:
            content = get_frame(file, number - 1, extended_offsets=table, number_of_frames=count)
        except Exception as error:  # fragments and offsets are foreign bytes
            raise Unsuitable("DECODE", _NOT_IN_FRAGMENTS) from error
        yield Frame(content, MEDIA_TYPES.get(syntax, OCTETS), syntax)


def _table(file: BinaryIO, count: int) -> tuple[list[int], list[int]] | None:
    """Where frames of one fragment each begin and how long they are, where no table of the file says so: looked for once."""
    at = file.tell()
    try:
        if parse_basic_offsets(file):
            return None
        begin, (fragments, places) = file.tell(), parse_fragments(file)
        if fragments != count or count == 1:
            return None
        file.seek(places[-1] + 4)
        ends = [*places[1:], places[-1] + 8 + int.from_bytes(file.read(4), "little")]
    except Exception as error:  # foreign bytes
        raise Unsuitable("DECODE", _NOT_IN_FRAGMENTS) from error
    finally:
        file.seek(at)
    return [place - begin for place in places], [end - place - 8 for place, end in zip(places, ends, strict=True)]
