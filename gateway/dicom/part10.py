"""A data set as a file (PS3.10 7)."""

import struct
from collections.abc import Iterator
from copy import copy
from io import BytesIO
from operator import attrgetter

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import AMBIGUOUS_VR

from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_META_GROUP = 0x0002  # and commands have group 0000
_EXPLICIT, _IMPLICIT = struct.Struct("<HH2sHL"), struct.Struct("<HHL")
_IS_IMPLICIT = {ImplicitVRLittleEndian: True, ExplicitVRLittleEndian: False}
_OF_BYTES = frozenset(("OB", "OW", "OF"))


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> FileMetaDataset:
    """Of an instance that is made here (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class_uid), UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION_CLASS_UID), IMPLEMENTATION_VERSION_NAME
    return meta


def part10(dataset: Dataset) -> bytes:
    """The bytes that pydicom writes; but elements that items share are encoded once, and every sequence has a length.

    A segmentation has thousands of frames, made of a few hundred elements: pydicom takes seconds for them. What is encoded
    already (a raw element) is written as it is. Raises what pydicom raises where file meta information is missing, or stands in
    the data set, or a value cannot be encoded.
    """
    is_data_set = all(element.tag.group > _META_GROUP for element in dataset.values())
    is_implicit = _IS_IMPLICIT.get(dataset.file_meta.TransferSyntaxUID)
    if not is_data_set or is_implicit is None:
        return _file(dataset)  # which refuses what is none
    empty = Dataset()
    empty.file_meta = dataset.file_meta
    return b"".join((_file(empty), *_Encoder(is_implicit=is_implicit).elements(dataset, None)))


def moved(dataset: Dataset) -> bytes:
    """The bytes of `part10`; the data set goes on without its pixels, which for a series of hundreds count twice."""
    file = part10(dataset)
    for keyword in ("PixelData", "FloatPixelData"):
        dataset.pop(keyword, None)
    return file


class _Encoder:
    def __init__(self, *, is_implicit: bool) -> None:
        self._is_implicit = is_implicit
        self._known: dict[tuple[int, str], bytes] = {}
        """What elements became, by their id and the character set around them."""

    def elements(self, around: Dataset, charset: str | None) -> Iterator[bytes]:
        charset = around.get("SpecificCharacterSet", charset)
        for element in sorted(around.values(), key=attrgetter("tag")):  # which makes no objects of raw ones
            if element.tag.element == 0:  # Group Length is retired (PS3.5 7.2), and would not be that of these bytes
                continue
            if element.VR in _OF_BYTES and len(value := element.value or b"") % 2 == 0:  # pixels: copied once, when all is joined
                yield self._head(element, len(value))
                yield value
                continue
            key = (id(element), str(charset))
            if key not in self._known:
                self._known[key] = self._encoded(element, around, charset)
            yield self._known[key]

    def _encoded(self, element: DataElement | RawDataElement, around: Dataset, charset: str | None) -> bytes:
        if isinstance(element, DataElement) and element.VR == "SQ":
            return self._sequence(element, charset)
        is_clear = element.VR not in AMBIGUOUS_VR
        clear = element if is_clear else correct_ambiguous_vr_element(copy(element), around, is_little_endian=True)
        file = DicomBytesIO()
        file.is_implicit_VR, file.is_little_endian = self._is_implicit, True
        write_data_element(file, clear, charset)
        return file.getvalue()

    def _sequence(self, element: DataElement, charset: str | None) -> bytes:
        items = b"".join(_item(b"".join(self.elements(item, charset))) for item in element.value)
        return self._head(element, len(items)) + items

    def _head(self, element: DataElement | RawDataElement, length: int) -> bytes:
        tag = (element.tag.group, element.tag.element)
        return _IMPLICIT.pack(*tag, length) if self._is_implicit else _EXPLICIT.pack(*tag, str(element.VR).encode(), 0, length)


def _item(content: bytes) -> bytes:
    return _IMPLICIT.pack(0xFFFE, 0xE000, len(content)) + content


def _file(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
