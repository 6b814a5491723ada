"""Imports that a short program leaves out: pydicom takes along what it finds of these, for pixels that nobody decodes here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

FOR_PIXELS = ("PIL", "gdcm", "numpy", "requests")


@contextmanager
def without(names: tuple[str, ...]) -> Iterator[None]:
    """While entered, whatever is imported finds none of these; those that are loaded already stay."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
