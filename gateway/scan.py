"""The pre-scan of a data set's bytes (PS3.5 7): is it whole, how deep is it, and whose is it? Nothing is decoded.

Every length is checked before it is believed, nesting is followed with a stack instead of recursion, and pixels are
stepped over. What passes can be read later; what does not is refused at the door, while the sender still owns it.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.uid import ImplicitVRLittleEndian

from gateway.errors import NotUnderstood

MAX_DEPTH = 32
MAX_ELEMENTS = 1_000_000
MAX_ITEMS = 100_000
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST",
     b"TM", b"UI", b"UL", b"US")
)  # fmt: skip
_ITEM, _ITEM_END, _SEQUENCE_END, _PIXEL_DATA = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010

# Top-level attributes whose bytes are kept.
SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
CHARACTER_SET, ACCESSION_NUMBER, MODALITY = 0x00080005, 0x00080050, 0x00080060
PATIENT_NAME, PATIENT_ID, PATIENT_BIRTH_DATE = 0x00100010, 0x00100020, 0x00100030
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
_KEPT = frozenset(
    (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, CHARACTER_SET, ACCESSION_NUMBER, MODALITY,
     PATIENT_NAME, PATIENT_ID, PATIENT_BIRTH_DATE, _SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS)
)  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """`values` are the raw bytes of the kept attributes; `pixel_bytes` is the length of native PixelData, else None."""

    values: Mapping[int, bytes]
    pixel_bytes: int | None

    def text(self, tag: int) -> str:
        """A value in the default repertoire, without its padding (one NUL or spaces, PS3.5 6.2)."""
        value = self.values.get(tag, b"")
        return value.removesuffix(b"\0").decode("latin-1").strip(" ")


def scan(data: memoryview, transfer_syntax_uid: str) -> Scan:
    """Walk a whole little endian data set; raise NotUnderstood where it is not one.

    `data` starts at the first element after the file meta. Deflated and big endian syntaxes are not for this function:
    the door does not negotiate them.
    """
    walk = _Walk(data, explicit=transfer_syntax_uid != ImplicitVRLittleEndian)
    walk.run()
    result = Scan(walk.values, walk.pixel_bytes)
    _check_pixel_length(result)
    return result


class _Open(NamedTuple):
    """A sequence, item or run of fragments that has begun. Ends at `end` (None: at its delimiter), at most at `limit`."""

    kind: str
    end: int | None
    limit: int
    implicit: bool


class _Walk:
    """One pass; the stack holds what is open, the innermost last."""

    def __init__(self, data: memoryview, *, explicit: bool) -> None:
        self.data, self.end, self.explicit = data, len(data), explicit
        self.at = self.elements = self.items = 0
        self.stack: list[_Open] = []
        self.values: dict[int, bytes] = {}
        self.pixel_bytes: int | None = None

    def run(self) -> None:
        if self.end == 0:
            raise NotUnderstood("expected a data set, there is none")
        while self.at < self.end or self.stack:
            if self.stack and self.stack[-1].end == self.at:
                self.stack.pop()
                continue
            self._step()

    def _step(self) -> None:
        limit = self.stack[-1].limit if self.stack else self.end
        if self.at + 8 > limit:
            raise NotUnderstood("the data set ends inside an element")
        group, element = struct.unpack_from("<HH", self.data, self.at)
        tag = group << 16 | element
        if group == 0xFFFE:
            self._delimiter(tag, limit)
            return
        if self.stack and self.stack[-1].kind != "item":
            raise NotUnderstood("expected an item in a sequence")
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise NotUnderstood(f"more than {MAX_ELEMENTS} elements")
        self._element(tag, limit)

    def _element(self, tag: int, limit: int) -> None:
        vr, length, header = self._length(tag, limit)
        start = self.at + header
        if length == _UNDEFINED:
            if tag == _PIXEL_DATA:
                self.at = start
                self._open("fragments", None)
            elif vr in (b"SQ", b"UN", b""):
                self.at = start
                self._open("sequence", None, implicit=vr == b"UN")
            else:
                raise NotUnderstood("an undefined length where the VR does not allow one")
            return
        if start + length > limit:
            raise NotUnderstood("an element's length runs past its end")
        if vr == b"SQ":
            self.at = start
            self._open("sequence", start + length)
            return
        if not self.stack:
            self._keep(tag, start, length)
        self.at = start + length

    def _keep(self, tag: int, start: int, length: int) -> None:
        if tag in _KEPT and length <= 1024:
            self.values[tag] = bytes(self.data[start : start + length])
        elif tag == _PIXEL_DATA:
            self.pixel_bytes = length

    def _length(self, tag: int, limit: int) -> tuple[bytes, int, int]:
        """VR (empty when implicit), value length, and the bytes of the element's header."""
        if not self._is_explicit():
            vr = b"SQ" if self._implicit_sequence(tag) else b""
            return vr, struct.unpack_from("<I", self.data, self.at + 4)[0], 8
        vr = bytes(self.data[self.at + 4 : self.at + 6])
        if vr in _SHORT:
            return vr, struct.unpack_from("<H", self.data, self.at + 6)[0], 8
        if vr not in _LONG:
            raise NotUnderstood("expected a value representation of PS3.5 6.2")
        if self.at + 12 > limit:
            raise NotUnderstood("the data set ends inside an element")
        return vr, struct.unpack_from("<I", self.data, self.at + 8)[0], 12

    def _is_explicit(self) -> bool:
        return self.explicit and not (self.stack and self.stack[-1].implicit)

    def _implicit_sequence(self, tag: int) -> bool:
        """In implicit VR a sequence of defined length shows only by its first item; private ones are followed too."""
        length = struct.unpack_from("<I", self.data, self.at + 4)[0]
        if tag == _PIXEL_DATA or length < 8 or self.at + 16 > self.end:
            return False
        group, element, item = struct.unpack_from("<HHI", self.data, self.at + 8)
        return (group, element) == (0xFFFE, 0xE000) and (item == _UNDEFINED or item + 8 <= length)

    def _delimiter(self, tag: int, limit: int) -> None:
        length = struct.unpack_from("<I", self.data, self.at + 4)[0]
        kind = self.stack[-1].kind if self.stack else ""
        self.at += 8
        if tag == _ITEM and kind == "fragments":
            if length == _UNDEFINED or self.at + length > limit:
                raise NotUnderstood("a fragment's length runs past its end")
            self.at += length
            return
        if tag == _ITEM and kind == "sequence":
            if length != _UNDEFINED and self.at + length > limit:
                raise NotUnderstood("an item's length runs past its end")
            self.items += 1
            self._open("item", None if length == _UNDEFINED else self.at + length)
            return
        if (tag, kind) not in ((_ITEM_END, "item"), (_SEQUENCE_END, "sequence"), (_SEQUENCE_END, "fragments")):
            raise NotUnderstood("an item or delimiter outside its place")
        if self.stack[-1].end is not None:
            raise NotUnderstood("a delimiter in a value of defined length")
        self.stack.pop()

    def _open(self, kind: str, end: int | None, *, implicit: bool = False) -> None:
        limit, inherited = (self.stack[-1].limit, self.stack[-1].implicit) if self.stack else (self.end, False)
        self.stack.append(_Open(kind, end, limit if end is None else end, implicit or inherited))
        if len(self.stack) > 2 * MAX_DEPTH:
            raise NotUnderstood(f"sequences nested more than {MAX_DEPTH} deep")
        if self.items > MAX_ITEMS:
            raise NotUnderstood(f"more than {MAX_ITEMS} items")


def _check_pixel_length(scan: Scan) -> None:
    """Native PixelData is as long as the image says (PS3.5 8.1.1); one byte of padding is allowed."""
    numbers = [scan.values.get(tag, b"") for tag in (_ROWS, _COLUMNS, _BITS, _SAMPLES)]
    if scan.pixel_bytes is None or any(len(number) != 2 for number in numbers):
        return
    rows, columns, bits, samples = (struct.unpack("<H", number)[0] for number in numbers)
    frames = scan.text(_FRAMES) or "1"
    if not frames.isascii() or not frames.isdigit():
        return
    expected = (rows * columns * samples * int(frames) * bits + 7) // 8
    if scan.pixel_bytes < expected:
        raise NotUnderstood("PixelData is shorter than Rows, Columns and NumberOfFrames say")
