"""The watched folder with a real door behind it: what is taken is in the journal before it is gone, what is hostile takes nothing."""

import os
import shutil
import stat
import tempfile
import time
import tracemalloc
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
import structlog
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from gateway.configuration.config import load
from gateway.dicom.instance import part10_header
from gateway.doors.door import Door
from gateway.doors.entry import Declined, Ended, Kept, promise
from gateway.doors.journal import entries, segments
from gateway.errors import ConfigError
from gateway.ingest._place import Changed, find
from gateway.ingest.folder import Folder
from tests.peers_fixture import data_set
from tests.synthetic import ct_series, meta_changed, part10

SERIES = ct_series(4, 32, 32)
FILES = [part10(ds) for ds in SERIES]
LARGE = part10(ct_series(1, 128, 128, seed=1)[0])
UIDS = [str(ds.SOPInstanceUID) for ds in SERIES]
MEGABYTE = 1_000_000
NO_DICOM = "expected a preamble and DICM"


@dataclass
class Watched:
    """A watched folder with a door behind it; the journal tells what it let in."""

    path: Path
    journal: Path
    door: Door
    folder: Folder

    def entries(self, kind):
        found = [promise(one.record) for segment in segments(self.journal) for one in entries(segment, 0)]
        return sorted((one for one in found if isinstance(one, kind)), key=lambda one: one.at)

    def uids(self):
        return [one.incoming.sop_instance_uid for one in self.entries(Kept)]

    def held(self):
        """The bytes of each kept data set by its SOP Instance UID."""
        return {
            one.record["incoming"]["sop_instance_uid"]: data_set(
                one.segment.read_bytes()[one.data_at : one.data_at + one.data_size]
            )
            for segment in segments(self.journal)
            for one in entries(segment, 0)
            if one.record["kind"] == Kept.kind
        }

    def lay(self, name, content):
        """Written under a name that is ignored, then renamed, as exporters should."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f".{path.name}"
        unfinished.write_bytes(content)
        return unfinished.rename(path)

    def lies(self):
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir())

    def reason(self, name):
        self.wait(lambda: (self.path / "refused" / name).exists())
        told = (self.path / "refused" / f"{name}.reason.txt").read_text().splitlines()
        assert told[0] == "Not taken:"
        return told[1:]

    def wait(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, f"waited in vain; there lie {self.lies()}"
            time.sleep(0.01)

    def taken(self, count=1):
        self.wait(lambda: len(self.entries(Kept)) == count)

    def empty(self):
        self.wait(lambda: not self.lies())

    def some_looks(self):
        """Another instance comes afterwards, twice: what was not taken by then is not going to be. All others that were taken."""
        for n in range(2):
            self.lay(f"looked{n}", FILES[3])
            self.wait(lambda n=n: self.uids().count(UIDS[3]) == n + 1)
        self.wait(lambda: not [name for name in self.lies() if name.startswith("looked")])
        return [uid for uid in self.uids() if uid != UIDS[3]]


@contextmanager
def watching(folder, *, door_of=Door, make=True, **settings):
    path, journal = folder / "watched", folder / "door"
    for one in (path, journal) if make else (journal,):
        one.mkdir(exist_ok=True)
    door = door_of(journal, clock=lambda: datetime.now(UTC), keep_free_bytes=0)
    terms = {
        "quiet_seconds": 0.1, "patience_seconds": 0.2, "maximum_instance_bytes": MEGABYTE, "sop_classes": [CTImageStorage],
        "transfer_syntaxes": [ExplicitVRLittleEndian, ImplicitVRLittleEndian], "look_seconds": 0.02, "retry_seconds": 0.2,
    }  # fmt: skip
    ingest = Folder(path, door=door, **{**terms, **settings})
    try:
        yield Watched(path, journal, door, ingest)
    finally:
        ingest.close()
        door.close()


@pytest.fixture
def watched(tmp_path):
    with watching(tmp_path) as running:
        yield running


def zipped(*contents, compression=zipfile.ZIP_DEFLATED, change=lambda infos: None):
    """A ZIP with these entries, each a content or (name, content); `change` is done to the directory before it is written."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for n, content in enumerate(contents):
            name, content = content if isinstance(content, tuple) else (f"IM{n}", content)
            archive.writestr(name, content)
        change(archive.infolist())
    return file.getvalue()


DICOMDIR = meta_changed(FILES[0], MediaStorageSOPClassUID=MediaStorageDirectoryStorage)


# What is taken


def test_an_instance_is_kept_byte_for_byte_and_then_removed(watched):
    watched.lay("IM0", FILES[0])

    watched.empty()

    assert watched.held() == {UIDS[0]: data_set(FILES[0])}


def test_folders_in_the_folder_are_looked_into(watched):
    watched.lay("export/study/IM0", FILES[0])

    watched.taken()

    assert watched.uids() == UIDS[:1]


def test_what_comes_in_one_burst_is_one_association_and_ends(watched):
    for n in range(2):
        watched.lay(f"IM{n}", FILES[n])
    watched.wait(lambda: len(watched.entries(Ended)) == 1)
    watched.lay("IM2", FILES[2])
    watched.wait(lambda: len(watched.entries(Ended)) == 2)

    origins = [one.origin for one in watched.entries(Kept)]

    assert origins[0] == origins[1] != origins[2]
    assert [one.origin for one in watched.entries(Ended)] == [origins[0], origins[2]]
    assert (origins[0].ingest, origins[0].address) == ("folder", str(watched.path))


def test_a_file_that_grows_is_waited_for(tmp_path):
    with watching(tmp_path, quiet_seconds=0.5) as watched, (watched.path / "IM0").open("wb") as file:
        for at in range(0, len(FILES[0]), len(FILES[0]) // 10):
            file.write(FILES[0][at : at + len(FILES[0]) // 10])
            file.flush()
            time.sleep(0.1)

        watched.empty()

        assert watched.held() == {UIDS[0]: data_set(FILES[0])}


@pytest.mark.parametrize("size", [0, len(LARGE)], ids=["as it comes", "its size first"])
def test_a_file_whose_copy_stalls_is_neither_refused_nor_taken_by_half(tmp_path, size):
    half = len(LARGE) // 2
    with watching(tmp_path, patience_seconds=2) as watched, (watched.path / "IM0").open("wb") as file:
        file.truncate(size)  # Windows says first how long it will be, and Samba makes that a hole
        file.write(LARGE[:half])
        file.flush()
        assert watched.some_looks() == []
        assert watched.lies() == ["IM0"]

        file.write(LARGE[half:])
        file.flush()

        watched.empty()
        assert data_set(LARGE) in watched.held().values()


def test_a_file_with_a_hole_is_taken_when_nothing_more_of_it_comes(watched):
    half = len(LARGE) // 2
    with (watched.path / "IM0").open("wb") as file:
        file.write(LARGE[:half])
        file.truncate(len(LARGE))  # as on a file system that keeps no zeros

    watched.empty()

    assert [*watched.held().values()] == [data_set(LARGE[:half] + bytes(len(LARGE) - half))]


def test_a_file_that_is_empty_is_waited_for(watched):
    (watched.path / "IM0").touch()

    assert watched.some_looks() == []

    assert watched.lies() == ["IM0"]


@pytest.mark.parametrize("name", [".IM0", ".hidden/IM0", "IM0.part", "IM0.PART", "IM0.tmp", "IM0~", "refused/IM0", "done/IM0"])
def test_what_is_hidden_or_unfinished_or_ours_is_let_lie(watched, name):
    watched.lay(name, FILES[0])

    assert watched.some_looks() == []

    assert watched.lies() == [name]


def test_however_many_folders_there_are_looking_at_them_takes_little_of_the_processor(tmp_path):
    for n in range(3000):
        (tmp_path / "watched" / f"study {n}").mkdir(parents=True)
    with watching(tmp_path) as watched:
        watched.lay("study 1/IM0", FILES[0])
        watched.taken()
        began = time.process_time()

        time.sleep(2)

        assert time.process_time() - began < 0.6


def test_with_keep_a_file_is_moved_to_the_same_path_in_done(tmp_path):
    with watching(tmp_path, keep=True) as watched:
        watched.lay("study/IM0", FILES[0])

        watched.wait(lambda: watched.lies() == ["done/study/IM0"])

        assert watched.uids() == UIDS[:1]


def test_what_is_kept_never_overwrites_what_was_kept_before(tmp_path):
    with watching(tmp_path, keep=True) as watched:
        for n in range(2):
            watched.lay("IM0", FILES[n])
            watched.wait(lambda n=n: len(watched.lies()) == n + 1 and not (watched.path / "IM0").exists())

        assert {(watched.path / name).read_bytes() for name in watched.lies()} == set(FILES[:2])


def test_the_watched_folder_may_be_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "watched").symlink_to("elsewhere")
    with watching(tmp_path) as watched:
        watched.lay("IM0", FILES[0])

        watched.empty()

        assert watched.uids() == UIDS[:1]


def test_a_folder_that_is_away_is_told_once_and_watched_when_it_is_back(tmp_path):
    with structlog.testing.capture_logs() as logs, watching(tmp_path, make=False) as watched:
        time.sleep(0.3)
        watched.lay("IM0", FILES[0])
        watched.taken()

    assert [(one["event"], one["error"]) for one in logs] == [("folder.unreadable", "FileNotFoundError")]


# What is left


def test_links_are_not_followed(tmp_path, watched):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "IM0").write_bytes(FILES[0])
    (watched.path / "link").symlink_to(tmp_path / "outside" / "IM0")
    (watched.path / "folder").symlink_to(tmp_path / "outside")

    assert watched.some_looks() == []

    assert (tmp_path / "outside" / "IM0").exists()


@pytest.mark.parametrize("swap", [lambda path, other: path.symlink_to(other), lambda path, _: os.mkfifo(path)])
def test_a_file_in_whose_place_something_else_is_put_is_not_opened(tmp_path, swap):
    for name in ("IM0", "other"):
        (tmp_path / name).write_bytes(FILES[0])
        os.utime(tmp_path / name, ns=(0, 0))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        place = find(folder, folder, ".", "IM0")
        (tmp_path / "IM0").unlink()
        swap(tmp_path / "IM0", tmp_path / "other")

        with pytest.raises((OSError, Changed)), place.open():
            pass
    finally:
        os.close(folder)


def test_what_is_no_file_is_let_lie(watched):
    os.mkfifo(watched.path / "fifo")

    watched.some_looks()

    assert watched.lies() == ["fifo"]


def test_a_dicomdir_is_let_lie_and_not_read_again(watched):
    watched.lay("DICOMDIR", DICOMDIR)

    with structlog.testing.capture_logs() as logs:
        watched.some_looks()

    assert (watched.lies(), logs, watched.entries(Declined)) == (["DICOMDIR"], [], [])
    assert watched.folder._settled.keys() == {"./DICOMDIR"}


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_look(tmp_path):
    class Changing(Door):
        def open(self, incoming, origin, *, maximum_bytes):
            if incoming.sop_instance_uid == UIDS[0]:
                (tmp_path / "watched" / "IM").write_bytes(FILES[1])
            return super().open(incoming, origin, maximum_bytes=maximum_bytes)

    with watching(tmp_path, door_of=Changing) as watched:
        watched.lay("IM", FILES[0])

        watched.empty()

        assert watched.held() == {UIDS[1]: data_set(FILES[1])}


@pytest.mark.parametrize("pack", [lambda file: file, zipped])
def test_a_file_that_shrinks_while_it_is_read_is_neither_kept_nor_refused(tmp_path, pack):
    class Shrinking(Door):
        def open(self, incoming, origin, *, maximum_bytes):
            if incoming.sop_instance_uid == UIDS[0]:
                os.truncate(tmp_path / "watched" / "IM", 0)
            return super().open(incoming, origin, maximum_bytes=maximum_bytes)

    with watching(tmp_path, door_of=Shrinking) as watched:
        watched.lay("IM", pack(FILES[0]))
        watched.wait(lambda: (watched.path / "IM").stat().st_size == 0)

        assert watched.some_looks() == []

        assert (watched.lies(), watched.entries(Declined)) == (["IM"], [])


def test_a_file_stays_while_the_door_is_closed_and_is_taken_afterwards(watched):
    watched.door.closed = "the store's disk is nearly full"
    watched.lay("IM0", FILES[0])
    watched.lay("series.zip", zipped(FILES[1]))
    time.sleep(0.5)
    assert (watched.lies(), watched.uids()) == (["IM0", "series.zip"], [])

    watched.door.closed = ""
    watched.empty()

    assert sorted(watched.uids()) == sorted(UIDS[:2])


@pytest.mark.parametrize("pack", [lambda file: file, zipped])
def test_a_file_that_changes_is_not_refused_for_what_it_was(tmp_path, pack):
    class Changing(list):
        def __contains__(self, sop_class_uid):
            if sop_class_uid == BasicTextSRStorage:
                (tmp_path / "watched" / "IM").write_bytes(pack(FILES[1]))
            return super().__contains__(sop_class_uid)

    with watching(tmp_path, sop_classes=Changing([CTImageStorage])) as watched:
        watched.lay("IM", pack(meta_changed(FILES[0], MediaStorageSOPClassUID=BasicTextSRStorage)))

        watched.empty()

        assert (watched.uids(), watched.entries(Declined)) == ([UIDS[1]], [])


def test_a_closed_door_is_not_asked_at_every_look(tmp_path):
    with structlog.testing.capture_logs() as logs, watching(tmp_path, retry_seconds=60) as watched:
        watched.door.closed = "the store's disk is nearly full"
        for n in range(3):
            watched.lay(f"IM{n}", FILES[n])
        watched.wait(lambda: logs)
        time.sleep(0.5)

    assert [(one["event"], one["status"]) for one in logs] == [("instance.refused", "0xA700")]


@pytest.fixture
def open_folder():
    """A folder that nobody may write in but an ordinary user, whom this process is for the test: root may read everything."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-folder-"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in folder.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_told_once_and_taken_when_it_may(open_folder):
    with structlog.testing.capture_logs() as logs, watching(open_folder) as watched:
        (watched.path / "study").mkdir(mode=0o700)
        watched.lay("IM0", FILES[0]).chmod(0)
        (watched.path / "study").chmod(0)
        time.sleep(1)
        assert watched.some_looks() == []

        (watched.path / "study").chmod(0o700)
        (watched.path / "IM0").chmod(0o600)
        watched.empty()

    assert sorted((one["event"], one["error"]) for one in logs) == [
        ("file.unreadable", "PermissionError"),
        ("folder.unreadable", "PermissionError"),
    ]
    assert all("IM0" not in str(one) for one in logs)


def test_a_file_that_cannot_be_removed_is_taken_once(open_folder):
    with watching(open_folder) as watched:
        (watched.path / "study").mkdir()
        watched.lay("study/IM0", FILES[0])
        (watched.path / "study").chmod(0o500)

        assert watched.some_looks() == UIDS[:1]

        assert watched.lies() == ["study/IM0"]


def test_what_nobody_expected_leaves_the_file_and_takes_the_others(tmp_path):
    class Failing(Door):
        def open(self, incoming, origin, *, maximum_bytes):
            if incoming.sop_instance_uid == UIDS[0]:
                raise ArithmeticError("CANARY")
            return super().open(incoming, origin, maximum_bytes=maximum_bytes)

    with structlog.testing.capture_logs() as logs, watching(tmp_path, door_of=Failing) as watched:
        watched.lay("IM0", FILES[0])
        watched.some_looks()

        assert watched.lies() == ["IM0"]
    assert [(one["event"], one["error"]) for one in logs] == [("file.failed", "ArithmeticError")]
    assert "CANARY" not in str(logs)


def test_closing_ends_the_association_and_leaves_the_file_that_is_being_read(tmp_path):
    class Closing(Door):
        def open(self, incoming, origin, *, maximum_bytes):
            if incoming.sop_instance_uid == UIDS[1]:
                watched.folder._stopping.set()
            return super().open(incoming, origin, maximum_bytes=maximum_bytes)

    with watching(tmp_path, door_of=Closing) as watched:
        for n in range(2):
            watched.lay(f"IM{n}", FILES[n])
        watched.wait(lambda: not watched.folder._thread.is_alive())

        assert (watched.uids(), watched.lies(), len(watched.entries(Ended))) == (UIDS[:1], ["IM1"], 1)


# After a crash


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("pack", [lambda file: file, zipped])
def test_a_file_that_was_kept_but_not_removed_is_read_again_after_a_crash(tmp_path, pack):
    class Dying(Door):
        def kept(self, arrival, found):
            super().kept(arrival, found)
            raise SystemExit  # the thread ends here, as the process would

    with watching(tmp_path, door_of=Dying) as watched:
        watched.lay("IM0", pack(FILES[0]))
        watched.wait(lambda: not watched.folder._thread.is_alive())
        assert (watched.uids(), watched.lies()) == (UIDS[:1], ["IM0"])

    with watching(tmp_path) as watched:
        watched.empty()

        assert watched.uids() == [UIDS[0]] * 2
        once, twice = watched.entries(Kept)
        assert (once.size, once.values) == (twice.size, twice.values)


# What is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a letter", "expected a PS3.10 file with a data set"),
        (b"\xff\xd8\xff\xe0" + bytes(1000), NO_DICOM),
        (bytes(128) + b"DICM", "expected a PS3.10 file with a data set"),
        (FILES[0][:-10], "an element's length runs past its end"),
        (meta_changed(FILES[0], MediaStorageSOPClassUID=BasicTextSRStorage), "expected a SOP class of Storage"),
        (
            meta_changed(FILES[0], TransferSyntaxUID=DeflatedExplicitVRLittleEndian),
            "expected a transfer syntax that the gateway can decode",
        ),
        (
            meta_changed(FILES[0], MediaStorageSOPInstanceUID="1.2.3"),
            "expected the SOP Instance UID of the request in the data set",
        ),
        (FILES[0] + bytes(MEGABYTE), f"expected at most {MEGABYTE} bytes"),
    ],
)
def test_what_is_refused_for_good_is_moved_aside_with_the_reason(watched, content, reason):
    watched.lay("study/IM0", content)

    assert watched.reason("study/IM0") == [reason]

    assert (watched.path / "refused" / "study" / "IM0").read_bytes() == content
    assert [one.reason for one in watched.entries(Declined)] == [reason]
    assert watched.some_looks() == []
    assert watched.lies() == ["refused/study/IM0", "refused/study/IM0.reason.txt"]


@pytest.mark.parametrize("preamble", [b"MZ", b"\x7fELF", b"#!/bin/sh\n", b"<html>", b"II*\0", b"PK\3\4"])
def test_a_preamble_may_be_anything_and_is_not_kept(watched, preamble):
    watched.lay("IM0", preamble.ljust(128, b"\1") + FILES[0][128:])

    watched.empty()

    (segment,) = segments(watched.journal)
    kept = next(entries(segment, 0))
    with segment.open("rb") as file:
        file.seek(kept.data_at)
        assert file.read(132) == bytes(128) + b"DICM"


def test_what_is_refused_never_overwrites_what_was_refused_before(watched):
    for n in range(2):
        watched.lay("letter", b"letter %d" % n)
        watched.wait(lambda n=n: len(watched.lies()) == 2 * (n + 1) and not (watched.path / "letter").exists())

    assert {(watched.path / name).read_bytes() for name in watched.lies() if not name.endswith(".txt")} == {
        b"letter 0",
        b"letter 1",
    }


def test_a_name_that_has_no_room_for_an_ending_is_cut(watched):
    watched.lay("a" * 250, b"letter")

    assert watched.reason("a" * 200) == ["expected a PS3.10 file with a data set"]


def test_refused_is_no_way_out_of_the_folder(tmp_path, watched):
    (tmp_path / "outside").mkdir()
    (watched.path / "refused").symlink_to(tmp_path / "outside")
    watched.lay("letter", b"letter")

    watched.some_looks()

    assert not list((tmp_path / "outside").iterdir())
    assert (watched.path / "letter").exists()


# ZIPs


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

    with watching(tmp_path, maximum_instance_bytes=400 * MEGABYTE) as watched:
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


# The configuration


def test_watched_folders_are_told_in_the_configuration(tmp_path):
    (tmp_path / "gateway.toml").write_text('[[folders]]\npath = "in"\n[[folders]]\npath = "cd"\nquiet_seconds = 5\nkeep = true\n')

    folders = load(tmp_path / "gateway.toml", {}).folders

    assert [(str(one.path), one.quiet_seconds, one.patience_seconds, one.keep) for one in folders] == [
        ("in", 2, 60, False), ("cd", 5, 60, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[folders]]\nkeep = true", "[folders] 0 path: field required"),
        ('[[folders]]\npath = "in"\nquiet_second = 1', "[folders] 0 quiet_second: unknown key, did you mean 'quiet_seconds'?"),
        ('[[folders]]\npath = "in"\nquiet_seconds = 0', "[folders] 0 quiet_seconds: input should be greater than 0"),
        *(
            (text, "[folders]: expected folders apart from each other and from data_dir, none within another")
            for text in (
                '[[folders]]\npath = "."',
                '[[folders]]\npath = "var/store"',
                '[[folders]]\npath = "in"\n[[folders]]\npath = "in/cd"',
                '[[folders]]\npath = "in"\n[[folders]]\npath = "x/../in"',
            )
        ),
    ],
)
def test_what_is_wrong_with_a_watched_folder_is_told(tmp_path, text, problem):
    (tmp_path / "gateway.toml").write_text(text)

    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "gateway.toml", {})

    assert raised.value.problems == (f"{tmp_path / 'gateway.toml'}: {problem}",)
