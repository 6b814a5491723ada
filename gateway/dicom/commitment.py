"""Storage Commitment, push model (PS3.4 J.3): its UIDs, and the data sets of its two messages. No I/O."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode

from gateway.dicom.scan import in_memory, scan
from gateway.dicom.uids import is_uid
from gateway.errors import InvalidArgument, NotUnderstood

COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
REQUEST = 1
"""The one action type (PS3.4 J.3.2.1.1)."""
EVENTS = _ALL, _SOME_FAILED = 1, 2
"""The event types (PS3.4 J.3.3.1.1): all instances are committed, or some are not."""
# Failure reasons (PS3.3 C.14.1.1).
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CONFLICT, DUPLICATE_TRANSACTION = 0x0110, 0x0112, 0x0119, 0x0131

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True)
class Outcome:
    """What an N-EVENT-REPORT tells: which instances are committed, and which are not, with their failure reasons."""

    transaction_uid: str
    committed: Sequence[Reference]
    failed: Sequence[tuple[str, str, int]]

    @property
    def event_type(self) -> int:
        return _SOME_FAILED if self.failed else _ALL

    def encoded(self, *, implicit_vr: bool = True) -> bytes:
        """The event information (PS3.4 table J.3-2), little endian."""
        ds = Dataset()
        ds.TransactionUID = UID(self.transaction_uid)
        if self.committed:
            ds.ReferencedSOPSequence = [_item(*reference) for reference in self.committed]
        if self.failed:
            ds.FailedSOPSequence = [_item(*failure) for failure in self.failed]
        return encode(ds, implicit_vr, is_little_endian=True) or b""


def encoded_request(transaction_uid: str, instances: Iterable[Reference]) -> bytes:
    """The action information (PS3.4 table J.3-1), Implicit VR Little Endian."""
    ds = Dataset()
    ds.TransactionUID = UID(transaction_uid)
    ds.ReferencedSOPSequence = [_item(*reference) for reference in instances]
    return encode(ds, is_implicit_vr=True, is_little_endian=True) or b""


def read_request(data: bytes, transfer_syntax_uid: str) -> tuple[str, tuple[Reference, ...]]:
    """Transaction UID and instances of an action information (PS3.4 table J.3-1); raises InvalidArgument."""
    with foreign("expected a Transaction UID and a Referenced SOP Sequence"):
        ds = decoded(data, transfer_syntax_uid)
        transaction_uid, instances = uid_of(ds, "TransactionUID"), tuple(map(_reference, items(ds, "ReferencedSOPSequence")))
        if not instances:
            raise InvalidArgument("expected a Referenced SOP Sequence with at least one item")
        _check_once(uid for _, uid in instances)
    return transaction_uid, instances


def read_outcome(event_type: int, data: bytes, transfer_syntax_uid: str) -> Outcome:
    """The event information (PS3.4 table J.3-2) of an event of that type; raises InvalidArgument.

    One that says two things at once is refused: it would prove nothing.
    """
    with foreign("expected a Transaction UID and a Referenced or Failed SOP Sequence"):
        ds = decoded(data, transfer_syntax_uid)
        committed = tuple(map(_reference, items(ds, "ReferencedSOPSequence")))
        failed = tuple((*_reference(item), _number(item, "FailureReason")) for item in items(ds, "FailedSOPSequence"))
        outcome = Outcome(uid_of(ds, "TransactionUID"), committed, failed)
        if not committed and not failed:
            raise InvalidArgument("expected a Referenced or Failed SOP Sequence with at least one item")
        if outcome.event_type != event_type:
            raise InvalidArgument("expected a Failed SOP Sequence in event type 2, and in no other")
        _check_once([*(uid for _, uid in committed), *(uid for _, uid, _ in failed)])
    return outcome


@contextmanager
def foreign(expected: str) -> Iterator[None]:
    """What is raised while foreign bytes are read becomes an InvalidArgument."""
    try:
        yield
    except (NotUnderstood, InvalidArgument) as error:
        raise InvalidArgument(str(error)) from error
    except Exception as error:  # a reader of foreign bytes
        raise InvalidArgument(expected) from error


def decoded(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """The walk of `scan` goes first: what is torn, nested too deep or too long never comes to pydicom."""
    scan(in_memory(data), len(data), transfer_syntax_uid)
    return decode(BytesIO(data), transfer_syntax_uid == ImplicitVRLittleEndian, is_little_endian=True)


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    return ds.get(keyword) or ()


def _reference(item: Dataset) -> Reference:
    return uid_of(item, "ReferencedSOPClassUID"), uid_of(item, "ReferencedSOPInstanceUID")


def _check_once(uids: Iterable[str]) -> None:
    counts = Counter(uids)
    if counts.total() > len(counts):
        raise InvalidArgument("expected each instance once")


def _item(sop_class: str, instance: str, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(sop_class), UID(instance)
    if failure is not None:
        item.FailureReason = failure
    return item


def uid_of(ds: Dataset, keyword: str) -> str:
    """As it stands in the bytes, unpadded; pydicom's conversion would warn and quote it. Raises InvalidArgument."""
    value = ds.get_item(keyword).value if keyword in ds else b""
    uid = value.removesuffix(b"\0").decode("latin-1") if isinstance(value, bytes) else str(value)
    if not is_uid(uid):
        raise InvalidArgument(f"expected a {keyword} as in PS3.5 9.1")
    return uid


def _number(ds: Dataset, keyword: str) -> int:
    """A US as it stands in the bytes. Raises InvalidArgument."""
    value = ds.get_item(keyword).value if keyword in ds else b""
    if not isinstance(value, bytes) or len(value) != 2:
        raise InvalidArgument(f"expected a {keyword} as in PS3.3 C.14.1.1")
    return int.from_bytes(value, "little")
