"""The journal's reader on segments that were changed behind its back: it yields what was committed, or nothing.

The input is a list of changes to a real segment and not the segment itself: a fuzzer that sees what the checksum is compared
with could forge an entry, and that is no defect (gateway/doors/journal.py).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from xxhash import xxh3_64_intdigest

from gateway.doors.journal import Segment, entries, new_segment, release
from tests.fuzz.associations import _FOLDER

LONGEST = 96
TOKENS: list[bytes] = []
_CHANGE = struct.Struct("<BHHB")
_RECORDS = [
    (b"x" * 300, {"n": 1, "of": "a"}),
    (b"", {"n": 2}),
    (bytes(range(256)) * 4, {"n": 3}),
    (b"y" * 40, {"n": 4, "text": "ü"}),
]


@dataclass(frozen=True)
class _Committed:
    """A segment as it is on the disk: its name, its bytes, and the record and the data of each entry by where its data lie."""

    name: str
    content: bytes
    entries: dict[int, tuple[dict[str, object], bytes]]
    ends: list[int]


@cache
def _committed() -> _Committed:
    """Used twice: behind its own entries are those of an association before it."""
    with TemporaryDirectory(dir=_FOLDER) as name:
        old = new_segment(Path(name))
        for number in range(12):
            _commit(old, b"old" * 60, {"n": -number})
        old.close()
        release(old.path)
        segment = new_segment(Path(name))
        for data, record in _RECORDS:
            _commit(segment, data, record)
        segment.close()
        found = list(entries(segment.path, 0))
        assert [one.record for one in found] == [record for _, record in _RECORDS]
        held = {one.data_at: (one.record, data) for one, (data, _) in zip(found, _RECORDS, strict=True)}
        return _Committed(segment.path.name, segment.path.read_bytes(), held, [one.end for one in found])


def fuzz(data: bytes) -> None:
    committed = _committed()
    changed, first = _changed(committed.content, data)
    records = [record for record, _ in committed.entries.values()]
    with TemporaryDirectory(dir=_FOLDER) as name:
        segment = Path(name) / committed.name
        segment.write_bytes(changed)
        for start in (0, committed.ends[0], first):
            found = list(entries(segment, start))
            assert all(one.record in records for one in found), "expected only what was committed"
            for one in found:
                content = changed[one.data_at : one.data_at + one.data_size]
                if xxh3_64_intdigest(content) == one.data_check:
                    assert content in [data for record, data in committed.entries.values() if record == one.record]
        untouched = [end for end in committed.ends if end <= first]
        assert [one.end for one in entries(segment, 0)][: len(untouched)] == untouched, "expected what was not touched"


def _changed(content: bytes, data: bytes) -> tuple[bytes, int]:
    """`content` after the changes that `data` says, and the first byte that any of them touched."""
    changed, first = bytearray(content), len(content)
    for act, at, other, value in _CHANGE.iter_unpack(data[: len(data) // _CHANGE.size * _CHANGE.size]):
        at, other = at % (len(changed) + 1), other % (len(changed) + 1)
        first = min(first, at)
        if act % 6 == 0:
            changed[at : at + 1] = bytes((value,))
        elif act % 6 == 1:
            changed[at : at + 1] = bytes((changed[at] ^ 1 << value % 8,)) if at < len(changed) else b""
        elif act % 6 == 2:
            del changed[at:]
        elif act % 6 == 3:
            changed[at : at + value] = changed[other : other + value]
        elif act % 6 == 4:
            del changed[at : at + value]
        else:
            changed[at : at + 8] = other.to_bytes(8, "little")
    return bytes(changed), first


def _commit(segment: Segment, data: bytes, record: dict[str, object]) -> None:
    segment.begin()
    segment.write(data)
    segment.commit(record)


def seeds() -> Iterator[bytes]:
    committed = _committed()
    yield b""
    for at in (0, 8, 12, 20, *committed.ends, *committed.entries):
        for act in range(6):
            yield _CHANGE.pack(act, at, committed.ends[0], 255)
    yield b"".join(_CHANGE.pack(3, committed.ends[0] + n * 255, n * 255, 255) for n in range(4))
