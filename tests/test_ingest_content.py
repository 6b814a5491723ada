"""What is in an instance, and what becomes of it (standards 3.2, 4.4, 5.4 F15 to F20, F54 to F57, 5.5 B01 to B19, B36 to B46)."""

import random
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest
from pydicom import DataElement, Dataset, config
from pynetdicom.dsutils import encode

from gateway.doors.entry import Declined, Kept
from gateway.rows.tables import Instance, Series, Study, Version
from gateway.rows.trail import AuditEvent
from tests.gate_fixture import Gate, mounted, open_gate
from tests.scanner_fixture import encoded
from tests.synthetic import ct_series
from tests.world import send

GOOD, OTHER = ct_series(2, 16, 16)
MR = "1.2.840.10008.5.1.4.1.1.4"
NOISE = random.Random(2).randbytes
PRIVATE = 0x00091010


@pytest.fixture
def gate(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Gate]:
    with open_gate(tmp_path, migrated_sqlite, maximum_associations=8) as gate:
        yield gate


def changed(ds: Dataset = OTHER, **values: object) -> Dataset:
    """A copy with other values; None deletes the attribute. Nothing is checked."""
    ds = deepcopy(ds)
    for keyword, value in values.items():
        if value is None:
            del ds[keyword]
        else:
            ds[keyword] = DataElement(keyword, ds[keyword].VR, value, validation_mode=config.IGNORE)
    return ds


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """In Explicit VR Little Endian; `length` is the one that it claims."""
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"LO", b"PN", b"CS", b"UI", b"??", b"lo"):
        return head + struct.pack("<H", length) + value
    return head + struct.pack("<xxI", length) + value


def nested(depth: int, *, defined: bool) -> bytes:
    """A private sequence in a sequence, and so on."""
    if not defined:
        opened = struct.pack("<HH2sxxIHHI", 0x0009, 0x1010, b"SQ", 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
        return opened * depth + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth
    sizes = range(20 * (depth - 1), -1, -20)
    return b"".join(
        struct.pack("<HH2sxxIHHI", 0x0009, 0x1010, b"SQ", size + 8, 0xFFFE, 0xE000, size) for size in sizes
    )  # fmt: skip


def with_element(extra: bytes) -> bytes:
    """OTHER with an element in group 0009, where it belongs."""
    whole = encoded(OTHER)
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010) + b"PN")
    return whole[:at] + extra + whole[at:]


ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
BROKEN: dict[str, tuple[int, Callable[[], bytes]]] = {
    "noise": (0xC000, lambda: NOISE(4000)),
    "zeros": (0xC000, lambda: bytes(4000)),
    "a data set that is cut in an element": (0xC000, lambda: encoded(OTHER)[:-1]),
    "a data set that is cut in a header": (0xC000, lambda: encoded(OTHER)[:5]),
    "another SOP instance": (0x0117, lambda: encoded(changed(SOPInstanceUID="1.2.3.4"))),
    "no SOP instance": (0x0117, lambda: encoded(changed(SOPInstanceUID=None))),
    "another SOP class": (0xA900, lambda: encoded(changed(SOPClassUID=MR))),
    "no SOP class": (0xA900, lambda: encoded(changed(SOPClassUID=None))),
    "no study": (0xC000, lambda: encoded(changed(StudyInstanceUID=None))),
    "no series": (0xC000, lambda: encoded(changed(SeriesInstanceUID=None))),
    "a series that is a path": (0xC000, lambda: encoded(changed(SeriesInstanceUID="../../etc"))),
    "a length past the end": (0xC000, lambda: encoded(OTHER) + element(0x7FE10010, b"OB", b"abcd", 1000)),
    "a length of almost 4 GB": (0xC000, lambda: encoded(OTHER) + element(0x7FE10010, b"OB", b"abcd", 2**32 - 16)),
    "pixels that are short by two bytes": (0xC000, lambda: encoded(changed(PixelData=OTHER.PixelData[:-2]))),
    "implicit VR where explicit was agreed on": (0xC000, lambda: encode(OTHER, True, True)),
    "big endian": (0xC000, lambda: encode(OTHER, False, False)),
    "a PS3.10 file": (0xC000, lambda: bytes(128) + b"DICM" + encoded(OTHER)),
    "3,000 nested sequences": (0xC000, lambda: with_element(nested(3000, defined=True))),
    "3,000 nested sequences of undefined length": (0xC000, lambda: with_element(nested(3000, defined=False))),
    "100,000 nested sequences": (0xC000, lambda: with_element(nested(100_000, defined=True))),
    "100,000 nested sequences of undefined length": (0xC000, lambda: with_element(nested(100_000, defined=False))),
    "a million items": (0xC000, lambda: with_element(element(PRIVATE, b"SQ", ITEM * 1_000_000))),
    "a million elements": (0xC000, lambda: encoded(OTHER) + element(0x7FE10010, b"LO", b"") * 1_000_001),
    "text of 11 MB": (0xC000, lambda: with_element(element(0x00091010, b"UT", b"A" * 11 * 2**20))),
    "an unknown VR": (0xC000, lambda: with_element(element(PRIVATE, b"??", b"abcd"))),
    "a VR in lower case": (0xC000, lambda: with_element(element(PRIVATE, b"lo", b"abcd"))),
    "UN of undefined length without an end": (0xC000, lambda: with_element(element(PRIVATE, b"UN", ITEM, 2**32 - 1))),
}


@pytest.mark.parametrize(("status", "data"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_refused_with_its_status_and_the_next_instance_is_taken(
    tmp_path: Path, status: int, data: Callable[[], bytes]
) -> None:
    with open_gate(tmp_path) as gate, gate.scanner() as scanner:
        bad = data()
        began = time.monotonic()
        assert scanner.store(OTHER, data=bad, fragment=131_000) == status
        assert time.monotonic() - began < 10
        assert scanner.store(GOOD) == 0x0000

        assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}
        assert gate.refusals() == [status]
        assert [entry.data_size for entry, one in gate.lies() if isinstance(one, Declined)] == [0]


UNUSUAL: dict[str, Callable[[], bytes]] = {
    "a byte more of pixels, which makes them even": lambda: encoded(changed(PixelData=OTHER.PixelData + b"\0\0")),
    "no patient": lambda: encoded(changed(PatientID=None, PatientName=None)),
    "a private value of 1 MB": lambda: with_element(element(PRIVATE, b"UN", NOISE(2**20))),
    "a private value of 100 MB": lambda: with_element(element(PRIVATE, b"UN", NOISE(2**20) * 100)),
    "UN of undefined length with implicit items": lambda: with_element(
        element(PRIVATE, b"UN", ITEM + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), 2**32 - 1)
    ),
    "an attribute twice": lambda: encoded(OTHER) + element(0x7FE10010, b"LO", b"ab") * 2,
    "attributes out of order": lambda: encoded(OTHER) + element(0x00081030, b"LO", b"ab"),
    "a group length that is wrong": lambda: struct.pack("<HH2sHI", 8, 0, b"UL", 4, 4711) + encoded(OTHER),
    "attributes behind the pixels": lambda: encoded(OTHER) + element(0xFFFCFFFC, b"OB", bytes(100)),
    "a sequence 30 deep": lambda: with_element(nested(30, defined=True)),
}


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_is_unusual_is_kept_as_it_came(tmp_path: Path, data: Callable[[], bytes]) -> None:
    sent = data()
    with open_gate(tmp_path) as gate, gate.scanner() as scanner:
        assert scanner.store(OTHER, data=sent) == 0x0000

        assert gate.held() == {OTHER.SOPInstanceUID: sent}


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about bytes that are no text; log.py cuts them to their category
@pytest.mark.parametrize(
    "name",
    [b"<script>alert(1)</script>", b"A\r\nB", b"%n%s%x", b"'; DROP TABLE gw_study;--", "\u202eTXET".encode(), "🧠".encode(), b"A\0B",
     b"\xff\xfe\xfd", b"A" * 400, b"\x1b[31m", b"\xed\xa0\x80"],
)  # fmt: skip
def test_a_hostile_name_is_kept_and_indexed_like_any_other(gate: Gate, name: bytes) -> None:
    name += b" " * (len(name) % 2)
    data = encoded(changed(PatientName=None))
    at = data.index(struct.pack("<HH", 0x0010, 0x0020) + b"LO")
    data = data[:at] + element(0x00100010, b"PN", name) + data[at:]
    with gate.scanner() as scanner:
        assert scanner.store(OTHER, data=data) == 0x0000

    assert gate.stored() == {data}
    (study,) = gate.rows(Study)
    assert len(study.patient_name) <= 324
    assert not [character for character in study.patient_name if category(character) in ("Cc", "Cs")]
    assert [event.act for event in gate.rows(AuditEvent)] == ["instance.received"]
    assert not [event for event in gate.rows(AuditEvent) if study.patient_name and study.patient_name in str(event.detail)]


# --- What is held already (B36, B37, F54, F57) ---


def test_other_bytes_under_the_same_uid_are_taken_kept_apart_and_told(gate: Gate) -> None:
    other = changed(GOOD, SeriesDescription="changed")

    assert send([GOOD, other], gate.port) == [0x0000] * 2

    (event,) = gate.events("instance.version")
    assert (event.outcome, event.sop_instance_uid) == (4, GOOD.SOPInstanceUID)
    assert gate.stored() == {encoded(GOOD), encoded(other)}
    assert (len(gate.rows(Instance)), len(gate.rows(Version))) == (1, 1)


def test_a_series_that_comes_in_another_study_is_taken_kept_apart_and_told(gate: Gate) -> None:
    stray = changed(StudyInstanceUID="1.2.3.4")

    assert send([GOOD, stray], gate.port) == [0x0000] * 2

    (event,) = gate.events("instance.stray")
    assert (event.outcome, event.study_instance_uid) == (4, "1.2.3.4")
    assert [one.study_instance_uid for one in gate.rows(Series)] == [GOOD.StudyInstanceUID]
    assert [one.sop_instance_uid for one in gate.rows(Version)] == [stray.SOPInstanceUID]


def test_the_same_bytes_ten_times_at_once_are_acknowledged_ten_times_and_make_one_instance(
    tmp_path: Path, migrated_sqlite
) -> None:
    with open_gate(tmp_path, migrated_sqlite, maximum_associations=10) as gate:
        scanners = [gate.scanner() for _ in range(10)]
        statuses = in_parallel(*(lambda scanner=scanner: scanner.store(GOOD) for scanner in scanners))
        for scanner in scanners:
            scanner.socket.close()

        assert statuses == [0x0000] * 10
        assert len(gate.promised(Kept)) == 10
        assert (len(gate.rows(Instance)), len(gate.rows(Version)), len(gate.events("instance.repeated"))) == (1, 0, 9)


def test_a_study_that_comes_over_eight_associations_of_two_scanners_is_one_series(gate: Gate) -> None:
    series = ct_series(40, 16, 16)
    parts = [series[n::8] for n in range(8)]
    sending = [
        lambda part=part, calling=f"CT{n % 2}": send(part, gate.port, calling=calling) for n, part in enumerate(parts)
    ]  # fmt: skip

    assert in_parallel(*sending) == [[0x0000] * 5] * 8

    (row,) = gate.rows(Series)
    assert {one.sop_instance_uid for one in gate.rows(Instance)} == {ds.SOPInstanceUID for ds in series}
    assert row.series_instance_uid == GOOD.SeriesInstanceUID


def in_parallel(*acts: Callable[[], Any]) -> list[Any]:
    results: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda n=n, act=act: results.update({n: act()})) for n, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[n] for n in range(len(acts))]


# --- Disks (F15, F18, F20) ---


def test_a_nearly_full_disk_is_answered_a700_until_there_is_room_again(tmp_path: Path) -> None:
    with open_gate(tmp_path, keep_free_bytes=2**62) as gate, gate.scanner() as scanner:
        assert scanner.store(GOOD) == 0xA700

        gate.door._keep_free = 0
        assert scanner.store(GOOD) == 0x0000
    assert gate.refusals() == []  # the other side tries again; the trail would only fill the disk


def test_a_door_that_is_closed_answers_a700_with_its_reason(tmp_path: Path) -> None:
    with open_gate(tmp_path) as gate, gate.scanner() as scanner:
        gate.door.closed = "what was taken before has not reached the database yet"
        assert scanner.store(GOOD) == 0xA700
        assert scanner.echo() == 0x0000

        gate.door.closed = ""
        assert scanner.store(GOOD) == 0x0000


def test_a_disk_that_fills_up_in_the_middle_is_answered_a700_until_there_is_room_again(tmp_path: Path) -> None:
    large = changed(PixelData=OTHER.PixelData + bytes(3 * 2**20))
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as disk,
        open_gate(tmp_path, journal=disk) as gate,
        gate.scanner() as scanner,
    ):
        assert scanner.store(large) == 0xA700
        assert scanner.store(GOOD) == 0x0000
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert scanner.store(large) == 0x0000

        assert set(gate.held()) == {GOOD.SOPInstanceUID, large.SOPInstanceUID}


def test_a_disk_without_room_for_more_files_is_answered_a700_until_there_is_some(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m,nr_inodes=1500", "tmpfs") as disk,
        open_gate(tmp_path, journal=disk) as gate,
        gate.scanner() as scanner,
    ):
        for n in range(1000):
            (disk / f"filler-{n}").touch()
        assert scanner.store(GOOD) == 0xA700

        for n in range(1000):
            (disk / f"filler-{n}").unlink()
        assert scanner.store(GOOD) == 0x0000
        assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


def test_a_disk_that_became_read_only_is_answered_a700_until_it_can_be_written_again(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk,
        open_gate(tmp_path, journal=disk) as gate,
        gate.scanner() as scanner,
    ):
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert scanner.store(GOOD) == 0xA700
        assert scanner.echo() == 0x0000

        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert scanner.store(GOOD) == 0x0000
        assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


@contextmanager
def failing_disk(folder: Path) -> Iterator[Path]:
    """A file system that takes writes and fails to sync them: its blocks lie in a memory that is smaller than it believes."""
    with mounted(folder / "small", "-t", "tmpfs", "-o", "size=3m", "tmpfs") as small:
        image = small / "image"
        with image.open("wb") as file:
            file.truncate(64 * 2**20)
        made = subprocess.run(["mkfs.ext2", "-q", "-F", str(image)], capture_output=True, check=False)
        if made.returncode:
            pytest.skip("needs mkfs.ext2")
        with mounted(folder / "failing", "-o", "loop", str(image)) as disk:
            yield disk


def test_an_instance_that_cannot_be_synced_is_answered_a700_and_the_next_goes_to_another_segment(tmp_path: Path) -> None:
    large = changed(PixelData=OTHER.PixelData + bytes(8 * 2**20))
    with failing_disk(tmp_path) as disk, open_gate(tmp_path, journal=disk) as gate, gate.scanner() as scanner:
        assert scanner.store(GOOD) == 0x0000
        assert scanner.store(large) == 0xA700
        assert scanner.echo() == 0x0000

        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "small")], check=True)
        assert scanner.store(GOOD) == 0x0000
        segments = [entry.segment for entry, one in gate.lies() if one.incoming.sop_instance_uid == GOOD.SOPInstanceUID]
        assert len(set(segments)) == 2


@pytest.mark.parametrize("megabytes", [7, 40], ids=["synced at its end", "synced ahead too"])
def test_an_instance_that_cannot_be_synced_is_not_kept(tmp_path: Path, megabytes: int) -> None:
    large = changed(PixelData=OTHER.PixelData + bytes(megabytes * 2**20))
    with failing_disk(tmp_path) as disk, open_gate(tmp_path, journal=disk) as gate, gate.scanner() as scanner:
        assert scanner.store(large) == 0xA700

        assert gate.held() == {}
