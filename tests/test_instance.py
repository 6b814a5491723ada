"""The nouns at the door: the data set is the one that the request names, the header is PS3.10's, names come out readable."""

import re
import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    RLELossless,
)

from gateway.dicom import scan
from gateway.dicom.instance import IDENTIFYING, Incoming, check, identity, part10_header
from gateway.dicom.scan import Scan
from gateway.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from gateway.errors import InvalidUid, Mismatch, NotUnderstood, Refused

INSTANCE = "1.2.826.1.2.34"
VALUES = {
    scan.SOP_CLASS_UID: CTImageStorage.encode() + b"\0",
    scan.SOP_INSTANCE_UID: INSTANCE.encode(),
    scan.STUDY_INSTANCE_UID: b"1.2.826.1\0",
    scan.SERIES_INSTANCE_UID: b"1.2.826.1.2\0",
}


def incoming(**changes: str) -> Incoming:
    values = {"sop_class_uid": CTImageStorage, "sop_instance_uid": INSTANCE, "transfer_syntax_uid": ExplicitVRLittleEndian}
    return Incoming(**(values | changes))


def found(**changes: bytes) -> Scan:
    names = {
        "sop_class": scan.SOP_CLASS_UID,
        "instance": scan.SOP_INSTANCE_UID,
        "study": scan.STUDY_INSTANCE_UID,
        "series": scan.SERIES_INSTANCE_UID,
    }
    return Scan(VALUES | {names[name]: value for name, value in changes.items()}, None)


def without(*tags: int) -> Scan:
    return Scan({tag: value for tag, value in VALUES.items() if tag not in tags}, None)


def test_the_data_set_that_the_request_names_passes() -> None:
    check(incoming(), found())


@pytest.mark.parametrize(
    ("request_", "values", "kind", "status"),
    [
        (incoming(sop_instance_uid="../../etc/pwn"), found(instance=b"../../etc/pwn "), InvalidUid, 0x0117),
        (incoming(sop_instance_uid="1.02"), found(instance=b"1.02"), InvalidUid, 0x0117),
        (incoming(sop_instance_uid="1." + "2" * 63), found(), InvalidUid, 0x0117),
        (incoming(sop_instance_uid=""), found(), InvalidUid, 0x0117),
        (incoming(sop_instance_uid="1.2\n"), found(), InvalidUid, 0x0117),
        (incoming(sop_class_uid="CT"), found(), InvalidUid, 0x0117),
        (incoming(), found(instance=b"1.2.3.4 "), InvalidUid, 0x0117),
        (incoming(), without(scan.SOP_INSTANCE_UID), InvalidUid, 0x0117),
        (incoming(), found(sop_class=EnhancedCTImageStorage.encode()), Mismatch, 0xA900),
        (incoming(), without(scan.SOP_CLASS_UID), Mismatch, 0xA900),
        (incoming(), without(scan.STUDY_INSTANCE_UID), NotUnderstood, 0xC000),
        (incoming(), without(scan.SERIES_INSTANCE_UID), NotUnderstood, 0xC000),
        (incoming(), found(study=b"1..2"), NotUnderstood, 0xC000),
        (incoming(), found(series=b"1.2.0x"), NotUnderstood, 0xC000),
    ],
)
def test_another_data_set_is_refused_with_its_own_status(
    request_: Incoming, values: Scan, kind: type[Refused], status: int
) -> None:
    with pytest.raises(kind) as refused:
        check(request_, values)

    assert refused.value.dimse_status == status


def test_a_patient_without_attributes_has_an_empty_identity() -> None:
    check(incoming(), found())

    whose = identity(found().values)

    assert (whose.patient_id, whose.patient_name, whose.patient_birth_date) == ("", "", "")
    assert (whose.modality, whose.accession_number) == ("", "")
    assert (whose.study_instance_uid, whose.series_instance_uid) == ("1.2.826.1", "1.2.826.1.2")


def test_the_identifying_attributes_are_all_that_an_identity_is_made_of() -> None:
    values = VALUES | {
        scan.CHARACTER_SET: b"ISO_IR 192", scan.PATIENT_NAME: "山田^太郎".encode(), scan.PATIENT_ID: b"17", scan.MODALITY: b"CT",
        scan.ACCESSION_NUMBER: b"A1", scan.PATIENT_BIRTH_DATE: b"19500101",
    }  # fmt: skip

    whose = identity({tag: values[tag] for tag in IDENTIFYING})

    assert whose == identity(values)
    assert (whose.patient_name, whose.patient_id, whose.modality) == ("山田^太郎", "17", "CT")
    assert (whose.accession_number, whose.patient_birth_date) == ("A1", "19500101")


# pydicom warns that it replaces characters; log.py drops what it says.
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200, deadline=None)
@given(
    sets=st.lists(
        st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "ISO 2022 IR 149", "GB18030", "NOT ONE"]), max_size=3
    ),
    name=st.binary(max_size=30),
    modality=st.binary(max_size=8),
)
def test_no_character_set_and_no_name_keeps_an_instance_out(sets: list[str], name: bytes, modality: bytes) -> None:
    value = "\\".join(sets).encode()

    whose = identity(VALUES | {scan.CHARACTER_SET: value, scan.PATIENT_NAME: name, scan.MODALITY: modality})

    for text in (whose.patient_name, whose.modality):
        assert not re.search("[\x00-\x1f\x7f-\x9f]", text)  # a database takes no NUL, a terminal obeys control characters
        assert text.encode().decode() == text


def test_a_name_keeps_its_own_kind_of_space() -> None:
    name = "Yamada^Tarou=山田^太郎\u3000二"

    assert identity(VALUES | {scan.CHARACTER_SET: b"ISO_IR 192", scan.PATIENT_NAME: name.encode()}).patient_name == name


def written_by_pydicom(named: Incoming) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(named.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(named.sop_instance_uid)
    meta.TransferSyntaxUID = UID(named.transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, HTJ2KLosslessRPCL])
@pytest.mark.parametrize("instance", ["1.2", "1.23", "2.25." + "1" * 38, "2.25." + "1" * 39, "1." + "2" * 62, "1." + "2" * 61])
@pytest.mark.parametrize("sop_class", [CTImageStorage, EnhancedCTImageStorage])
def test_the_header_is_what_pydicom_writes(sop_class: str, instance: str, syntax: str) -> None:
    named = Incoming(sop_class, instance, syntax)

    assert part10_header(named) == written_by_pydicom(named)


def test_the_header_and_a_data_set_make_a_file() -> None:
    data = struct.pack("<HH2sH", 0x10, 0x20, b"LO", 2) + b"17"

    read = dcmread(BytesIO(part10_header(incoming()) + data))

    assert read.PatientID == "17"
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize("uid", ["", "ü", "1.2\0", "1" * 70_000])
def test_a_uid_that_is_none_has_a_header_too_until_it_is_refused(uid: str) -> None:
    assert len(part10_header(incoming(sop_instance_uid=uid))) < 512
