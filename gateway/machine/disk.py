"""What Linux can do for durability that Python has no name for: syncs of folders, of file systems, and begun early."""

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_begin_range = _libc.sync_file_range
_begin_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_WRITE = 2  # SYNC_FILE_RANGE_WRITE


def sync_folder(folder: Path) -> None:
    """Names in it, made or changed, are durable when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Everything that was written on the file system of `folder` is durable when this returns: one sync for many files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def begin_writing(file: int, at: int, size: int) -> None:
    """Let the disk begin with these bytes while more are coming; a hint, the sync at the end tells what failed."""
    _begin_range(file, at, size, _WRITE)
