"""A Store request as HTTP brings it (PS3.18 10.5.1): what its head asks for, and its body within limits of time and size."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.dicom.uids import is_uid
from gateway.errors import GatewayError
from gateway.ingest._answer import Refusal, acceptable
from gateway.ingest._multipart import Malformed, is_boundary, media_type

_PATH = re.compile("/dicom-web/studies(?:/([^/]+))?/?")
_LEAST_BYTES_PER_SECOND = 1000
_MOST_DIGITS = 18

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Gone(GatewayError):
    """The other side has closed the connection: there is nobody to answer."""


@dataclass(frozen=True)
class Head:
    """`study_instance_uid` is empty where the request names none, `accepted` the media type to answer in."""

    boundary: str
    study_instance_uid: str
    accepted: str


def read_head(scope: Mapping[str, Any], *, maximum_body_bytes: int | None) -> Head:
    """Raise Refusal (400, 404, 405, 406, 413, 415, PS3.18 10.5.3) where it is not a Store request that we take."""
    study = _study(scope["path"])
    if scope["method"] != "POST":
        raise Refusal(405, "expected POST: instances are stored here and not searched or retrieved")
    headers = scope["headers"]
    accepted = acceptable(", ".join(_values(headers, b"accept")))
    _check_framing(headers, maximum_body_bytes)
    if study and not is_uid(study):
        raise Refusal(400, "expected a Study Instance UID as in PS3.5 9.1 in the path")
    return Head(_boundary(headers), study, accepted)


def _study(path: str) -> str:
    found = _PATH.fullmatch(path)
    if found is None:
        raise Refusal(404, "expected /dicom-web/studies or /dicom-web/studies/ and a Study Instance UID")
    return found.group(1) or ""


def _check_framing(headers: Any, maximum_body_bytes: int | None) -> None:
    """RFC 9112 6.3: a request with two framings may be meant to slip past a proxy."""
    length, chunked = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if length and chunked:
        raise Refusal(400, "expected Content-Length or Transfer-Encoding, not both")
    if maximum_body_bytes is not None and length and (len(length[0]) > _MOST_DIGITS or int(length[0]) > maximum_body_bytes):
        raise Refusal(413, f"expected a body of at most {maximum_body_bytes} bytes")
    if [coding for coding in _values(headers, b"content-encoding") if coding.strip().lower() != "identity"]:
        raise Refusal(415, "expected a body that is not compressed")


def _boundary(headers: Any) -> str:
    found = _values(headers, b"content-type")
    if len(found) > 1:
        raise Refusal(400, "expected one Content-Type")
    try:
        kind, parameters = media_type(found[0] if found else "application/octet-stream")
    except Malformed as error:
        raise Refusal(400, str(error)) from error
    if kind != "multipart/related" or parameters.get("type", "").lower() != "application/dicom":
        raise Refusal(415, 'expected multipart/related; type="application/dicom"')
    boundary = parameters.get("boundary", "")
    if not is_boundary(boundary):
        raise Refusal(400, "expected a boundary as in RFC 2046 5.1.1")
    return boundary


def _values(headers: Any, name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in headers if found == name]


class Body:
    """The body of a request, a piece at a time. `ended`: nothing of it is left to be read."""

    def __init__(self, receive: Receive, *, idle_seconds: float, maximum_bytes: int | None) -> None:
        self._receive, self._idle_seconds, self._maximum = receive, idle_seconds, maximum_bytes
        self._bytes, self._waited = 0, 0.0
        self.ended = False

    async def read(self) -> bytes:
        """The next piece; raise Gone, or Refusal where there is too much (413) or it comes too slowly (408)."""
        clock = asyncio.get_running_loop().time
        began = clock()
        ahead = self._bytes / _LEAST_BYTES_PER_SECOND - self._waited
        try:
            async with asyncio.timeout(self._idle_seconds + min(0.0, ahead)):
                data = await self._next()
        except TimeoutError:
            raise Refusal(408, f"expected more of the body within {self._idle_seconds:g} s") from None
        self._waited += clock() - began
        self._bytes += len(data)
        if self._maximum is not None and self._bytes > self._maximum:
            raise Refusal(413, f"expected a body of at most {self._maximum} bytes")
        return data

    async def drain(self, seconds: float) -> None:
        """Drop what still comes: a connection that is closed before may take our answer with it (RFC 9112 9.6)."""
        with contextlib.suppress(TimeoutError, Gone):
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise Gone("expected a connection that holds")
        self.ended = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data
