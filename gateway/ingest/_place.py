"""A file that lies in a watched folder: opened, removed or moved by its folder's descriptor, so never by way of a link."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

Stamp = tuple[int, int]
"""Size and time of the last change: where they stay the same, the file is taken to be the same (inodes change on some shares)."""
_LONGEST_NAME = 200  # bytes; most file systems allow 255, and ours grow by an ending


class Changed(Exception):
    """The file is not the one that was seen: it is left for a later look."""


@dataclass(frozen=True)
class Place:
    """`root` and `folder` are descriptors, of the watched folder and of the one in it that holds `name`; `within` is its path."""

    root: int
    folder: int
    within: str
    name: str
    stamp: Stamp

    @property
    def path(self) -> str:
        return f"{self.within}/{self.name}"

    @contextmanager
    def open(self) -> Iterator[int]:
        """A descriptor to read from. Raises Changed, or OSError."""
        descriptor = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            self.check(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def check(self, descriptor: int) -> None:
        """Raise Changed where the file is not as it was seen."""
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or _stamp(found) != self.stamp:
            raise Changed

    def has_hole(self, descriptor: int) -> bool:
        """Whether a part of it was never written: who copies may have said how long it will be before anything else."""
        with suppress(OSError):  # some file systems do not say
            hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
            os.lseek(descriptor, 0, os.SEEK_SET)
            return hole < self.stamp[0]
        return False

    def remove(self) -> None:
        """Unless another was laid there meanwhile."""
        if self._is_there():
            os.unlink(self.name, dir_fd=self.folder)

    def move(self, into: str, report: str = "") -> None:
        """To the same path in a folder of that name, with a text beside it that says why; the text comes first."""
        target = _made(self.root, [into, *self.within.split("/")[1:]])
        try:
            name = _free_name(self.name, target)
            if report:
                _write(f"{name}.reason.txt", report, target)
            if self._is_there():
                os.rename(self.name, name, src_dir_fd=self.folder, dst_dir_fd=target)
        finally:
            os.close(target)

    def _is_there(self) -> bool:
        return _stamp(os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)) == self.stamp


def find(root: int, folder: int, within: str, name: str) -> Place | None:
    """None where that is no regular file, or gone."""
    with suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            return Place(root, folder, within, name, _stamp(found))
    return None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns


def _made(root: int, parts: list[str]) -> int:
    """The descriptor of that folder, made where it is not there."""
    held = os.dup(root)
    for part in parts:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o750, dir_fd=held)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
        finally:
            os.close(held)
        held = inner
    return held


def _free_name(name: str, folder: int) -> str:
    """One that is not taken there; what is moved never overwrites what was moved before."""
    name = os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return name
    return f"{name}.{uuid4().hex[:8]}"


def _write(name: str, text: str, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o640, dir_fd=folder), "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        file.write(text)
