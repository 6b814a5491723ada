"""ZIPs in the watched folder: each instance is taken as if it lay there, and a hostile archive is refused before it is unpacked."""

import os
import stat
import tracemalloc
import zipfile

import pytest

from gateway.dicom.instance import part10_header
from gateway.doors.door import Door
from gateway.doors.entry import Declined, Kept
from tests.peers_fixture import data_set
from tests.synthetic import ct_series, part10
from tests.watched_fixture import DICOMDIR, FILES, MEGABYTE, UIDS, watching, zipped


def test_every_instance_of_a_zip_is_kept_and_then_it_is_removed(watched):
    watched.lay("series.zip", zipped(*FILES))

    watched.empty()

    assert watched.held() == {uid: data_set(file) for uid, file in zip(UIDS, FILES, strict=True)}


def test_a_zip_is_known_by_its_bytes_and_may_be_stored(watched):
    watched.lay("IM0", zipped(*FILES, compression=zipfile.ZIP_STORED))

    watched.empty()

    assert sorted(watched.uids()) == sorted(UIDS)


def test_folders_dicomdir_and_what_systems_add_do_not_count_against_a_zip(watched):
    extra = (("study/", b""), ("study/DICOMDIR", DICOMDIR), ("__MACOSX/._IM", b"x"), ("study/.DS_Store", b"x"))

    watched.lay("cd.zip", zipped(*extra, ("study/IM0", FILES[0])))

    watched.empty()
    assert watched.uids() == UIDS[:1]


def test_the_good_instances_of_a_zip_are_taken_and_the_others_named_by_position(watched):
    damaged = zipped(FILES[0], FILES[1][:-10], ("CANARY^NAME.txt", b"letter"), FILES[2], compression=zipfile.ZIP_STORED)

    watched.lay("cd.zip", damaged)

    assert watched.reason("cd.zip") == [
        "entry 2: an element's length runs past its end",
        "entry 3: expected a PS3.10 file with a data set",
    ]
    assert watched.uids() == [UIDS[0], UIDS[2]]
    assert len(watched.entries(Declined)) == 2


def test_an_entry_whose_crc_is_wrong_is_not_taken(watched):
    content = bytearray(zipped(*FILES[:2], compression=zipfile.ZIP_STORED))
    content[content.index(data_set(FILES[0])) + len(data_set(FILES[0])) - 1] ^= 1

    watched.lay("cd.zip", content)

    assert watched.reason("cd.zip") == ["entry 1: expected an entry that is whole"]
    assert watched.uids() == [UIDS[1]]


def test_an_entry_that_is_longer_than_its_directory_says_is_not_taken(watched):
    def shorten(infos):
        infos[0].file_size -= 10

    watched.lay("cd.zip", zipped(*FILES[:2], change=shorten))

    assert watched.reason("cd.zip") == ["entry 1: expected an entry that is whole"]
    assert watched.uids() == [UIDS[1]]


def test_an_archive_in_an_archive_is_not_opened(watched):
    watched.lay("cd.zip", zipped(FILES[0], zipped(FILES[1])))

    assert watched.reason("cd.zip") == ["entry 2: expected no archive in an archive"]
    assert watched.uids() == UIDS[:1]


def test_an_entry_that_is_too_large_is_not_inflated(tmp_path):
    opened = []

    class Counting(Door):
        def open(self, incoming, origin, *, maximum_bytes):
            opened.append(incoming.sop_instance_uid)
            return super().open(incoming, origin, maximum_bytes=maximum_bytes)

    with watching(tmp_path, door_of=Counting) as watched:
        watched.lay("cd.zip", zipped(FILES[0], FILES[1] + os.urandom(MEGABYTE)))

        assert watched.reason("cd.zip") == [f"entry 2: expected at most {MEGABYTE} bytes"]
        assert watched.uids() == opened == UIDS[:1]


def _set(n=1, **attributes):
    def change(infos):
        for name, value in attributes.items():
            setattr(infos[n], name, value)

    return change


def _same_place(infos):
    infos[1].header_offset, infos[1].compress_size = infos[0].header_offset, infos[0].compress_size


def _inside_the_other(infos):
    infos[0].compress_size += 1


def _into_the_directory(infos):
    infos[-1].compress_size += 1


def _twenty_gigabytes(infos):
    for info in infos:
        info.file_size, info.compress_size = 11 * 1024**3, 1024**3


def _long_comments(infos):
    for info in infos:
        info.comment = bytes(60_000)


NAMES = "expected entries whose names stay within a folder"
OVERLAP = "expected entries that do not overlap"
LINKS = "expected files and folders, no links or devices"
PASSWORD = "expected entries without a password"
HOSTILE = {
    "traversal": (zipped(FILES[0], ("../IM1", FILES[1])), NAMES),
    "traversal inside": (zipped(FILES[0], ("a/../IM1", FILES[1])), NAMES),
    "traversal with backslashes": (zipped(FILES[0], ("a\\..\\..\\IM1", FILES[1])), NAMES),
    "an absolute name": (zipped(FILES[0], ("/etc/passwd", FILES[1])), NAMES),
    "a drive": (zipped(FILES[0], ("C:\\IM1", FILES[1])), NAMES),
    "a name cut short": (zipped(FILES[0], FILES[1], change=_set(filename="IM1\0.dcm")), NAMES),
    "a link": (zipped(FILES[0], b"/etc/passwd", change=_set(external_attr=(stat.S_IFLNK | 0o777) << 16)), LINKS),
    "a device": (zipped(FILES[0], b"", change=_set(external_attr=(stat.S_IFCHR | 0o600) << 16)), LINKS),
    "encrypted": (zipped(*FILES[:2], change=_set(flag_bits=1)), PASSWORD),
    "strongly encrypted": (zipped(*FILES[:2], change=_set(flag_bits=0x40)), PASSWORD),
    "the same name twice": (zipped(*FILES[:2], change=_set(filename="IM0")), "expected entries of different names"),
    "the same bytes twice": (zipped(*FILES[:2], change=_same_place), OVERLAP),
    "overlapping": (zipped(*FILES[:2], change=_inside_the_other), OVERLAP),
    "overlapping the directory": (zipped(*FILES[:2], change=_into_the_directory), OVERLAP),
    "a bomb": (
        zipped(FILES[0], FILES[1] + bytes(20 * MEGABYTE)),
        "expected entries at most 100 times as large as what they are packed in",
    ),
    "much in all": (
        zipped(*FILES[:2], change=_twenty_gigabytes),
        f"expected at most {20 * 1024**3} bytes in all entries together",
    ),
    "many entries": (zipped(*[FILES[0]] + [b""] * 10_000), "expected at most 10000 entries"),
    "a large directory": (zipped(*[FILES[0]] + [b""] * 80, change=_long_comments), "expected a directory of at most 4 MiB"),
    "another packing": (zipped(*FILES[:2], compression=zipfile.ZIP_LZMA), "expected entries that are stored or deflated"),
    "cut off": (zipped(*FILES[:2])[:-30], "expected a ZIP whose directory can be read"),
    "nothing": (zipped(), "expected PS3.10 files in the ZIP"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_zip_is_refused_before_anything_of_it_is_taken(watched, case):
    content, reason = HOSTILE[case]

    watched.lay("cd.zip", content)

    assert watched.reason("cd.zip") == [reason]
    assert watched.uids() == []
    assert [one.reason for one in watched.entries(Declined)] == [reason]
    assert watched.lies() == ["refused/cd.zip", "refused/cd.zip.reason.txt"]


def test_what_is_in_a_zip_is_streamed_in_little_memory(tmp_path):
    rows, columns = 10_000, 15_000  # 300 MB
    ds = ct_series(1, 4, 4, Rows=rows, Columns=columns)[0]
    content = part10(ds)
    head = (
        content[: content.index(b"\xe0\x7f\x10\x00OW")] + b"\xe0\x7f\x10\x00OW\0\0" + (2 * rows * columns).to_bytes(4, "little")
    )
    (tmp_path / "watched").mkdir()
    with zipfile.ZipFile(tmp_path / "watched" / ".large.zip", "w") as archive, archive.open("IM0", "w") as entry:
        entry.write(head)
        for _ in range(300):
            entry.write(os.urandom(1000) * 1000)

    with watching(tmp_path, largest=400 * MEGABYTE) as watched:
        tracemalloc.start()
        try:
            (watched.path / ".large.zip").rename(watched.path / "large.zip")
            watched.empty()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        (kept,) = watched.entries(Kept)
        assert (
            kept.size
            == len(head)
            - len(content[: len(content) - len(data_set(content))])
            + len(part10_header(kept.incoming))
            + 300 * MEGABYTE
        )
        assert peak < 10 * MEGABYTE
