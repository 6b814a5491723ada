"""multipart/related, cut up as it comes (RFC 2046 5.1, RFC 2387): no I/O, and never more held than a line or a part's headers."""

import re
from collections.abc import Generator, Iterator, Mapping
from typing import Literal

from gateway.errors import NotUnderstood

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_MEDIA_TYPE = re.compile(rf"\s*({_WORD}/{_WORD})\s*")
# A value such as application/dicom is often not quoted, although RFC 2045 5.1 wants that.
_PARAMETER = re.compile(rf';\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";,]+))\s*')
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,99}[0-9A-Za-z'()+_,\-./:=?]")
_HEADER = re.compile(rf"({_WORD})[ \t]*:([^\r\n\0]*)")  # one way to match a blank: two would make a long line take for ever
_FOLDED = re.compile(r"\r\n[ \t]+")

State = Literal["preamble", "delimiter", "headers", "body", "epilogue"]


class Malformed(NotUnderstood):
    """The body is no multipart of RFC 2046: what follows cannot be told apart any more."""


class TooMuch(NotUnderstood):
    """A limit was passed that no honest request comes near."""


class Ended:
    """A part has ended."""


Event = Mapping[str, str] | memoryview | Ended
"""A part begins with its headers (names in lower case), goes on with memoryviews of its bytes, and ends with Ended."""


class Multipart:
    """`boundary` is the parameter of the Content-Type. Raises Malformed or TooMuch and is of no use afterwards.

    A delimiter is CRLF, two hyphens and the boundary; the first one may do without the CRLF. Anything else is a part's own.
    """

    def __init__(self, boundary: str, *, maximum_header_bytes: int, maximum_parts: int) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._maximum_header_bytes, self._maximum_parts = maximum_header_bytes, maximum_parts
        self._state: State = "preamble"
        self._held = b"\r\n"
        self._parts = self._preamble = 0
        self._blank = 0
        """Bytes at the start of `_held` that end the part's headers: with an empty part they belong to the delimiter."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take all that is yielded before feeding more; the memoryviews are valid until then."""
        data, at = self._held + data, 0
        while True:
            state = self._state
            if state in ("preamble", "body"):
                at = yield from self._until_delimiter(data, at)
            elif state == "delimiter":
                at = self._after_delimiter(data, at)
            elif state == "headers":
                at = yield from self._headers(data, at)
            else:
                at = len(data)
            if self._state == state:  # no more can be told from these bytes
                self._held = data[at:]
                return

    def finish(self) -> None:
        """The body has ended; raise Malformed where it should not have."""
        if self._state != "epilogue":
            raise Malformed("expected the final boundary")
        if self._parts == 0:
            raise Malformed("expected at least one part")

    def _until_delimiter(self, data: bytes, at: int) -> Generator[Event, None, int]:
        found = data.find(self._delimiter, at)
        end = found if found >= 0 else max(at, len(data) - len(self._delimiter) + 1)
        if self._state == "preamble":
            self._preamble += end - at
            if self._preamble > self._maximum_header_bytes:
                raise TooMuch(f"expected a boundary within {self._maximum_header_bytes} bytes")
        elif end > at + self._blank:
            yield memoryview(data)[at + self._blank : end]
            self._blank = 0
        elif found < 0:
            end = at
        if found < 0:
            return end
        if self._state == "body":
            yield Ended()
        self._state = "delimiter"
        return found + len(self._delimiter)

    def _after_delimiter(self, data: bytes, at: int) -> int:
        """Two hyphens end the whole, a line end (after blanks) begins a part; of anything else there is no telling."""
        if data[at : at + 2] == b"--":
            self._state = "epilogue"
            return len(data)
        line = at
        while data[line : line + 1] in (b" ", b"\t"):
            line += 1
        rest = data[line : line + 2]
        if rest == b"\r\n":
            self._parts += 1
            if self._parts > self._maximum_parts:
                raise TooMuch(f"expected at most {self._maximum_parts} parts")
            self._state = "headers"
            return line
        if line - at > self._maximum_header_bytes or rest not in (b"", b"\r", b"-"):
            raise Malformed("expected a line end after a boundary")
        return at

    def _headers(self, data: bytes, at: int) -> Generator[Event, None, int]:
        """`at` is the line end before the first of them."""
        end = data.find(b"\r\n\r\n", at)
        if (end if end >= 0 else len(data)) - at > self._maximum_header_bytes:
            raise TooMuch(f"expected at most {self._maximum_header_bytes} bytes of headers in a part")
        if end < 0:
            return at
        yield _headers(data[at + 2 : end])
        self._state, self._blank = "body", 2
        return end + 2


def media_type(text: str) -> tuple[str, Mapping[str, str]]:
    """Type and parameters of a Content-Type, type and names in lower case (RFC 2045 5.1); raise Malformed where it is none."""
    found = _MEDIA_TYPE.match(text)
    if found is None:
        raise Malformed("expected a media type")
    parameters: dict[str, str] = {}
    at = found.end()
    while parameter := _PARAMETER.match(text, at):
        name, quoted, plain = parameter.groups()
        if name.lower() in parameters:
            raise Malformed("expected each parameter of a media type once")
        parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = parameter.end()
    if text[at:].strip("; \t"):
        raise Malformed("expected a media type with parameters")
    return found.group(1).lower(), parameters


def is_boundary(text: str) -> bool:
    """RFC 2046 5.1.1: characters of a small set, no blank at the end; 70 of them there, and 73 as Orthanc sends them."""
    return _BOUNDARY.fullmatch(text) is not None


def _headers(block: bytes) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for line in _FOLDED.sub(" ", block.decode("latin-1")).split("\r\n") if block else ():
        found = _HEADER.fullmatch(line)
        if found is None or found.group(1).lower() in headers:
            raise Malformed("expected headers of a part, each of them once")
        headers[found.group(1).lower()] = found.group(2).strip()
    return headers
