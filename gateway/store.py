"""Our files on disk: PS3.10 files, named by the SHA-256 of their bytes. With table `study` the only place of patient data.

A file is written under a temporary name, synced, renamed, and its folder synced: when `put` returns, it survives a power
cut. The name tells whether the bytes are still the ones that were written.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from xxhash import xxh3_64

from gateway.crash import crash_point
from gateway.doors.journal import Entry
from gateway.errors import ConfigError, Damaged, OutOfResources
from gateway.machine.disk import sync_file_system, sync_folder
from gateway.machine.folders import claim

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stored:
    """`sha256` (hex) is the key; `size` is in bytes."""

    sha256: str
    size: int


class Store:
    def __init__(self, root: Path, *, keep_free_bytes: int = 0) -> None:
        self._root, self._keep_free = root, keep_free_bytes
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        if root.stat().st_dev != self._incoming.stat().st_dev:  # one sync and one look for room serve both
            raise ConfigError(["[store] folder: expected its folder incoming on the same file system"])
        self._half = self._incoming
        """Where files are written before they are whole."""
        for number in range(256):  # all at once: a folder that is made on the way would have to be synced there
            (root / f"{number:02x}").mkdir(exist_ok=True)
        sync_folder(root)

    def is_writable(self) -> bool:
        """Whether a file could be written now."""
        probe = self._half / uuid4().hex
        try:
            probe.touch(exist_ok=False)
            probe.unlink()
            return self.free_bytes() >= self._keep_free
        except OSError:
            return False

    def put(self, parts: Iterable[bytes | memoryview]) -> Stored:
        """Write `parts` as one file, durably; raise OutOfResources where the disk does not take it.

        After a failed sync nothing is retried as if the pages were still dirty: the file is given up.
        """
        temporary = self._half / uuid4().hex
        sha256, size = hashlib.sha256(), 0
        try:
            if self.free_bytes() < self._keep_free:
                raise OutOfResources("the store's disk is nearly full")
            with temporary.open("xb", buffering=0) as file:
                for part in parts:
                    sha256.update(part)
                    size += _write(file.fileno(), part)
                os.fsync(file.fileno())
            crash_point("store.written")
            path = self.path(sha256.hexdigest())
            temporary.replace(path)
            crash_point("store.renamed")
            sync_folder(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutOfResources("the store cannot be written") from error
        return Stored(sha256.hexdigest(), size)

    def file(self, arrived: Iterable[Entry]) -> list[str]:
        """Copy what lies in journals to its place; durable when this returns, and safe to repeat. Raises OutOfResources.

        Returns the digests, "" for data that are not those of their entry. One sync of the file system serves them all.
        """
        digests: list[str] = []
        temporary: dict[Path, Path] = {}
        try:
            for entry in arrived:
                path = self._half / uuid4().hex
                digests.append(_copy(entry, path))
                temporary[path] = self.path(digests[-1]) if digests[-1] else path
            sync_file_system(self._incoming)
            for path, place in temporary.items():
                if place == path:
                    path.unlink()
                else:
                    path.replace(place)
            sync_file_system(self._incoming)
        except OSError as error:
            for path in temporary:
                path.unlink(missing_ok=True)
            raise OutOfResources(f"{self._root} cannot be written: {os.strerror(error.errno or errno.EIO).lower()}") from error
        return digests

    def path(self, sha256: str) -> Path:
        return place(self._root, sha256)

    def check(self, sha256: str) -> Path:
        """The path of a file whose bytes are the ones that were written; raise Damaged where they are not."""
        path = self.path(sha256)
        try:
            with path.open("rb", buffering=0) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise Damaged("a stored instance is not there any more: unless retention took it, the disk has lost it") from error
        except OSError as error:
            raise Damaged("a stored instance cannot be read") from error
        if found != sha256:
            raise Damaged("a stored instance is not the one that was received")
        return path

    def read(self, sha256: str) -> bytes:
        """The file's bytes; raise Damaged where they are missing or not the ones that were written."""
        return self.check(sha256).read_bytes()

    def free_bytes(self) -> int:
        """Free on the store's disk."""
        return shutil.disk_usage(self._incoming).free

    def discard(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    @property
    def incoming(self) -> Path:
        """Where doors have their folders, on the same disk."""
        return self._incoming

    @property
    def headers(self) -> Path:
        """Where what rules saw of series is kept (kept.py)."""
        return self._root / "headers"

    @property
    def work(self) -> Path:
        """Where processes have folders for what they have half written."""
        return self._root / "work"

    @contextmanager
    def working(self) -> Iterator[None]:
        """Half files are in a folder of our own meanwhile: others who have the store too see whose they are."""
        self._half, alive = claim(self.work, "half")
        with alive:
            try:
                yield
            finally:
                shutil.rmtree(self._half, ignore_errors=True)
                self._half = self._incoming

    def forget_unfinished(self) -> int:
        """Remove what a killed process left half written; nobody was told that it was received."""
        left = [path for path in self._incoming.iterdir() if path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def place(root: Path, sha256: str) -> Path:
    """Where a file lies in the store at `root`."""
    return root / sha256[:2] / f"{sha256}.dcm"


def _write(descriptor: int, part: bytes | memoryview) -> int:
    left = memoryview(part)
    while left:
        left = left[os.write(descriptor, left) :]
    return len(part)


def _copy(entry: Entry, path: Path) -> str:
    """Write the data of a journal's entry as a file; its SHA-256, or "" where it is not what was written there."""
    sha256, check, at, end = hashlib.sha256(), xxh3_64(), entry.data_at, entry.data_at + entry.data_size
    with entry.segment.open("rb", buffering=0) as source, path.open("xb", buffering=0) as target:
        while at < end:
            part = os.pread(source.fileno(), min(_CHUNK, end - at), at)
            if not part:
                return ""
            sha256.update(part)
            check.update(part)
            at += _write(target.fileno(), part)
    return sha256.hexdigest() if check.intdigest() == entry.data_check else ""
