"""multipart/related and the PS3.10 files in it: the same parts however a body is cut up, and only errors of our own."""

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from gateway.dicom.filemeta import MAXIMUM_META_BYTES, Meta, read_meta
from gateway.dicom.instance import Origin
from gateway.doors.door import Door
from gateway.doors.entry import Kept
from gateway.errors import NotUnderstood, Refused
from gateway.ingest import Terms
from gateway.ingest._multipart import Ended, Malformed, Multipart, TooMuch, is_boundary, media_type
from gateway.ingest._stow import Submission
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES
from tests.fuzz import corpus
from tests.fuzz.associations import _FOLDER, promised
from tests.synthetic import part10

LONGEST = 32 * 1024
BOUNDARY = "b0"
MAXIMUM_HEADER_BYTES, MAXIMUM_PARTS = 600, 8
TOKENS = [
    b"\r\n--b0\r\n", b"\r\n--b0--\r\n", b"--b0", b"\r\n\r\n", b"\r\n", b"\r\n ", b"Content-Type: application/dicom\r\n", b"Content-Type",
    b"; boundary=", b'"', b"\\", b"DICM", b"\2\0\2\0UI", b"\2\0\3\0UI", b"\2\0\x10\0UI", b"\2\0\0\0UL\4\0", b"\2\0\1\0OB\0\0", b"\x08\0",
]  # fmt: skip
_TERMS = Terms(STORAGE, TRANSFER_SYNTAXES, 20_000)
_NOW = datetime(2026, 1, 2, tzinfo=UTC)
Parts = list[tuple[Mapping[str, str], bytes]]


def fuzz(data: bytes) -> None:
    chance = Random(zlib.crc32(data))
    for content in (data, b"--b0\r\n" + data):
        pieces = _cut(content, chance)
        whole, error = _parts([content])
        assert _parts(pieces) == (whole, error), "expected the same parts, however the body is cut up"
        if whole:
            _submit(pieces, len(whole), error)
            for _, part in whole:
                _meta(part)
    _meta(data)
    text = data[:2000].decode("latin-1")
    with suppress(Malformed):
        media_type(text)
    is_boundary(text)


def _parts(pieces: list[bytes]) -> tuple[Parts, type[Exception] | None]:
    """The parts that came to their end, and the class of the error that ended it all."""
    multipart = Multipart(BOUNDARY, maximum_header_bytes=MAXIMUM_HEADER_BYTES, maximum_parts=MAXIMUM_PARTS)
    found: Parts = []
    headers: Mapping[str, str] = {}
    content = b""
    try:
        for piece in pieces:
            for event in multipart.feed(piece):
                if isinstance(event, memoryview):
                    content += event
                elif isinstance(event, Ended):
                    found.append((headers, content))
                else:
                    headers, content = event, b""
            assert len(multipart._held) <= MAXIMUM_HEADER_BYTES + 16, "expected that little is held"
        multipart.finish()
    except (Malformed, TooMuch) as error:
        return found, type(error)
    return found, None


def _submit(pieces: list[bytes], parts: int, error: type[Exception] | None) -> None:
    """The same through a door: an outcome for each part that ended, and a promise for each that is stored."""
    before = len(os.listdir("/proc/self/fd"))
    outcomes: list[object] = []
    with TemporaryDirectory(dir=_FOLDER) as name:
        door = Door(Path(name), clock=lambda: _NOW, keep_free_bytes=0)
        multipart = Multipart(BOUNDARY, maximum_header_bytes=MAXIMUM_HEADER_BYTES, maximum_parts=MAXIMUM_PARTS)
        submission = Submission(door, Origin("dicomweb", "fuzz"), multipart, _TERMS, outcomes)
        raised: type[Exception] | None = None
        try:
            for piece in pieces:
                submission.take(piece)
            submission.finish(b"")
        except (Malformed, TooMuch) as found:
            raised = type(found)
        submission.end()
        door.close()
        assert (len(outcomes), raised) == (parts, error)
        stored = sum(one.error is None for one in outcomes)
        assert stored == sum(isinstance(one, Kept) for one in promised(Path(name)))
        assert all(one.error is None or isinstance(one.error, Refused) for one in outcomes)
    assert len(os.listdir("/proc/self/fd")) <= before, "expected no descriptor to be left"


def _meta(head: bytes) -> None:
    """The file meta can be told from some byte on, and is the same from there on, whatever comes behind it."""
    told: Meta | None = None
    failed = False
    for end in sorted({*range(0, min(len(head), 700), 1 + len(head) % 37), len(head)}):
        try:
            meta = read_meta(head[:end])
        except NotUnderstood:
            assert told is None
            failed = True
            continue
        assert not failed and (told is None or meta == told)
        assert meta is None or meta.offset + 2 <= end
        assert meta is not None or end <= MAXIMUM_META_BYTES
        told = meta


def _cut(content: bytes, chance: Random) -> list[bytes]:
    """Into single bytes, or into pieces of any length."""
    if len(content) < 400 and chance.random() < 0.2:
        return [content[at : at + 1] for at in range(len(content))]
    places = sorted(chance.randrange(len(content) + 1) for _ in range(chance.randrange(12)))
    return [content[begin:end] for begin, end in zip([0, *places], [*places, len(content)], strict=True)]


def seeds() -> Iterator[bytes]:
    head, small = b"Content-Type: application/dicom\r\n\r\n", part10(corpus.instance(2))
    delimiter, end = b"\r\n--b0\r\n", b"\r\n--b0--\r\n"
    yield delimiter + head + small + end
    yield delimiter + head + small + delimiter + head + b"x" + delimiter + head + small[:300] + end
    yield delimiter + b"\r\n" + small + end
    yield b"preamble" + delimiter + b'content-TYPE :\r\n application/dicom; a="b\\""\r\n\r\n' + small + end + b"epilogue"
    yield head.strip() + b"\r\n\r\n" + small + end
    yield delimiter + b"Content-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\nx" + end
    yield from (
        delimiter * 9 + end,
        delimiter + b"\r\n" + end,
        b"--b0--",
        b"--b0 \t\r\n\r\n\r\n--b0--",
        b"--b0x",
        b"a" * 700,
        b"",
    )
    yield b'multipart/related; type="application/dicom"; boundary=b0'
    yield from (small, small[:200], small[128:], small.replace(b"OB\0\0", b"SQ\0\0", 1))
    for number, file in enumerate(corpus.real_files(1024)):
        yield b"\r\n" + file + end if number % 2 else file
