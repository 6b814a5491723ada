"""Folders that belong to one process for its life: it holds a lock in each, which ends with it, however it ends.

The lock is an flock. On a file system that several hosts share it has to be seen by all of them, as on NFSv4, CephFS or GFS2, and
not on SMB or on NFSv3 mounted `nolock`; a host that was powered off gives it back when its lease ends (NFSv4: 90 s unless set).
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

_LOCK = "alive"


def claim(parent: Path, name: str) -> tuple[Path, IO[str]]:
    """A new folder, `name` and something after it: ours while the file is open, here or in a process that it was passed on to."""
    while True:
        folder = parent / f"{name}-{uuid4().hex}"
        folder.mkdir(parents=True)
        with suppress(BlockingIOError, FileNotFoundError):  # who looks for what dead processes left was faster
            return folder, _lock(folder)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError where another process has it, FileNotFoundError where it is gone."""
    with _lock(folder):
        yield


def folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _lock(folder: Path) -> IO[str]:
    path = folder / _LOCK
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.samefile(f"/proc/self/fd/{file.fileno()}"):  # it was removed and made again meanwhile
            raise BlockingIOError
    except OSError:
        file.close()
        raise
    return file
