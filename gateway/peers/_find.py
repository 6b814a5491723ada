"""C-FIND, Study Root and Modality Worklist (PS3.4 C.6.2, K.6): the identifier of a query, and what a match says. No I/O."""

from collections.abc import Iterable, Mapping
from io import BytesIO

from pydicom import Dataset
from pydicom.charset import decode_bytes, python_encoding
from pydicom.uid import UID, ImplicitVRLittleEndian
from pydicom.valuerep import TEXT_VR_DELIMS
from pynetdicom.dsutils import decode, encode

from gateway.dicom.scan import in_memory, scan
from gateway.errors import Rejected, Unreachable
from gateway.peers import PROCESSING_FAILURE, STORED

NO_QUERIES = (
    "the peer does not accept our queries (Study Root C-FIND):"
    ' allow them there, or set proof = "commitment" or "none" for this peer'
)
NO_WORKLIST = "the peer does not accept worklist queries: allow them there, or set worklist = false for this peer"
_ESCAPE, _NOT_TEXT = b"\x1b", "expected the peer's {} in the character set that it declares"
_FOUND = (STORED, 0xB001)  # the second: there may be more
_BUSY = (PROCESSING_FAILURE, 0x0213)
_NOT_SUPPORTED = (0x0122, 0x0118, 0x0211)


def identifier(level: str, uids: Mapping[str, str], *asked: str) -> bytes:
    """Unique keys with our values, and the keywords whose values are asked for; Implicit VR Little Endian."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in uids.items():
        setattr(ds, keyword, UID(value) if keyword.endswith("UID") else value)
    for keyword in asked:
        setattr(ds, keyword, "")
    return encode(ds, is_implicit_vr=True, is_little_endian=True) or b""


def worklist_identifier(accession_number: str) -> bytes:
    """Asks for the priority of an order (PS3.4 table K.6-1); Implicit VR Little Endian."""
    ds, step = Dataset(), Dataset()
    step.Modality = ""
    ds.AccessionNumber, ds.RequestedProcedurePriority, ds.ScheduledProcedureStepSequence = accession_number, "", [step]
    return encode(ds, is_implicit_vr=True, is_little_endian=True) or b""


def check(status: int, unsupported: str = NO_QUERIES) -> None:
    """Raise Unreachable or Rejected where a query ended in a failure (PS3.4 C.4.1.1.4)."""
    if status in _FOUND:
        return
    if status in _NOT_SUPPORTED:
        raise Unreachable(f"{unsupported} (0x{status:04X})")
    if status >> 8 == 0xA7 or status in _BUSY:
        raise Unreachable(f"the peer cannot answer the query now (0x{status:04X})")
    raise Rejected(status, f"the peer does not answer the query (0x{status:04X})")


def read(match: bytes) -> Dataset:
    """Raises Unreachable. The walk of `scan` goes first: what is torn or nested too deep never comes to pydicom."""
    try:
        scan(in_memory(match), len(match), ImplicitVRLittleEndian)
        return decode(BytesIO(match), is_implicit_vr=True, is_little_endian=True)
    except Exception as error:  # a reader of foreign bytes
        raise Unreachable("the peer's answer to the query is not understood") from error


def uid(ds: Dataset, keyword: str) -> str:
    """As it stands in the bytes, unpadded."""
    return (_raw(ds, keyword) or b"").decode("latin-1").strip("\0 ")


def text(ds: Dataset, keyword: str) -> str | None:
    """In the character set of the data set; None where the attribute is absent. Raises Unreachable where it cannot be read."""
    value = _raw(ds, keyword)
    if value is None or (value.isascii() and _ESCAPE not in value):
        return None if value is None else value.decode("ascii").strip("\0 ")
    terms = [term.strip("\0 ") for term in (_raw(ds, "SpecificCharacterSet") or b"").decode("latin-1").split("\\")]
    try:
        decoded = decode_bytes(value, [python_encoding[term] for term in terms], TEXT_VR_DELIMS)
    except Exception as error:  # a reader of foreign bytes
        raise Unreachable(_NOT_TEXT.format(keyword)) from error
    if "\ufffd" in decoded or "\x1b" in decoded:  # what pydicom puts for bytes, or leaves of extensions, that it does not know
        raise Unreachable(_NOT_TEXT.format(keyword))
    return decoded.strip("\0 ")


def texts(ds: Dataset, keywords: Iterable[str]) -> dict[str, str]:
    """Empty where the attribute is absent. Raises Unreachable as `text` does."""
    return {keyword: uid(ds, keyword) if keyword.endswith("UID") else text(ds, keyword) or "" for keyword in keywords}


def _raw(ds: Dataset, keyword: str) -> bytes | None:
    """As it stands in the bytes: pydicom's conversion would warn of odd values, and quote them."""
    if keyword not in ds:
        return None
    value = ds.get_item(keyword).value
    return value if isinstance(value, bytes) else b""
