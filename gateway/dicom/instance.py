"""The nouns at the door: an instance that comes in, whose it is, and who handed it over. Frozen, no I/O."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unicodedata import category

from pydicom.charset import convert_encodings, decode_bytes, python_encoding

from gateway.dicom import scan
from gateway.dicom.scan import Scan
from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid
from gateway.errors import InvalidUid, Mismatch, NotUnderstood

IDENTIFYING = (
    scan.CHARACTER_SET, scan.ACCESSION_NUMBER, scan.MODALITY, scan.PATIENT_NAME, scan.PATIENT_ID, scan.PATIENT_BIRTH_DATE,
    scan.STUDY_INSTANCE_UID, scan.SERIES_INSTANCE_UID,
)  # fmt: skip
"""The attributes that `identity` reads."""
_NAME_DELIMITERS = {0x5E, 0x3D}


@dataclass(frozen=True)
class Origin:
    """Who handed us an instance, by which ingest, over which association (a UUID; an HTTP request counts as one)."""

    ingest: str
    association: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    address: str = ""


@dataclass(frozen=True)
class Incoming:
    """An instance at the door, as the request names it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Identity:
    """Whose an instance is. The patient's attributes go to table `study` and nowhere else."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    patient_name: str
    patient_id: str
    patient_birth_date: str
    accession_number: str


def check(incoming: Incoming, found: Scan) -> None:
    """Check that the data set is the one that the request names (PS3.4 B.2.3), and says where it belongs.

    Raises InvalidUid (0x0117), Mismatch (0xA900) or NotUnderstood (0xC000).
    """
    if not is_uid(incoming.sop_instance_uid) or not is_uid(incoming.sop_class_uid):
        raise InvalidUid("expected UIDs as in PS3.5 9.1 in the request")
    if found.text(scan.SOP_CLASS_UID) != incoming.sop_class_uid:
        raise Mismatch("expected the SOP Class UID of the request in the data set")
    if found.text(scan.SOP_INSTANCE_UID) != incoming.sop_instance_uid:
        raise InvalidUid("expected the SOP Instance UID of the request in the data set")
    if not is_uid(found.text(scan.STUDY_INSTANCE_UID)) or not is_uid(found.text(scan.SERIES_INSTANCE_UID)):
        raise NotUnderstood("expected valid Study and Series Instance UIDs")


def identity(values: Mapping[int, bytes]) -> Identity:
    """Whose an instance is that passed `check`, from the bytes of its `IDENTIFYING` attributes; what is absent is empty."""
    found = Scan(values, None)
    encodings = _encodings(found.text(scan.CHARACTER_SET).split("\\"))
    return Identity(
        study_instance_uid=found.text(scan.STUDY_INSTANCE_UID),
        series_instance_uid=found.text(scan.SERIES_INSTANCE_UID),
        modality=_without_controls(found.text(scan.MODALITY))[:16],
        patient_name=_decoded(values.get(scan.PATIENT_NAME, b""), encodings)[:324],
        patient_id=_decoded(values.get(scan.PATIENT_ID, b""), encodings)[:64],
        patient_birth_date=_without_controls(found.text(scan.PATIENT_BIRTH_DATE))[:8],
        accession_number=_decoded(values.get(scan.ACCESSION_NUMBER, b""), encodings)[:64],
    )


def part10_header(incoming: Incoming) -> bytes:
    """Preamble and file meta (PS3.10 7.1). No time and no AE title in it: the same data set gives the same file.

    Put together by hand, it stands in the way of every instance. A UID that is none makes a file that `check` keeps out.
    """
    meta = b"".join(
        (
            _META_BEGIN,
            _element(2, b"UI", incoming.sop_class_uid),
            _element(3, b"UI", incoming.sop_instance_uid),
            _element(0x10, b"UI", incoming.transfer_syntax_uid),
            _META_END,
        )
    )
    return _PREAMBLE + struct.pack("<I", len(meta)) + meta


def _element(number: int, vr: bytes, text: str) -> bytes:
    """One of group 0002, of even length (PS3.5 6.2: UIDs are padded with NUL, other text with a space)."""
    value = text.encode("ascii", "replace")[:64]
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


_PREAMBLE = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0, b"UL", 4)
_META_BEGIN = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
_META_END = _element(0x12, b"UI", IMPLEMENTATION_CLASS_UID) + _element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME)


def _encodings(character_sets: Sequence[str]) -> list[str]:
    names = [name.strip() for name in character_sets]
    return convert_encodings(names) if all(name in python_encoding for name in names) else ["latin_1"]


def _decoded(value: bytes, encodings: Sequence[str]) -> str:
    """For search only; a name that the declared character set cannot read is kept readable, the bytes stay in the store."""
    try:
        text = decode_bytes(value, encodings, _NAME_DELIMITERS)
    except (LookupError, UnicodeError):
        text = value.decode("latin-1")
    return _without_controls(text).strip()


def _without_controls(text: str) -> str:
    """A database takes no NUL and no half of a character, and a terminal obeys control characters."""
    return "".join(character for character in text if category(character) not in ("Cc", "Cs"))
