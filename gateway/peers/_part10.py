"""A stored PS3.10 file as the ways out see it: who it is, and where its data set begins. Nothing is decoded."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pynetdicom.dsutils import split_dataset

from gateway.errors import Rejected, Unreachable
from gateway.peers import NOT_UNDERSTOOD
from gateway.uids import is_uid


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
        meta, offset = split_dataset(path)
    except OSError as error:
        raise unreadable(error) from error
    except Exception as error:  # a reader of foreign bytes
        raise Rejected(NOT_UNDERSTOOD, "expected a PS3.10 file") from error
    return Part10(
        path,
        sop_class_uid=raw_uid(meta, "MediaStorageSOPClassUID"),
        sop_instance_uid=raw_uid(meta, "MediaStorageSOPInstanceUID"),
        transfer_syntax_uid=raw_uid(meta, "TransferSyntaxUID"),
        offset=offset,
    )


def raw_uid(ds: Dataset, keyword: str) -> str:
    """The UID as it stands in the bytes, unpadded; pydicom's conversion would warn and quote it. Raises Rejected (PS3.5 9.1)."""
    value = ds.get_item(keyword).value if keyword in ds else b""
    uid = value.decode("ascii", "replace").rstrip("\0 ") if isinstance(value, bytes) else str(value)
    if not is_uid(uid):
        raise Rejected(NOT_UNDERSTOOD, f"expected a valid {keyword}")
    return uid


def unreadable(error: OSError) -> Unreachable:
    return Unreachable(f"our stored file cannot be read: {error.strerror or type(error).__name__}")
