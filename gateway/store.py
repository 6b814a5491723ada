"""Our files on disk: PS3.10 files, named by the SHA-256 of their bytes. With table `study` the only place of patient data.

A file is written under a temporary name, synced, renamed, and its folder synced: when `put` returns, it survives a power
cut. The name tells whether the bytes are still the ones that were written.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from gateway.crash import crash_point
from gateway.errors import Damaged, OutOfResources


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
        for number in range(256):  # all at once: a folder that is made on the way would have to be synced there
            (root / f"{number:02x}").mkdir(exist_ok=True)
        _sync_folder(root)

    def put(self, parts: Iterable[bytes | memoryview]) -> Stored:
        """Write `parts` as one file, durably; raise OutOfResources where the disk does not take it.

        After a failed sync nothing is retried as if the pages were still dirty: the file is given up.
        """
        temporary = self._incoming / uuid4().hex
        sha256, size = hashlib.sha256(), 0
        try:
            if shutil.disk_usage(self._incoming).free < self._keep_free:
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
            _sync_folder(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutOfResources("the store cannot be written") from error
        return Stored(sha256.hexdigest(), size)

    def path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / f"{sha256}.dcm"

    def check(self, sha256: str) -> Path:
        """The path of a file whose bytes are the ones that were written; raise Damaged where they are not."""
        path = self.path(sha256)
        try:
            with path.open("rb", buffering=0) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Damaged("a stored instance cannot be read") from error
        if found != sha256:
            raise Damaged("a stored instance is not the one that was received")
        return path

    def read(self, sha256: str) -> bytes:
        """The file's bytes; raise Damaged where they are missing or not the ones that were written."""
        return self.check(sha256).read_bytes()

    def discard(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def forget_unfinished(self) -> int:
        """Remove what a killed process left half written; nobody was told that it was received."""
        left = list(self._incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def _write(descriptor: int, part: bytes | memoryview) -> int:
    left = memoryview(part)
    while left:
        left = left[os.write(descriptor, left) :]
    return len(part)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
