"""The pre-scan: whatever is a data set passes, whatever is not is refused, and nothing that anyone makes up costs much."""

import struct
import time
import tracemalloc
import warnings
from collections.abc import Iterator
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
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from gateway.dicom import limits, scan, walk
from gateway.dicom.instance import Identity, Incoming, check, identity
from gateway.errors import NotUnderstood, Refused
from tests.peers_fixture import data_set
from tests.synthetic import ct_series

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
STUDY, SERIES, INSTANCE = "1.2.826.1", "1.2.826.1.2", "1.2.826.1.2.34"
ITEM = b"\xfe\xff\x00\xe0"
UNDEFINED = b"\xff\xff\xff\xff"
ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"

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


def understood(data: bytes, syntax: str = ExplicitVRLittleEndian) -> scan.Scan:
    return scan.scan(scan.in_memory(data), len(data), syntax)


def identified(data: bytes, syntax: str) -> Identity:
    found = understood(data, syntax)
    check(Incoming(CTImageStorage, INSTANCE, syntax), found)
    return identity(found.values)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """In explicit VR."""
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC")
    head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value))
    return (head if long else head[:6] + struct.pack("<H", len(value))) + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(content: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(content)) + content


def image(*, rows: int, columns: int, frames: bytes = b"1 ", bits: int = 16, samples: int = 1, photometric: bytes = b"") -> bytes:
    return b"".join(
        element(tag, vr, value)
        for tag, vr, value in (
            (0x00280002, b"US", struct.pack("<H", samples)),
            (0x00280004, b"CS", photometric),
            (0x00280008, b"IS", frames),
            (0x00280010, b"US", struct.pack("<H", rows)),
            (0x00280011, b"US", struct.pack("<H", columns)),
            (0x00280100, b"US", struct.pack("<H", bits)),
        )
    )


def fragments(*content: bytes) -> bytes:
    return b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED + b"".join(item(one) for one in content) + SEQUENCE_END


class Sparse:
    """A data set of any size without its bytes: `parts` are bytes, or how many zeros; and what was asked of it."""

    def __init__(self, *parts: bytes | int) -> None:
        self.parts = parts
        self.size = sum(part if isinstance(part, int) else len(part) for part in parts)
        self.most = self.read_bytes = 0

    def __call__(self, offset: int, count: int) -> bytes:
        self.most, self.read_bytes = max(self.most, count), self.read_bytes + count
        found, at = b"", 0
        for part in self.parts:
            size = part if isinstance(part, int) else len(part)
            begin, end = max(offset, at) - at, min(offset + count, at + size) - at
            if begin < end:
                found += bytes(end - begin) if isinstance(part, int) else part[begin:end]
            at += size
        return found


@quick
@given(ds=data_sets, syntax=st.sampled_from(SYNTAXES))
def test_whatever_pydicom_writes_passes_with_the_same_identity(ds: Dataset, syntax: str) -> None:
    found = identified(encoded(with_identity(ds), syntax), syntax)

    assert (found.study_instance_uid, found.series_instance_uid) == (STUDY, SERIES)
    assert (found.modality, found.patient_name, found.patient_id) == ("CT", "Name^Given", "17")


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
            understood(whole[:length], syntax)
        else:
            with pytest.raises(NotUnderstood):
                understood(whole[:length], syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_truncated_image_is_refused_wherever_it_was_cut_inside_its_pixels(syntax: str) -> None:
    (ds,) = ct_series(1, 16, 16)
    whole = encoded(ds, syntax)

    understood(whole, syntax)
    for cut in range(1, 16 * 16 * 2):
        with pytest.raises(NotUnderstood):
            understood(whole[:-cut], syntax)


def test_pixels_that_are_fewer_than_the_header_says_are_refused() -> None:
    (ds,) = ct_series(1, 16, 16)
    ds.PixelData = ds.PixelData[:-2]

    with pytest.raises(NotUnderstood, match="PixelData is shorter than Rows, Columns and NumberOfFrames say"):
        understood(encoded(ds, ExplicitVRLittleEndian))


def test_encapsulated_pixels_pass_whole_and_are_refused_cut() -> None:
    (ds,) = ct_series(1, 16, 16)
    ds["PixelData"] = DataElement("PixelData", "OB", encapsulate([b"\xff\x4f" * 50, b"\xff\x4f" * 30]))
    ds["PixelData"].is_undefined_length = True
    whole = encoded(ds, JPEG2000Lossless)

    assert understood(whole, JPEG2000Lossless).pixel_bytes is None
    for cut in range(1, 180):
        with pytest.raises(NotUnderstood):
            understood(whole[:-cut], JPEG2000Lossless)


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
        identified(bytes(data), syntax)
    except Refused:
        pass


@quick
@given(data=st.binary(max_size=300), syntax=st.sampled_from(SYNTAXES))
def test_noise_is_understood_or_refused_and_nothing_else(data: bytes, syntax: str) -> None:
    try:
        understood(data, syntax)
    except NotUnderstood:
        pass


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
    began = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(NotUnderstood, match="sequences nested more than 32 deep"):
            understood(data, syntax)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.thread_time() - began < 1
    assert peak < 200_000


@pytest.mark.parametrize("kind", ["implicit, defined lengths"])
def test_32_sequences_deep_is_understood(kind: str) -> None:
    data, syntax = nested(32, kind)

    understood(data, syntax)


def test_too_many_items_are_refused_in_little_memory() -> None:
    data = b"\x40\x00\x30\xa7" + UNDEFINED + (ITEM + bytes(4)) * (limits.MAX_ITEMS + 1)

    with pytest.raises(NotUnderstood, match=f"more than {limits.MAX_ITEMS} items"):
        understood(data, ImplicitVRLittleEndian)


def test_too_many_elements_are_refused() -> None:
    data = b"\x40\x00\x30\xa7\0\0\0\0" * (limits.MAX_ELEMENTS + 1)

    with pytest.raises(NotUnderstood, match=f"more than {limits.MAX_ELEMENTS} elements"):
        understood(data, ImplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "there is none"),
        (b"\x08\x00\x16\x00UI\xff\x00", "runs past its end"),
        (element(0x00080060, b"CS", b"CT") + b"\x08\x00\x70\x00LO\xff\x00", "length runs past its end"),
        (b"\x08\x00\x16\x00??\x00\x00", "expected a value representation"),
        (b"\x08\x00\x16\x00ui\x00\x00", "expected a value representation"),
        (b"\xe0\x7f\x10\x00OW\0\0\xf0\xff\xff\xff" + bytes(100), "runs past its end"),
        (b"\x08\x00\x16\x00OB\0\0" + UNDEFINED, "where the VR does not allow one"),
        (ITEM + bytes(4), "outside its place"),
        (b"\x40\x00\x30\xa7SQ\0\0" + UNDEFINED + b"\x08\x00\x16\x00UI\0\0", "expected an item"),
        (b"\x40\x00\x30\xa7SQ\0\0\x08\0\0\0\xfe\xff\xdd\xe0\0\0\0\0", "a delimiter in a value of defined length"),
        (b"\x40\x00\x30\xa7SQ\0\0" + UNDEFINED + ITEM + b"\x09\0\0\0", "an item's length runs past its end"),
        (b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED + ITEM + UNDEFINED, "a fragment's length runs past its end"),
        (b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED + ITEM + b"\x09\0\0\0" + bytes(8), "a fragment's length runs past its end"),
        (fragments(bytes(8)).removesuffix(SEQUENCE_END), "ends inside an element"),
        (fragments(b"").removesuffix(SEQUENCE_END) + ITEM_END, "outside its place"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        understood(data)


def test_of_a_large_instance_a_window_is_in_memory_and_little_is_read() -> None:
    pixels = 2**31 - 4096
    head = encoded(with_identity(Dataset()), ExplicitVRLittleEndian) + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", pixels)
    data = Sparse(head, pixels, element(0xFFFCFFFC, b"OB", b"\0\0"))
    tracemalloc.start()
    try:
        found = scan.scan(data, data.size, ExplicitVRLittleEndian)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found.pixel_bytes == pixels
    assert data.most <= 256 * 1024
    assert data.read_bytes <= 256 * 1024
    assert peak < 400_000


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("window", [64, 100, 333])
def test_where_the_window_ends_makes_no_difference(monkeypatch: pytest.MonkeyPatch, window: int, syntax: str) -> None:
    (ds,) = ct_series(1, 16, 16)
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "meaning " * 7
    ds.ProcedureCodeSequence = [inner, inner]
    long = b"N" * 700
    name = implicit(scan.PATIENT_NAME, long) if syntax == ImplicitVRLittleEndian else element(scan.PATIENT_NAME, b"PN", long)
    whole = encoded(ds, syntax) + name
    expected = understood(whole, syntax)
    monkeypatch.setattr(walk, "WINDOW_BYTES", window)

    assert understood(whole, syntax) == expected
    assert expected.text(scan.PATIENT_NAME) == "N" * 700


def test_a_file_that_is_shorter_than_its_size_says_is_refused() -> None:
    whole = encoded(with_identity(Dataset()), ExplicitVRLittleEndian)

    with pytest.raises(NotUnderstood, match="expected more bytes"):
        scan.scan(scan.in_memory(whole), len(whole) + 100_000, ExplicitVRLittleEndian)


def test_what_is_encoded_in_the_other_vr_than_declared_is_refused() -> None:
    (ds,) = ct_series(1, 512, 512)
    ds.PixelData = bytes(512 * 512 * 2)  # a walk that got lost in there would read thousands of empty attributes

    with pytest.raises(NotUnderstood, match="expected a value representation"):
        understood(encoded(ds, ImplicitVRLittleEndian), ExplicitVRLittleEndian)
    with pytest.raises(NotUnderstood, match="expected implicit VR"):
        understood(element(0x00080000, b"UL", bytes(4)) + encoded(ds, ExplicitVRLittleEndian), ImplicitVRLittleEndian)


def test_repeated_and_unsorted_attributes_and_wrong_group_lengths_are_tolerated() -> None:
    whole = encoded(with_identity(Dataset()), ExplicitVRLittleEndian)
    odd = element(0x00080000, b"UL", b"\x03\0\0\0") + element(0x00200013, b"IS", b"7 ") + whole + whole

    assert identified(odd, ExplicitVRLittleEndian) == identified(whole, ExplicitVRLittleEndian)


def test_of_a_repeated_attribute_the_last_counts_as_for_pydicom() -> None:
    data = element(0x00100020, b"LO", b"first ") + element(0x00100020, b"LO", b"second")

    assert understood(data).text(scan.PATIENT_ID) == "second"


@pytest.mark.parametrize(
    "value",
    [
        b"\x2a\0" * 50,
        item(implicit(0x00411001, b"in")),
        item(b"\x41\0\x01\x10\xff\xff\0\0"),  # this one and the next begin like a sequence, and are none
        ITEM + b"\xff\xff\xff\x7f",
        item(implicit(0x00411001, b"in")) + bytes(10),
    ],
)
@pytest.mark.parametrize("where", ["implicit", "unknown VR", "in an item"])
def test_a_private_value_is_a_sequence_or_opaque(value: bytes, where: str) -> None:
    after = encoded(with_identity(Dataset()), ImplicitVRLittleEndian)
    if where == "implicit":
        found = understood(implicit(0x00091001, value) + after, ImplicitVRLittleEndian)
    elif where == "in an item":
        found = understood(implicit(0x00091002, item(implicit(0x00091001, value))) + after, ImplicitVRLittleEndian)
    else:
        found = understood(element(0x00091001, b"UN", value) + encoded(with_identity(Dataset()), ExplicitVRLittleEndian))

    assert found.text(scan.SOP_INSTANCE_UID) == INSTANCE


def test_what_the_dictionary_calls_a_sequence_has_to_be_one() -> None:
    broken = implicit(0x00081032, item(b"\x08\0\0\x01\xff\xff\0\0"))

    with pytest.raises(NotUnderstood, match="runs past its end"):
        understood(broken, ImplicitVRLittleEndian)


def test_what_the_dictionary_calls_something_else_is_no_sequence() -> None:
    document = implicit(0x00420011, nested(40, "implicit, defined lengths")[0][8:])

    assert understood(document + implicit(0x00420012, b"text"), ImplicitVRLittleEndian).values == {}


def test_pixels_that_begin_like_an_item_are_pixels() -> None:
    pixels = nested(40, "implicit, defined lengths")[0][8:]

    assert understood(implicit(0x7FE00010, pixels), ImplicitVRLittleEndian).pixel_bytes == len(pixels)


@pytest.mark.parametrize("outer", ["a value that fails", "a sequence that fails", "unknown VR"])
def test_a_depth_bomb_hides_behind_no_private_value(outer: str) -> None:
    bomb = nested(33, "implicit, defined lengths")[0]
    broken = ITEM + b"\xff\xff\xff\x7f"
    if outer == "unknown VR":
        data, syntax = element(0x00091000, b"LO", b"") + element(0x00091001, b"UN", item(bomb)), ExplicitVRLittleEndian
    elif outer == "a value that fails":
        data, syntax = implicit(0x00091001, item(bomb) + broken), ImplicitVRLittleEndian
    else:
        data, syntax = implicit(0x00091001, broken) + implicit(0x00081032, item(bomb)), ImplicitVRLittleEndian

    with pytest.raises(NotUnderstood, match="nested more than 32 deep"):
        understood(data, syntax)


@pytest.mark.parametrize(
    "data",
    [
        (b"\x41\x00\x30\xa7\x08\0\0\0" + ITEM + b"\x01\0\0\0") * 20_001,
        (b"\x41\x00\x30\xa7\x08\0\0\0" + ITEM + b"\0\0\0\0") * 12_001,
        (b"\x40\x00\x30\xa7" + struct.pack("<I", 8 * 1_800) + item(b"") * 1_800) * 12,
    ],
    ids=["guesses that fail", "guesses that hold", "items in many sequences"],
)
def test_items_and_wrong_guesses_count_as_elements(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_ELEMENTS", 20_000)

    with pytest.raises(NotUnderstood, match="more than 20000 elements"):
        understood(data, ImplicitVRLittleEndian)


def test_fragments_count_as_elements() -> None:
    data = b"\xe0\x7f\x10\x00OB\0\0" + UNDEFINED + item(b"") * (limits.MAX_ELEMENTS + 1)

    with pytest.raises(NotUnderstood, match=f"more than {limits.MAX_ELEMENTS} elements"):
        understood(data, JPEG2000Lossless)


@pytest.mark.parametrize(
    ("head", "syntax", "limit"),
    [
        (b"\x09\x00\x01\x10UT\0\0", ExplicitVRLittleEndian, limits.MAX_TEXT_BYTES),
        (b"\x08\x00\x19\x01", ImplicitVRLittleEndian, limits.MAX_TEXT_BYTES),
        (b"\x09\x00\x01\x10UN\0\0", ExplicitVRLittleEndian, limits.MAX_VALUE_BYTES),
        (b"\x09\x00\x01\x10OB\0\0", ExplicitVRLittleEndian, limits.MAX_VALUE_BYTES),
        (b"\x09\x00\x01\x10", ImplicitVRLittleEndian, limits.MAX_VALUE_BYTES),
        (b"\x42\x00\x11\x00", ImplicitVRLittleEndian, limits.MAX_VALUE_BYTES),
    ],
    ids=["text", "implicit text", "unknown", "bytes", "implicit private", "implicit document"],
)
def test_a_value_that_is_not_pixels_has_a_limit(head: bytes, syntax: str, limit: int) -> None:
    before = encoded(with_identity(Dataset()), syntax)
    allowed = Sparse(before, head + struct.pack("<I", limit), limit)
    scan.scan(allowed, allowed.size, syntax)
    larger = Sparse(before, head + struct.pack("<I", limit + 2), limit + 2)

    with pytest.raises(NotUnderstood, match=f"expected at most {limit} bytes"):
        scan.scan(larger, larger.size, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_sequence_has_no_limit_but_that_of_its_values(syntax: str) -> None:
    size = limits.MAX_VALUE_BYTES
    head = b"\x09\x00\x01\x10" + (b"" if syntax == ImplicitVRLittleEndian else b"UN\0\0") + struct.pack("<I", size)
    content = struct.pack("<I", 2 * (size + len(head)))
    name = b"\x08\x00\x32\x10" + (b"" if syntax == ImplicitVRLittleEndian else b"SQ\0\0")
    data = Sparse(name + struct.pack("<I", 2 * (size + len(head)) + 8) + ITEM + content, head, size, head, size)

    scan.scan(data, data.size, syntax)


@pytest.mark.parametrize("frames", [b"1A", b"12.5", b"-1", b"0 ", b"", b"1\\1 "])
def test_a_number_of_frames_that_is_none_is_left_to_the_job(frames: bytes) -> None:
    frames += b" " * (len(frames) % 2)

    found = understood(image(rows=4, columns=4, frames=frames) + element(0x7FE00010, b"OW", bytes(32)))

    assert found.pixel_bytes == 32


@pytest.mark.parametrize("frames", [b"100001", b"1000000000", b"+1000000000 ", b"9" * 600])
def test_too_many_frames_are_refused(frames: bytes) -> None:
    with pytest.raises(NotUnderstood, match=f"at most {limits.MAX_FRAMES} frames"):
        understood(image(rows=0, columns=0, frames=frames) + fragments(b"", bytes(100)), JPEG2000Lossless)


def test_an_image_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(NotUnderstood, match=f"an image of at most {limits.MAX_IMAGE_BYTES} bytes"):
        understood(image(rows=65535, columns=65535, bits=32) + fragments(b"", bytes(66)), RLELossless)


@pytest.mark.parametrize(
    ("shape", "accepted"),
    [
        ({"rows": 65535, "columns": 65535}, False),
        ({"rows": 65535, "columns": 65535, "bits": 8}, False),
        ({"rows": 20_000, "columns": 20_000}, False),
        ({"rows": 8192, "columns": 4096}, True),  # blank, and larger than any radiograph
        ({"rows": 512, "columns": 512, "frames": b"600 "}, True),  # a segmentation, nearly all of it blank
        ({"rows": 2457, "columns": 1890, "frames": b"800 "}, False),
    ],
)
def test_an_image_out_of_nothing_is_refused_and_a_blank_one_is_not(shape: dict, accepted: bool) -> None:
    data = image(**shape) + fragments(b"", bytes(66))

    if accepted:
        understood(data, RLELossless)
    else:
        with pytest.raises(NotUnderstood, match="times its compressed bytes"):
            understood(data, RLELossless)


@pytest.mark.parametrize("frames", [b"0 ", b"-1", b"1A", b""])
def test_an_odd_number_of_frames_hides_no_bomb(frames: bytes) -> None:
    with pytest.raises(NotUnderstood, match="times its compressed bytes"):
        understood(image(rows=65535, columns=65535, frames=frames) + fragments(b"", bytes(66)), RLELossless)


def test_rows_that_are_written_as_another_number_hide_no_bomb() -> None:
    rows = element(0x00280010, b"UL", struct.pack("<I", 65535))

    with pytest.raises(NotUnderstood, match="times its compressed bytes"):
        understood(image(rows=1, columns=65535) + rows + fragments(b"", bytes(66)), RLELossless)


def test_the_compressed_bytes_are_those_of_all_fragments() -> None:
    parts = [bytes(200_000)] * 5  # a fifth of them would be too few

    understood(image(rows=20_000, columns=20_000) + fragments(b"", *parts), JPEG2000Lossless)


@pytest.mark.parametrize(("length", "accepted"), [(33, True), (34, True), (160, True), (32, False), (0, False)])
def test_native_pixels_may_be_longer_than_the_image_but_not_shorter(length: int, accepted: bool) -> None:
    data = image(rows=3, columns=11, bits=8) + element(0x7FE00010, b"OB", bytes(length))

    if accepted:
        assert understood(data).pixel_bytes == length
    else:
        with pytest.raises(NotUnderstood, match="PixelData is shorter"):
            understood(data)


@pytest.mark.parametrize(("photometric", "length"), [(b"YBR_FULL_422", 32), (b"RGB ", 48), (b"YBR_PARTIAL_420 ", 24)])
def test_native_pixels_that_share_their_colour_are_fewer(photometric: bytes, length: int) -> None:
    head = image(rows=4, columns=4, bits=8, samples=3, photometric=photometric)

    assert understood(head + element(0x7FE00010, b"OB", bytes(length))).pixel_bytes == length
    with pytest.raises(NotUnderstood, match="PixelData is shorter"):
        understood(head + element(0x7FE00010, b"OB", bytes(length - 2)))


@pytest.mark.parametrize("tag", [0x7FE00008, 0x7FE00009])
def test_float_pixels_are_held_to_the_same_length(tag: int) -> None:
    bits = 32 if tag == 0x7FE00008 else 64

    with pytest.raises(NotUnderstood, match="PixelData is shorter"):
        understood(image(rows=4, columns=4, bits=bits) + element(tag, b"OW", bytes(16 * bits // 8 - 4)))


def test_an_icon_is_not_the_image() -> None:
    icon = element(0x00880200, b"SQ", item(image(rows=9, columns=9) + element(0x7FE00010, b"OW", bytes(2))))

    found = understood(image(rows=4, columns=4) + element(0x7FE00010, b"OW", bytes(32)) + icon)

    assert found.pixel_bytes == 32
    assert understood(icon).pixel_bytes is None


def test_the_bytes_of_a_compressed_icon_hide_no_bomb() -> None:
    icon = element(0x00880200, b"SQ", item(fragments(b"", bytes(10_000_000))))

    with pytest.raises(NotUnderstood, match="times its compressed bytes"):
        understood(image(rows=65535, columns=65535) + fragments(b"", bytes(66)) + icon, RLELossless)


REFUSED = {
    "nasty_small/MR_truncated.dcm": "an element's length runs past its end",
    "nasty_small/rtplan_truncated.dcm": "an element's length runs past its end",
}
"""Every other file of the real data is understood, the odd ones as well: padded pixels, a wrong VR, UN sequences."""


def test_of_the_real_files_the_truncated_ones_are_refused_and_no_other(real_data: Path) -> None:
    refused, checked = {}, 0
    for path, content, header in real_files(real_data):
        try:
            found = understood(data_set(content), header.file_meta.TransferSyntaxUID)
        except NotUnderstood as error:
            refused[str(path.relative_to(real_data))] = str(error)
            continue
        assert found.text(scan.SOP_INSTANCE_UID) == header.get("SOPInstanceUID", ""), path
        assert found.text(scan.STUDY_INSTANCE_UID) == header.get("StudyInstanceUID", ""), path
        assert found.text(scan.SERIES_INSTANCE_UID) == header.get("SeriesInstanceUID", ""), path
        checked += 1

    assert checked > 200
    assert refused == REFUSED


def real_files(folder: Path) -> Iterator[tuple[Path, bytes, Dataset]]:
    """Those in transfer syntaxes that the door negotiates."""
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if content[128:132] != b"DICM":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(BytesIO(content), stop_before_pixels=True)
            syntax = header.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_little_endian and not syntax.is_deflated:
            yield path, content, header
