"""The pre-scan, and what is made of a data set that passed it: raises NotUnderstood or Refused and nothing else."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from unicodedata import category

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from gateway.dicom import scan, walk
from gateway.dicom.filemeta import read_meta
from gateway.dicom.instance import Incoming, Origin, check, identity, part10_header
from gateway.dicom.scan import Scan
from gateway.doors.entry import Kept, identifying, promise, record
from gateway.errors import NotUnderstood, Refused
from tests.fuzz import corpus

LONGEST = 16 * 1024
TOKENS = [
    corpus.ITEM, corpus.ITEM_END + bytes(4), corpus.SEQUENCE_END + bytes(4), corpus.UNDEFINED, corpus.ITEM + corpus.UNDEFINED,
    b"SQ\0\0", b"UN\0\0", b"OB\0\0", b"OW\0\0", b"UT\0\0", b"UI", b"CS", b"US\2\0", b"\xe0\x7f\x10\0", b"\xe0\x7f\x08\0", b"\x28\0\x08\0",
    b"\x28\0\x10\0", b"\x28\0\x00\x01", b"\x08\0\x05\0", b"\x10\0\x10\0", b"ISO 2022 IR 87", b"\x1b$B", b"\x1b(J", b"\x08\0\x40\x11",
]  # fmt: skip
_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_SMALL_WINDOW = 24  # bytes: less than most elements
_NOW = datetime(2026, 1, 2, tzinfo=UTC)


def seeds() -> Iterator[bytes]:
    yield from corpus.made_up()
    yield from corpus.real_data_sets(LONGEST)


def fuzz(data: bytes) -> None:
    for syntax in _SYNTAXES:
        found = _scanned(data, syntax)
        with _small_window():
            again = _scanned(data, syntax)
        assert again == found, "expected the same whatever the window"
        if found is not None:
            use(found, syntax, len(data))


def use(found: Scan, syntax: str, size: int) -> None:
    """As the door and receive do with what passed."""
    whose = identity(found.values)
    shown = (whose.modality, whose.patient_name, whose.patient_id, whose.patient_birth_date, whose.accession_number)
    assert not any(category(character) in ("Cc", "Cs") for text in shown for character in text), "expected what a database takes"
    incoming = Incoming(found.text(scan.SOP_CLASS_UID), found.text(scan.SOP_INSTANCE_UID), syntax)
    header = part10_header(incoming)
    try:
        check(incoming, found)
    except Refused:
        return
    meta = read_meta(header + bytes(16))
    assert meta is not None
    assert (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, meta.offset) == (
        incoming.sop_class_uid, incoming.sop_instance_uid, syntax, len(header),
    )  # fmt: skip
    kept = Kept(_NOW, Origin("dimse", "fuzz"), incoming, size + len(header), identifying(found))
    read = promise(json.loads(json.dumps(record(kept))))
    assert read == kept
    assert identity(kept.identifying) == whose


def _scanned(data: bytes, syntax: str) -> Scan | None:
    try:
        return scan.scan(scan.in_memory(data), len(data), syntax)
    except NotUnderstood:
        return None


@contextmanager
def _small_window() -> Iterator[None]:
    usual, walk.WINDOW_BYTES = walk.WINDOW_BYTES, _SMALL_WINDOW
    try:
        yield
    finally:
        walk.WINDOW_BYTES = usual
