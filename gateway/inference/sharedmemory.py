"""POSIX shared memory between the gateway and a Triton on this machine: volumes travel without being sent.

Every name holds the pid of the gateway that made it, so that a later start can remove what a killed one left behind.
"""

import mmap
import os
from pathlib import Path
from typing import Self
from uuid import uuid4

_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
_PREFIX = "gateway_triton_"
_SEAL_BYTES = 32


def prefix() -> str:
    """What the names of everything that this process puts into shared memory begin with."""
    return f"{_PREFIX}{os.getpid()}_"


def forget(beginning: str) -> None:
    """Unlink what begins so; memory that somebody still maps lives on until they let go."""
    for path in _FOLDER.glob(f"{beginning}*"):
        path.unlink(missing_ok=True)


def forget_the_dead() -> None:
    """Unlink what gateways left behind that run no more."""
    for path in _FOLDER.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("_")[0]
        if not Path("/proc", pid).exists():
            path.unlink(missing_ok=True)


class Region:
    """`size` bytes that another process can map by `name` until the `with` block ends.

    Arrays made from `buffer` keep the memory after that. Raises OSError where the machine has not so much shared memory left: the
    space is taken at once, because a write into pages that are not there ends the process (SIGBUS).
    """

    def __init__(self, size: int) -> None:
        self.name = f"{prefix()}{uuid4().hex}"
        self.size = size
        self._seal = b""
        self._path = _FOLDER / self.name
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self.buffer = mmap.mmap(descriptor, size)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    def seal(self) -> None:
        """Mark the end, so that written() can tell whether somebody wrote up to it."""
        self._seal = os.urandom(min(_SEAL_BYTES, self.size))
        self.buffer[-len(self._seal) :] = self._seal

    def written(self) -> mmap.mmap | bytes:
        """The memory, or no bytes at all while the seal is unbroken."""
        return b"" if self._seal and self.buffer[-len(self._seal) :] == self._seal else self.buffer

    def unlink(self) -> None:
        """From here on nobody can find it by name, and nothing is left behind when we are killed."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unlink()
