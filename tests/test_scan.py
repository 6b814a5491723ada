"""The pre-scan: whatever is a data set passes, whatever is not is refused, and nothing that a sender makes up costs much."""

import re
import struct
import time
import tracemalloc
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import dictionary_has_tag
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from gateway import scan
from gateway.errors import NotUnderstood, Refused
from gateway.instance import Incoming, Origin, identify
from tests.peers_fixture import data_set
from tests.synthetic import ct_series

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
STUDY, SERIES, INSTANCE = "1.2.826.1", "1.2.826.1.2", "1.2.826.1.2.34"
ITEM = b"\xfe\xff\x00\xe0"
UNDEFINED = b"\xff\xff\xff\xff"

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

letters = st.text("ABCXYZabc 0123^=", max_size=16)
octets = (
    st.binary(max_size=40).map(lambda value: value + b"\0" * (len(value) % 2)).filter(lambda value: not value.startswith(ITEM))
)
VALUES = {
    **dict.fromkeys(("LO", "SH", "PN", "ST", "LT", "UT", "UC"), letters.filter(lambda text: text.count("=") < 3)),
    **dict.fromkeys(("OB", "OW", "UN"), octets),
    "CS": st.text("ABC_ 01", max_size=16), "AE": st.text("ABC", max_size=16), "DA": st.just("20260102"), "TM": st.just("101112"),
    "DS": st.just("1.5"), "IS": st.just("7"), "UI": st.just("1.2.3"), "AS": st.just("076Y"),
    "US": st.integers(0, 2**16 - 1), "SS": st.integers(-(2**15), 2**15 - 1), "UL": st.integers(0, 2**32 - 1),
    "FD": st.floats(allow_nan=False), "FL": st.floats(width=32, allow_nan=False), "SV": st.integers(-(2**63), 2**63 - 1),
    "AT": st.just(0x00100010),
}  # fmt: skip
# Any group that is not file meta, delimiters, pixels, or one of the attributes that the scan keeps. Attributes that pydicom
# knows are left out: it reads an unknown value as what the dictionary says, and fails to write what it is not.
tags = (
    st.tuples(st.sampled_from([0x0009, 0x0018, 0x0040, 0x0041, 0x5400, 0xFFFC]), st.integers(0x1000, 0xFFFF))
    .map(lambda t: t[0] << 16 | t[1])
    .filter(lambda tag: not dictionary_has_tag(tag))
)
plain = st.sampled_from(sorted(VALUES)).flatmap(lambda vr: st.tuples(st.just(vr), VALUES[vr]))


def _data_set(elements: dict[int, tuple]) -> Dataset:
    ds = Dataset()
    for tag, (vr, value, *undefined) in elements.items():
        ds[tag] = DataElement(tag, vr, value)
        if undefined:
            ds[tag].is_undefined_length, items_undefined = undefined
            for item in value:
                item.is_undefined_length_sequence_item = items_undefined
    return ds


data_sets = st.recursive(
    st.dictionaries(tags, plain, max_size=4).map(_data_set),
    lambda inner: st.dictionaries(
        tags, plain | st.tuples(st.just("SQ"), st.lists(inner, max_size=3), st.booleans(), st.booleans()), max_size=4
    ).map(_data_set),
    max_leaves=8,
)


def encoded(ds: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == ImplicitVRLittleEndian, True
    write_dataset(buffer, ds)
    return buffer.getvalue()


def with_identity(ds: Dataset) -> Dataset:
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, INSTANCE
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "Name^Given", "17"
    return ds


def incoming(data: bytes, syntax: str = ExplicitVRLittleEndian) -> Incoming:
    return Incoming(CTImageStorage, INSTANCE, syntax, memoryview(data), Origin("dimse", "a"))


@quick
@given(ds=data_sets, syntax=st.sampled_from(SYNTAXES))
def test_whatever_pydicom_writes_passes_with_the_same_identity(ds: Dataset, syntax: str) -> None:
    identity = identify(incoming(encoded(with_identity(ds), syntax), syntax))

    assert (identity.study_instance_uid, identity.series_instance_uid) == (STUDY, SERIES)
    assert (identity.modality, identity.patient_name, identity.patient_id) == ("CT", "Name^Given", "17")


@quick
@given(ds=data_sets, syntax=st.sampled_from(SYNTAXES))
def test_every_truncation_is_refused_but_one_between_two_elements(ds: Dataset, syntax: str) -> None:
    with_identity(ds)
    boundaries, whole = {0}, b""
    for element in ds:
        one = Dataset()
        one[element.tag] = element
        whole += encoded(one, syntax)
        boundaries.add(len(whole))
    assume(len(whole) < 3000)

    for length in range(len(whole)):
        if length in boundaries - {0}:
            scan.scan(memoryview(whole)[:length], syntax)
        else:
            with pytest.raises(NotUnderstood):
                scan.scan(memoryview(whole)[:length], syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_truncated_image_is_refused_wherever_it_was_cut_inside_its_pixels(syntax: str) -> None:
    (ds,) = ct_series(1, 16, 16)
    whole = encoded(ds, syntax)

    scan.scan(memoryview(whole), syntax)
    for cut in range(1, 16 * 16 * 2):
        with pytest.raises(NotUnderstood):
            scan.scan(memoryview(whole)[:-cut], syntax)


def test_pixels_that_are_fewer_than_the_header_says_are_refused() -> None:
    (ds,) = ct_series(1, 16, 16)
    ds.PixelData = ds.PixelData[:-2]

    with pytest.raises(NotUnderstood, match="PixelData is shorter than Rows, Columns and NumberOfFrames say"):
        scan.scan(memoryview(encoded(ds, ExplicitVRLittleEndian)), ExplicitVRLittleEndian)


def test_encapsulated_pixels_pass_whole_and_are_refused_cut() -> None:
    (ds,) = ct_series(1, 16, 16)
    ds["PixelData"] = DataElement("PixelData", "OB", encapsulate([b"\xff\x4f" * 50, b"\xff\x4f" * 30]))
    ds["PixelData"].is_undefined_length = True
    whole = encoded(ds, JPEG2000Lossless)

    assert scan.scan(memoryview(whole), JPEG2000Lossless).pixel_bytes is None
    for cut in range(1, 180):
        with pytest.raises(NotUnderstood):
            scan.scan(memoryview(whole)[:-cut], JPEG2000Lossless)


@quick
@given(
    ds=data_sets,
    syntax=st.sampled_from(SYNTAXES),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_changed_bytes_are_understood_or_refused_and_nothing_else(
    ds: Dataset, syntax: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(encoded(with_identity(ds), syntax))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value

    try:
        identify(incoming(bytes(data), syntax))
    except Refused:
        pass


@quick
@given(data=st.binary(max_size=300), syntax=st.sampled_from(SYNTAXES))
def test_noise_is_understood_or_refused_and_nothing_else(data: bytes, syntax: str) -> None:
    try:
        scan.scan(memoryview(data), syntax)
    except NotUnderstood:
        pass


# pydicom warns that it replaces characters; log.py drops what it says.
@pytest.mark.filterwarnings("ignore::UserWarning")
@quick
@given(
    sets=st.lists(
        st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "ISO 2022 IR 149", "GB18030", "NOT ONE"]), max_size=3
    ),
    name=st.binary(max_size=30),
    modality=st.binary(max_size=8),
)
def test_no_character_set_and_no_name_keeps_an_instance_out(sets: list[str], name: bytes, modality: bytes) -> None:
    ds = with_identity(Dataset())
    ds.PatientName, ds.Modality = "X" * 40, "YYYYYYYY"
    value = "\\".join(sets).encode()
    head = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(value) + len(value) % 2) + value.ljust(len(value) + len(value) % 2)
    whole = encoded(ds, ExplicitVRLittleEndian)

    identity = identify(incoming(head + whole.replace(b"X" * 40, name.ljust(40)).replace(b"Y" * 8, modality.ljust(8))))

    for text in (identity.patient_name, identity.modality):
        assert not re.search("[\x00-\x1f\x7f-\x9f]", text)  # a database takes no NUL, a terminal obeys control characters
        assert text.encode().decode() == text


def test_a_name_keeps_its_own_kind_of_space() -> None:
    ds = with_identity(Dataset())
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "Yamada^Tarou=山田^太郎\u3000二"

    assert identify(incoming(encoded(ds, ExplicitVRLittleEndian))).patient_name == "Yamada^Tarou=山田^太郎\u3000二"


def nested(depth: int, kind: str) -> tuple[bytes, str]:
    """`depth` sequences, each in the one item of the one before."""
    if kind == "explicit":
        return (b"\x40\x00\x30\xa7SQ\0\0" + UNDEFINED + ITEM + UNDEFINED) * depth, ExplicitVRLittleEndian
    if kind == "implicit":
        return (b"\x40\x00\x30\xa7" + UNDEFINED + ITEM + UNDEFINED) * depth, ImplicitVRLittleEndian
    if kind == "unknown VR":
        inner = (b"\x41\x00\x30\xa7" + UNDEFINED + ITEM + UNDEFINED) * (depth - 1)
        return b"\x41\x00\x30\xa7UN\0\0" + UNDEFINED + ITEM + UNDEFINED + inner, ExplicitVRLittleEndian
    parts = [
        b"\x40\x00\x30\xa7" + struct.pack("<I", 16 * left - 8) + ITEM + struct.pack("<I", 16 * left - 16)
        for left in range(depth, 0, -1)
    ]
    return b"".join(parts), ImplicitVRLittleEndian


@pytest.mark.parametrize("depth", [33, 3_000, 100_000])
@pytest.mark.parametrize("kind", ["explicit", "implicit", "unknown VR", "implicit, defined lengths"])
def test_a_depth_bomb_is_refused_at_once_and_in_little_memory(depth: int, kind: str) -> None:
    data, syntax = nested(depth, kind)
    began = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(NotUnderstood, match="sequences nested more than 32 deep"):
            scan.scan(memoryview(data), syntax)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.perf_counter() - began < 1
    assert peak < 200_000


@pytest.mark.parametrize("kind", ["implicit, defined lengths"])
def test_32_sequences_deep_is_understood(kind: str) -> None:
    data, syntax = nested(32, kind)

    scan.scan(memoryview(data), syntax)


def test_too_many_items_are_refused_in_little_memory() -> None:
    data = b"\x40\x00\x30\xa7" + UNDEFINED + (ITEM + bytes(4)) * (scan.MAX_ITEMS + 1)

    with pytest.raises(NotUnderstood, match=f"more than {scan.MAX_ITEMS} items"):
        scan.scan(memoryview(data), ImplicitVRLittleEndian)


def test_too_many_elements_are_refused() -> None:
    data = b"\x40\x00\x30\xa7\0\0\0\0" * (scan.MAX_ELEMENTS + 1)

    with pytest.raises(NotUnderstood, match=f"more than {scan.MAX_ELEMENTS} elements"):
        scan.scan(memoryview(data), ImplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "there is none"),
        (b"\x08\x00\x16\x00UI\xff\x00", "runs past its end"),
        (b"\x08\x00\x16\x00??\x00\x00", "expected a value representation"),
        (b"\x08\x00\x16\x00OB\0\0" + UNDEFINED, "where the VR does not allow one"),
        (ITEM + bytes(4), "outside its place"),
        (b"\x40\x00\x30\xa7SQ\0\0" + UNDEFINED + b"\x08\x00\x16\x00UI\0\0", "expected an item"),
        (b"\x40\x00\x30\xa7SQ\0\0\x08\0\0\0\xfe\xff\xdd\xe0\0\0\0\0", "a delimiter in a value of defined length"),
        (b"\x40\x00\x30\xa7SQ\0\0" + UNDEFINED + ITEM + b"\x09\0\0\0", "an item's length runs past its end"),
        (b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED + ITEM + UNDEFINED, "a fragment's length runs past its end"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        scan.scan(memoryview(data), ExplicitVRLittleEndian)


def test_the_pixels_are_not_copied() -> None:
    (ds,) = ct_series(1, 512, 512)
    data = memoryview(encoded(ds, ExplicitVRLittleEndian))
    tracemalloc.start()
    try:
        scan.scan(data, ExplicitVRLittleEndian)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_real_files_pass_with_the_identity_that_pydicom_reads(real_data: Path) -> None:
    checked = 0
    for path in sorted(real_data.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if content[128:132] != b"DICM" or "nasty" in str(path):
            continue
        ds = dcmread(BytesIO(content), stop_before_pixels=True)
        syntax = ds.file_meta.TransferSyntaxUID
        if syntax.is_deflated or not syntax.is_little_endian or "SeriesInstanceUID" not in ds:
            continue
        found = scan.scan(memoryview(data_set(content)), syntax)
        assert found.text(scan.SOP_INSTANCE_UID) == ds.SOPInstanceUID, path
        assert found.text(scan.STUDY_INSTANCE_UID) == ds.StudyInstanceUID, path
        assert found.text(scan.SERIES_INSTANCE_UID) == ds.SeriesInstanceUID, path
        checked += 1
    assert checked > 50
