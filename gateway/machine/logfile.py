"""The log of a program that is not ours, and appends what it prints: it may not fill the disk."""

import os
import select
import shutil
from contextlib import suppress
from pathlib import Path

_LONGEST = 16 * 1024**2
_LOOK_MILLISECONDS = 60_000


def shorten(path: Path, longest: int = _LONGEST) -> None:
    """One that is longer than so many bytes begins anew; what it held is kept beside it until that happens again.

    It is copied and not renamed, for the program holds it open.
    """
    with suppress(OSError):  # a log is no reason to end anything; the next look comes
        if path.stat().st_size > longest:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)


def keep_short(path: Path, pid: int, longest: int = _LONGEST, look_milliseconds: int = _LOOK_MILLISECONDS) -> None:
    """While a process of ours appends to it; returns when that has ended."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    looking = select.poll()
    looking.register(ended, select.POLLIN)
    try:
        while not looking.poll(look_milliseconds):
            shorten(path, longest)
    finally:
        os.close(ended)
