"""A data set as a file (PS3.10 7)."""

import struct
from collections.abc import Iterator
from copy import copy
from io import BytesIO

from pydicom import DataElement, Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import AMBIGUOUS_VR

_META_GROUP = 0x0002  # and commands have group 0000
_SEQUENCE, _ITEM = struct.Struct("<HH2sHL"), struct.Struct("<HHL")

Known = dict[tuple[int, str], bytes]
"""What elements became, by their id and the character set around them."""


def part10(dataset: Dataset) -> bytes:
    """The bytes that pydicom writes; but elements that items share are encoded once, and every sequence has a length.

    A segmentation has thousands of frames, made of a few hundred elements: pydicom takes seconds for them. Raises what it
    raises where file meta information is missing, or stands in the data set, or a value cannot be encoded.
    """
    is_data_set = all(element.tag.group > _META_GROUP for element in dataset)
    if not is_data_set or dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        return _file(dataset)  # which refuses what is none
    empty = Dataset()
    empty.file_meta = dataset.file_meta
    return b"".join((_file(empty), *_elements(dataset, None, Known())))


def _elements(around: Dataset, charset: str | None, known: Known) -> Iterator[bytes]:
    charset = around.get("SpecificCharacterSet", charset)
    for element in around:
        if element.tag.element == 0:  # Group Length is retired (PS3.5 7.2), and would not be that of these bytes
            continue
        key = (id(element), str(charset))
        if key not in known:
            known[key] = _sequence(element, charset, known) if element.VR == "SQ" else _value(element, around, charset)
        yield known[key]


def _sequence(element: DataElement, charset: str | None, known: Known) -> bytes:
    items = b"".join(_item(b"".join(_elements(item, charset, known))) for item in element.value)
    return _SEQUENCE.pack(element.tag.group, element.tag.element, b"SQ", 0, len(items)) + items


def _item(content: bytes) -> bytes:
    return _ITEM.pack(0xFFFE, 0xE000, len(content)) + content


def _value(element: DataElement, around: Dataset, charset: str | None) -> bytes:
    is_clear = element.VR not in AMBIGUOUS_VR
    clear = element if is_clear else correct_ambiguous_vr_element(copy(element), around, is_little_endian=True)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    write_data_element(file, clear, charset)
    return file.getvalue()


def _file(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
