"""The targets by name: modules with `fuzz(data)`, `seeds()`, `LONGEST` (bytes), `TOKENS` and, where they have one, `mutate`."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

TARGETS: Mapping[str, str] = {
    "scan": "tests.fuzz.datasets",
    "pdu": "tests.fuzz.associations",
    "multipart": "tests.fuzz.bodies",
    "journal": "tests.fuzz.segments",
}
FOUND = Path(__file__).parent / "found"
"""Inputs that once failed, in a folder for each target."""


def fuzz(name: str, data: bytes) -> None:
    import_module(TARGETS[name]).fuzz(data)
