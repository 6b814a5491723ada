"""Files that are read again when somebody has changed them: how that is seen."""

from pathlib import Path


def marks(file: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None where it is not there. To be taken before it is read."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
