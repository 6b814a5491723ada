"""A stored PS3.10 file as the ways out see it: who it is, and where its data set begins. Nothing is decoded."""

from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pydicom import Dataset

from gateway.dicom.filemeta import MAXIMUM_META_BYTES, Meta, read_meta
from gateway.dicom.uids import is_uid
from gateway.errors import NotUnderstood, Rejected, Unreachable
from gateway.peers import NOT_UNDERSTOOD

_FIRST = 1024  # holds the file meta of nearly every file


@dataclass(frozen=True)
class Part10:
    """UIDs of the file meta (PS3.10 7.1); the data set is the bytes from `offset` to the end of the file."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int


def read_part10(path: Path) -> Part10:
    """Raises Unreachable where the file cannot be read, Rejected where it is not a PS3.10 file."""
    try:
        with path.open("rb", buffering=0) as file:
            meta = _meta(file)
    except OSError as error:
        raise unreadable(error) from error
    except NotUnderstood as error:
        raise Rejected(NOT_UNDERSTOOD, str(error)) from error
    if meta is None:
        raise Rejected(NOT_UNDERSTOOD, "expected a PS3.10 file")
    return Part10(path, meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, meta.offset)


def _meta(file: FileIO) -> Meta | None:
    head = file.read(_FIRST)
    return read_meta(head) or read_meta(head + file.read(MAXIMUM_META_BYTES))


def raw_uid(ds: Dataset, keyword: str) -> str:
    """The UID as it stands in the bytes, unpadded; pydicom's conversion would warn and quote it. Raises Rejected (PS3.5 9.1)."""
    value = ds.get_item(keyword).value if keyword in ds else b""
    uid = value.decode("ascii", "replace").rstrip("\0 ") if isinstance(value, bytes) else str(value)
    if not is_uid(uid):
        raise Rejected(NOT_UNDERSTOOD, f"expected a valid {keyword}")
    return uid


def unreadable(error: OSError) -> Unreachable:
    return Unreachable(f"our stored file cannot be read: {error.strerror or type(error).__name__}")
