"""The nouns at the door: an instance that comes in, whose it is, and who handed it over. Frozen, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from gateway import scan
from gateway.errors import InvalidUid, Mismatch, NotUnderstood
from gateway.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid

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
    """An instance at the door: what the request names, and the data set's bytes as they came, without file meta."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: memoryview
    origin: Origin


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


def identify(incoming: Incoming) -> Identity:
    """Check that the data set is whole and is the one that the request names (PS3.4 B.2.3); nothing is decoded but names.

    Raises InvalidUid (0x0117), Mismatch (0xA900) or NotUnderstood (0xC000).
    """
    if not is_uid(incoming.sop_instance_uid) or not is_uid(incoming.sop_class_uid):
        raise InvalidUid("expected UIDs as in PS3.5 9.1 in the request")
    found = scan.scan(incoming.data, incoming.transfer_syntax_uid)
    if found.text(scan.SOP_CLASS_UID) != incoming.sop_class_uid:
        raise Mismatch("expected the SOP Class UID of the request in the data set")
    if found.text(scan.SOP_INSTANCE_UID) != incoming.sop_instance_uid:
        raise InvalidUid("expected the SOP Instance UID of the request in the data set")
    study, series = found.text(scan.STUDY_INSTANCE_UID), found.text(scan.SERIES_INSTANCE_UID)
    if not is_uid(study) or not is_uid(series):
        raise NotUnderstood("expected valid Study and Series Instance UIDs")
    encodings = _encodings(found.text(scan.CHARACTER_SET).split("\\"))
    return Identity(
        study_instance_uid=study,
        series_instance_uid=series,
        modality=_without_controls(found.text(scan.MODALITY))[:16],
        patient_name=_decoded(found.values.get(scan.PATIENT_NAME, b""), encodings)[:324],
        patient_id=_decoded(found.values.get(scan.PATIENT_ID, b""), encodings)[:64],
        patient_birth_date=_without_controls(found.text(scan.PATIENT_BIRTH_DATE))[:8],
        accession_number=_decoded(found.values.get(scan.ACCESSION_NUMBER, b""), encodings)[:64],
    )


def part10_header(incoming: Incoming) -> bytes:
    """Preamble and file meta (PS3.10 7.1). No time and no AE title in it: the same data set gives the same file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(incoming.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(incoming.sop_instance_uid)
    meta.TransferSyntaxUID = UID(incoming.transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    return buffer.getvalue()


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
