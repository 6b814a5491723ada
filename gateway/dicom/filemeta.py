"""The beginning of a PS3.10 file as it comes in: preamble and file meta (PS3.10 7.1), read from foreign bytes with care."""

import struct
from dataclasses import dataclass

from gateway.dicom.uids import is_uid
from gateway.errors import NotUnderstood

MAXIMUM_META_BYTES = 64 * 1024
FOREIGN_PREAMBLE = "its preamble is not empty and could be that of a program: it was not kept"
_PREFIX = b"DICM"
_TIFF = (b"II*\0", b"MM\0*")
_START = 128 + len(_PREFIX)
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID = 0x02, 0x03, 0x10
_WANTED = {_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID}


@dataclass(frozen=True)
class Meta:
    """What the file meta names; the data set begins at `offset`."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    preamble_is_plain: bool = True
    """All zero, or that of a TIFF file (PS3.10 7.1); anything else may be a program (CVE-2019-11687)."""


def read_meta(head: bytes | memoryview) -> Meta | None:
    """None where `head` ends too early to tell; raise NotUnderstood where it is not the beginning of a PS3.10 file.

    The preamble may be anything. Group 0002 is always explicit VR little endian; its group length is not asked.
    """
    if head[128:_START] != _PREFIX[: max(0, len(head) - 128)]:
        raise NotUnderstood("expected a preamble and DICM")
    values: dict[int, bytes] = {}
    at = _START
    while len(head) >= at + 2:
        if head[at : at + 2] != b"\2\0":
            return _meta(values, at, bytes(head[:128]))
        if len(head) < at + 12:
            break
        number, start, at = _element(head, at)
        if number in _WANTED:
            values[number] = bytes(head[start:at])
    if len(head) > MAXIMUM_META_BYTES:
        raise _too_long()
    return None


def _element(head: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """Number of the element that begins at `at`, and where its value begins and ends."""
    number, vr, short, long = struct.unpack_from("<xxH2sHI", head, at)
    if not (vr.isalpha() and vr.isupper()):
        raise NotUnderstood("expected a file meta in explicit VR little endian")
    start, length = (at + 12, long) if vr in _LONG else (at + 8, short)
    if start + length > MAXIMUM_META_BYTES:
        raise _too_long()
    return number, start, start + length


def _too_long() -> NotUnderstood:
    return NotUnderstood(f"expected a file meta of at most {MAXIMUM_META_BYTES} bytes")


def _meta(values: dict[int, bytes], offset: int, preamble: bytes) -> Meta:
    uids = {number: value.decode("latin-1").rstrip("\0 ") for number, value in values.items()}
    if uids.keys() != _WANTED or not all(map(is_uid, uids.values())):
        raise NotUnderstood("expected SOP Class, SOP Instance and Transfer Syntax UID in the file meta")
    is_plain = not any(preamble) or preamble.startswith(_TIFF)
    return Meta(uids[_SOP_CLASS_UID], uids[_SOP_INSTANCE_UID], uids[_TRANSFER_SYNTAX_UID], offset, is_plain)
