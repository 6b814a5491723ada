"""A ZIP of PS3.10 files, read entry by entry without extraction: its names become no path of ours, and nothing is trusted.

It is judged whole by its directory before any entry is read. Python's zipfile reads no further than the sizes told there, so
what they say is what can come.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Self

from gateway.errors import NotUnderstood

MOST_ENTRIES = 10_000
MOST_BYTES = 20 * 1024**3
"""Of all entries together, inflated."""
MOST_RATIO, FREE_BYTES = 100, 16 * 1024**2
"""An entry of more than so many bytes may be so many times as large as what it is packed in. Deflate comes to a thousand."""
_MOST_AT_ONCE = 4 * 1024**2  # zipfile reads the whole directory: 419 bytes for each of 10,000 entries
_LOCAL = struct.Struct("<4s22xHH")
_UNREADABLE_FLAGS = 0x0001 | 0x0020 | 0x0040 | 0x2000  # encrypted, a patch, strongly encrypted, an encrypted directory
_DRIVE = re.compile(r"[A-Za-z]:")
_FOREIGN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, OSError,
)  # fmt: skip

Read = Callable[[int], bytes]
"""The next bytes, at most so many; none where all of them came."""


class Hostile(NotUnderstood):
    """A ZIP as nobody makes it who wants to hand over instances."""


@dataclass(frozen=True)
class Member:
    """An entry that may be an instance: its place in the directory, from 1, and its inflated size in bytes."""

    position: int
    size: int
    info: zipfile.ZipInfo


def is_archive(head: bytes) -> bool:
    """Whether a file that begins so is a ZIP, and no PS3.10 file with the preamble of one. `head` is of 132 bytes or more."""
    return head[:4] in (b"PK\3\4", b"PK\5\6") and head[128:132] != b"DICM"


class Archive:
    """A ZIP in an open file, which stays open. Raises NotUnderstood where it is none, Hostile, or OSError if the disk fails."""

    def __init__(self, descriptor: int) -> None:
        self._file = _Bounded(descriptor)
        with self._understood("expected a ZIP whose directory can be read"):
            self._zip = zipfile.ZipFile(self._file)
            entries = self._zip.infolist()
            _check(entries)
            self._check_apart(entries)
        self.members = [
            Member(n, info.file_size, info) for n, info in enumerate(entries, 1) if not (info.is_dir() or _is_hidden(info))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @contextmanager
    def reading(self, member: Member) -> Iterator[Read]:
        """Its bytes; reading raises NotUnderstood where the entry is damaged (CRC), at the latest in place of its end."""
        with self._understood("expected an entry that can be read"):
            opened = self._zip.open(member.info)
        came = 0

        def read(count: int) -> bytes:
            nonlocal came
            with self._understood("expected an entry that is whole"):
                part = opened.read(count)
            came += len(part)
            if not part and came != member.size:
                raise NotUnderstood("expected an entry of the size that the directory tells")
            return part

        with opened:
            yield read

    def _check_apart(self, entries: Sequence[zipfile.ZipInfo]) -> None:
        """No entry shares bytes with another, or with the directory: that is how a small file comes to hold petabytes."""
        end = 0
        for info in sorted(entries, key=lambda one: one.header_offset):
            self._file.seek(info.header_offset)
            signature, name, extra = _LOCAL.unpack(self._file.read(_LOCAL.size))
            if signature != b"PK\3\4" or info.header_offset < end:
                raise Hostile("expected entries that do not overlap")
            end = info.header_offset + _LOCAL.size + name + extra + info.compress_size
        if end > self._zip.start_dir:
            raise Hostile("expected entries that do not overlap")

    @contextmanager
    def _understood(self, expected: str) -> Iterator[None]:
        """What a foreign reader raises over foreign bytes becomes ours; what the disk says of them stays what it is."""
        try:
            yield
        except _FOREIGN as error:
            if self._file.failed is not None:
                raise self._file.failed from error
            raise NotUnderstood(expected) from error


class _Bounded(FileIO):
    """Reads no more at once than we have the memory for, and remembers that the disk failed: zipfile takes it for a bad ZIP."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "rb", closefd=False)
        self.failed: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = _MOST_AT_ONCE + 1
        elif size > _MOST_AT_ONCE:
            raise Hostile("expected a directory of at most 4 MiB")
        try:
            return super().read(size) or b""
        except OSError as error:
            self.failed = error
            raise


def _check(entries: Sequence[zipfile.ZipInfo]) -> None:
    if len(entries) > MOST_ENTRIES:
        raise Hostile(f"expected at most {MOST_ENTRIES} entries")
    if sum(info.file_size for info in entries) > MOST_BYTES:
        raise Hostile(f"expected at most {MOST_BYTES} bytes in all entries together")
    if len({info.orig_filename for info in entries}) < len(entries):
        raise Hostile("expected entries of different names")
    for info in entries:
        _check_entry(info)


def _check_entry(info: zipfile.ZipInfo) -> None:
    """Names become no path here; one that would lead out of a folder says what the ZIP was made for."""
    name = info.orig_filename.replace("\\", "/")
    if name.startswith("/") or _DRIVE.match(name) or "\0" in name or ".." in name.split("/"):
        raise Hostile("expected entries whose names stay within a folder")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Hostile("expected files and folders, no links or devices")
    if info.flag_bits & _UNREADABLE_FLAGS:
        raise Hostile("expected entries without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # of the others one piece can fill the memory
        raise Hostile("expected entries that are stored or deflated")
    if info.file_size > max(FREE_BYTES, MOST_RATIO * info.compress_size):
        raise Hostile(f"expected entries at most {MOST_RATIO} times as large as what they are packed in")


def _is_hidden(info: zipfile.ZipInfo) -> bool:
    """What a system adds for itself."""
    return any(part.startswith(".") or part == "__MACOSX" for part in info.filename.split("/"))
