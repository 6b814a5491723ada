"""A journal: bytes and records that are durable when `commit` returns, read by another process as they come.

It is a folder of segments, each for one association at a time, so that nobody waits for another's disk. An instance's bytes are
written into the segment as they come, its record behind them, and one fdatasync makes both durable. A segment that is full and
was read is written over: then a sync changes no metadata and is one write to the disk, which measured half the
time of a new file's (tests/benchmarks).

    segment    entry entry ...         entry    head | data | record as JSON
    head       length of data, length of record, XXH3 of data, XXH3 of the segment's name, of these three and of the record

The name is in there because a segment that is used again holds old entries behind its new ones. What is torn at the end was
never acknowledged. XXH3 costs a tenth of zlib's CRC-32; nobody is kept out by it, that is what SHA-256 in the store is for.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from xxhash import xxh3_64, xxh3_64_intdigest

from gateway.crash import crash_point
from gateway.errors import OutOfResources
from gateway.machine.disk import begin_writing, sync_folder

FULL = 8 * 1024**2
"""The sooner a segment is full, the sooner it is written over: then neither its blocks nor memory for them have to be found."""
_SPARES, LARGEST_SPARE = 16, 64 * 1024**2
_SOME = 4 * 1024**2
_ROOM = 16 * 1024**2
_MOST_PARTS = 1024  # IOV_MAX of Linux
_HEAD = struct.Struct("<QIQQ")
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_LENGTHS = struct.Struct("<QIQ")
Record = Mapping[str, Any]


class Segment:
    """The writing end, for one thread at a time. Raises OutOfResources; after a failed sync it is of no more use."""

    def __init__(self, path: Path, file: int) -> None:
        self.path, self._file = path, file
        self._start = self._size = self._begun = self._room = 0
        self._check = xxh3_64()
        self.is_broken = False

    @property
    def is_full(self) -> bool:
        return self._start >= FULL

    def begin(self) -> None:
        """A new entry, in the place of one that was not committed."""
        self._size = self._begun = 0
        self._check.reset()

    def write(self, *parts: bytes | memoryview) -> None:
        """More data of the entry, in as few calls of the system as it takes."""
        for one in parts:
            self._check.update(one)
        for first in range(0, len(parts), _MOST_PARTS):
            self._size += self._put(parts[first : first + _MOST_PARTS], self._start + _HEAD.size + self._size)
        if self._size - self._begun >= _SOME:
            self._go_on()

    def _go_on(self) -> None:
        """Of something huge the disk has what came so far while more is coming, and the rest has its room in one piece.

        Found block by block, the room for 200 MB took a quarter of the time. What is small is synced at once: two calls more.
        """
        at = self._start + _HEAD.size
        begin_writing(self._file, at + self._begun, self._size - self._begun)
        self._begun = self._size
        if at + self._size + _SOME > self._room:
            self._room = at + self._size + _ROOM
            with suppress(OSError):  # it is an offer; the disk that is full tells so when it is written to
                os.posix_fallocate(self._file, at + self._size, _ROOM)

    def read(self, offset: int, count: int) -> bytes:
        """Data of the entry that was written."""
        return os.pread(self._file, max(0, min(count, self._size - offset)), self._start + _HEAD.size + offset)

    def commit(self, record: Record, *, durable: bool = True) -> None:
        """End the entry; it is on the disk when this returns, or only written."""
        encoded = _ENCODER.encode(record).encode()
        self._put((encoded,), self._start + _HEAD.size + self._size)
        self._put((_head(self.path.stem, self._size, encoded, self._check.intdigest()),), self._start)
        if durable:
            try:
                os.fdatasync(self._file)
            except OSError as error:  # pages that were not written may count as clean from now on
                self.is_broken = True
                self._put((bytes(_HEAD.size),), self._start)  # nobody is told that it was kept: nobody shall find it
                raise unwritable("journal", error) from error
            crash_point("journal.synced")
        self._start += _HEAD.size + self._size + len(encoded)
        self.begin()

    def close(self) -> None:
        os.close(self._file)

    def _put(self, parts: Sequence[bytes | memoryview], at: int) -> int:
        size = sum(map(len, parts))
        try:
            written = os.pwritev(self._file, parts, at)
            while written < size:
                written += os.pwrite(self._file, b"".join(parts)[written:], at + written)
        except OSError as error:
            raise unwritable("journal", error) from error
        return size


def unwritable(what: str, error: OSError) -> OutOfResources:
    return OutOfResources(f"the {what} cannot be written: {(error.strerror or type(error).__name__).lower()}")


def new_segment(folder: Path) -> Segment:
    """One that was used before, or a new one, under a new name that is durable. Raises OSError."""
    path = folder / f"{uuid4().hex}.journal"
    for spare in folder.glob("*.spare"):
        try:
            spare.rename(path)
            break
        except FileNotFoundError:  # another thread was faster
            continue
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    sync_folder(folder)
    return Segment(path, file)


@dataclass(frozen=True)
class Entry:
    """What was committed: its record, where its data lie (`data_at`, `data_size`, bytes), and where the next entry begins."""

    segment: Path
    record: dict[str, Any]
    data_at: int
    data_size: int
    data_check: int
    end: int


def entries(segment: Path, position: int) -> Iterator[Entry]:
    """The entries from `position` on, as far as there are any yet."""
    with segment.open("rb", buffering=0) as file:
        while (found := _entry(segment, file.fileno(), position)) is not None:
            yield found
            position = found.end


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def release(segment: Path) -> None:
    """Everything in it is filed, and its writer has left it: it may be written over, or goes; one of a huge instance always."""
    if segment.stat().st_size <= LARGEST_SPARE and len(list(segment.parent.glob("*.spare"))) < _SPARES:
        segment.rename(segment.with_suffix(".spare"))
    else:
        segment.unlink()


def _entry(segment: Path, file: int, at: int) -> Entry | None:
    head = os.pread(file, _HEAD.size, at)
    if len(head) < _HEAD.size:
        return None
    size, length, data_check, _ = _HEAD.unpack(head)
    if not length or at + size + length > os.fstat(file).st_size:
        return None
    encoded = os.pread(file, length, at + _HEAD.size + size)
    if head != _head(segment.stem, size, encoded, data_check):
        return None
    data_at = at + _HEAD.size
    return Entry(segment, json.loads(encoded), data_at, size, data_check, data_at + size + length)


def _head(name: str, size: int, encoded: bytes, data_check: int) -> bytes:
    lengths = _LENGTHS.pack(size, len(encoded), data_check)
    return lengths + struct.pack("<Q", xxh3_64_intdigest(name.encode() + lengths + encoded))
