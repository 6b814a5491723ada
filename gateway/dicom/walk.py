"""The walk over the bytes of a little endian data set (PS3.5 7): what is where, how deep, and is it whole? Nothing is decoded.

Every length is checked before it is believed, values are stepped over by arithmetic, and nesting is followed with a stack. One
window of the bytes is held at a time: neither the size nor the shape of what comes in costs memory.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydicom.tag import ItemDelimiterTag, ItemTag, SequenceDelimiterTag, Tag

from gateway.dicom.limits import MAX_DEPTH, MAX_ELEMENTS, MAX_ITEMS, MAX_TEXT_BYTES, TooMuch, check_value, dictionary_vr
from gateway.errors import NotUnderstood

MAX_KEPT_BYTES = 1024
WINDOW_BYTES = 64 * 1024
"""What is read where elements follow each other; after a long value a fourth of it does."""

Read = Callable[[int, int], bytes]
"""read(offset, count): at most `count` bytes of the data set from `offset`, fewer only at its end."""

_UNDEFINED = 2**32 - 1
_SHORT = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST",
     b"TM", b"UI", b"UL", b"US")
)  # fmt: skip
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_LONG_VALUES = _LONG - {b"SQ"}
PIXELS = frozenset(int(Tag(keyword)) for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
_PIXEL_DATA = int(Tag("PixelData"))

_EXPLICIT = struct.Struct("<I2sH")  # tag, VR, length
_IMPLICIT = struct.Struct("<III")  # tag, length, the first bytes of the value
_TWO_NUMBERS = struct.Struct("<II")  # tag and length, or length and the first bytes of the value
_LENGTH = struct.Struct("<I")


def _read_as(tag: int) -> int:
    """A tag as one little endian number: its group comes first, so it is in the lower half. Its own inverse."""
    return (tag & 0xFFFF) << 16 | tag >> 16


_DELIMITERS = _ITEM, _ITEM_END, _SEQUENCE_END = tuple(_read_as(tag) for tag in (ItemTag, ItemDelimiterTag, SequenceDelimiterTag))
_NOT_PASSED = dict.fromkeys((*_DELIMITERS, *map(_read_as, PIXELS)), 0)


def wanting(tags: Iterable[int]) -> Mapping[int, int]:
    """What a Walk is told of the top-level attributes whose values it is to keep; made once, it stands in nobody's way."""
    return _NOT_PASSED | {_read_as(tag): tag for tag in tags}


@dataclass(slots=True)
class _Open:
    """A sequence, item or run of fragments that has begun; the data set itself counts as an item.

    Ends at `end` (None: at its delimiter), at most at `limit`. `guessed`: nothing but its first bytes says that it is a sequence.
    """

    kind: str
    end: int | None
    limit: int
    implicit: bool
    guessed: bool = False
    items: int = 0


class Walk:
    """One pass over `size` bytes. `wanted` comes from `wanting`; `values` are the bytes of those that are there, if short."""

    def __init__(self, read: Read, size: int, *, implicit: bool, wanted: Mapping[int, int]) -> None:
        self._read, self._size, self._implicit = read, size, implicit
        self._wanted = wanted
        self._window, self._base = b"", -1
        self._at = self._elements = 0
        self._stack = [_Open("item", size, size, implicit)]
        self.values: dict[int, bytes] = {}
        self.native: dict[int, int] = {}
        """Lengths of the pixels that are not compressed."""
        self.compressed: int | None = None
        """Bytes in the fragments of encapsulated Pixel Data."""

    def run(self) -> None:
        """Raises NotUnderstood."""
        if self._size == 0:
            raise NotUnderstood("expected a data set, there is none")
        if self._implicit and self._size >= 8:
            # The first attribute is a short one: a length that spells a VR is none. Believed, it would lead into the pixels.
            at = self._hold(8)
            if self._window[at + 4 : at + 6] in _SHORT | _LONG:
                raise NotUnderstood("expected implicit VR, as the transfer syntax says")
        while self._stack:
            try:
                self._next()
            except TooMuch:
                raise
            except NotUnderstood:
                if not self._take_as_opaque():
                    raise

    def _next(self) -> None:
        inside = self._stack[-1]
        if inside.kind == "item" and self._at != inside.end:
            if inside.implicit:
                self._pass_implicit(inside)
            else:
                self._pass_explicit(inside)
        if self._at == inside.end:
            self._stack.pop()
            return
        if self._at + 8 > inside.limit:
            raise NotUnderstood("the data set ends inside an element")
        at = self._hold(12)
        tag, length = _TWO_NUMBERS.unpack_from(self._window, at)
        if tag in _DELIMITERS:  # others of their group are elements like any, here as in the passes above
            self._delimiter(tag, length, inside)
        elif inside.kind != "item":
            raise NotUnderstood("expected an item in a sequence")
        else:
            self._element(_read_as(tag), at, inside)

    def _pass_explicit(self, inside: _Open) -> None:
        """Step over elements as long as nothing is special about one. This is where nearly all the time goes."""
        window, values, unpack, unpack_long = self._window, self.values, _EXPLICIT.unpack_from, _TWO_NUMBERS.unpack_from
        short, long, item = _SHORT, _LONG_VALUES, _ITEM
        wanted = self._wanted if len(self._stack) == 1 else _NOT_PASSED
        at = began = self._at - self._base
        last = min(len(window), inside.limit - self._base) - 8
        passed = 0
        while at <= last:
            tag, vr, length = unpack(window, at)
            if vr in short:
                end = at + 8 + length
            elif vr in long and at + 8 <= last:
                length, first = unpack_long(window, at + 8)
                if first == item or length > MAX_TEXT_BYTES:
                    break
                end = at + 12 + length
            else:
                break
            if tag in wanted:
                if not wanted[tag] or length > MAX_KEPT_BYTES or end > last + 8:
                    break
                values[wanted[tag]] = window[end - length : end]
            at = end
            passed += 1
        self._passed(at - began, passed, inside)

    def _pass_implicit(self, inside: _Open) -> None:
        """The same where no VR is told. A value that begins with an item may be a sequence: it needs a closer look."""
        window, values, item, unpack = self._window, self.values, _ITEM, _IMPLICIT.unpack_from
        wanted = self._wanted if len(self._stack) == 1 else _NOT_PASSED
        at = began = self._at - self._base
        last = min(len(window), inside.limit - self._base) - 12
        passed = 0
        while at <= last:
            tag, length, first = unpack(window, at)
            if first == item or length > MAX_TEXT_BYTES:
                break
            end = at + 8 + length
            if tag in wanted:
                if not wanted[tag] or length > MAX_KEPT_BYTES or end > last + 12:
                    break
                values[wanted[tag]] = window[at + 8 : end]
            at = end
            passed += 1
        self._passed(at - began, passed, inside)

    def _passed(self, size: int, elements: int, inside: _Open) -> None:
        self._at += size
        self._count(elements)
        if self._at > inside.limit:
            raise NotUnderstood("an element's length runs past its end")

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise TooMuch(f"more than {MAX_ELEMENTS} elements")

    def _hold(self, count: int) -> int:
        """Where in the window the next bytes are: `count`, or as many as the data set has left."""
        at, held = self._at - self._base, len(self._window)
        if at + count <= held or (self._base + held == self._size and at <= held):
            return at
        self._window, self._base = b"", self._at
        self._window = self._read(self._at, max(count, WINDOW_BYTES if at <= held else WINDOW_BYTES // 4))
        if len(self._window) < min(count, self._size - self._at):
            raise NotUnderstood("expected more bytes of the data set")
        return 0

    def _element(self, tag: int, at: int, inside: _Open) -> None:
        """Any element, its header at `at` in the window."""
        self._count(1)
        vr, length, header = self._header(at, inside)
        self._at += header
        if length == _UNDEFINED:
            self._open_undefined(tag, vr, inside)
            return
        end = self._at + length
        if end > inside.limit:
            raise NotUnderstood("an element's length runs past its end")
        if vr == b"SQ":
            self._open("sequence", end, inside)
        elif len(self._stack) == 1 and tag in PIXELS:
            self.native[tag] = length
            self._at = end
        else:
            check_value(tag, vr.decode(), length)
            self._value(tag, vr, end, inside)

    def _header(self, at: int, inside: _Open) -> tuple[bytes, int, int]:
        """VR (empty when implicit), length of the value, length of the header."""
        if inside.implicit:
            return b"", _LENGTH.unpack_from(self._window, at + 4)[0], 8
        _, vr, length = _EXPLICIT.unpack_from(self._window, at)
        if vr in _SHORT:
            return vr, length, 8
        if vr not in _LONG:
            raise NotUnderstood("expected a value representation of PS3.5 6.2")
        if self._at + 12 > inside.limit:
            raise NotUnderstood("the data set ends inside an element")
        return vr, _LENGTH.unpack_from(self._window, at + 8)[0], 12

    def _value(self, tag: int, vr: bytes, end: int, inside: _Open) -> None:
        """A value of defined length, which is a sequence where it begins with an item, and nothing says what it is.

        A reader takes it as one where PS3.6 says so: then it has to be one. Where PS3.6 has another VR nobody does. Private
        attributes, and those newer than our dictionary, are a guess: some readers know them, some look at the first bytes as
        we do, and those would follow a bomb down. So they are walked, and refused where they go too deep. Where the guess
        fails before that, a reader that made it fails at the same byte and has gone no deeper: the value counts as opaque.
        """
        length = end - self._at
        if vr in (b"", b"UN") and length >= 8 and self._begins_with_item():
            known = dictionary_vr(tag)
            if known in ("SQ", ""):
                self._open("sequence", end, inside, implicit=True, guessed=not known)
                return
        if len(self._stack) == 1 and self._wanted.get(_read_as(tag)) and length <= MAX_KEPT_BYTES:
            at = self._hold(length)
            self.values[tag] = self._window[at : at + length]
        self._at = end

    def _begins_with_item(self) -> bool:
        at = self._hold(8)
        return bool(_LENGTH.unpack_from(self._window, at)[0] == _ITEM)

    def _open_undefined(self, tag: int, vr: bytes, inside: _Open) -> None:
        if tag == _PIXEL_DATA:
            if len(self._stack) == 1:
                self.compressed = 0
            self._open("fragments", None, inside)
        elif vr in (b"SQ", b"UN", b""):
            self._open("sequence", None, inside, implicit=vr == b"UN")
        else:
            raise NotUnderstood("an undefined length where the VR does not allow one")

    def _open(self, kind: str, end: int | None, inside: _Open, *, implicit: bool = False, guessed: bool = False) -> None:
        limit = inside.limit if end is None else end
        self._stack.append(_Open(kind, end, limit, implicit or inside.implicit, guessed))
        if len(self._stack) > 2 * MAX_DEPTH + 1:
            raise TooMuch(f"sequences nested more than {MAX_DEPTH} deep")

    def _delimiter(self, tag: int, length: int, inside: _Open) -> None:
        self._at += 8
        if tag == _ITEM and inside.kind != "item":
            self._count(1)
            self._item(length, inside)
        elif (tag, inside.kind) not in ((_ITEM_END, "item"), (_SEQUENCE_END, "sequence"), (_SEQUENCE_END, "fragments")):
            raise NotUnderstood("an item or delimiter outside its place")
        elif inside.end is not None:
            raise NotUnderstood("a delimiter in a value of defined length")
        else:
            self._stack.pop()

    def _item(self, length: int, inside: _Open) -> None:
        end = None if length == _UNDEFINED else self._at + length
        if inside.kind == "fragments":
            if end is None or end > inside.limit:
                raise NotUnderstood("a fragment's length runs past its end")
            self._at = end
            if len(self._stack) == 2 and self.compressed is not None:
                self.compressed += length
            return
        if end is not None and end > inside.limit:
            raise NotUnderstood("an item's length runs past its end")
        inside.items += 1
        if inside.items > MAX_ITEMS:
            raise TooMuch(f"more than {MAX_ITEMS} items")
        self._open("item", end, inside)

    def _take_as_opaque(self) -> bool:
        """Step over the innermost value that was only guessed to be a sequence, and is none; whether there was one."""
        while self._stack:
            inside = self._stack.pop()
            if inside.guessed and inside.end is not None:
                self._at = inside.end
                return True
        return False
