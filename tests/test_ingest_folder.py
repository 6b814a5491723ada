"""The watched folder with a real door behind it: what is taken is in the journal before it is gone, what is hostile takes nothing."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import structlog
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
)

from gateway.configuration.config import load
from gateway.doors.door import Door
from gateway.doors.entry import Declined, Ended, Kept
from gateway.doors.journal import entries, segments
from gateway.errors import ConfigError
from gateway.ingest._place import Changed, find
from tests.peers_fixture import data_set
from tests.synthetic import ct_series, meta_changed, part10
from tests.watched_fixture import DICOMDIR, FILES, MEGABYTE, UIDS, watching, zipped

LARGE = part10(ct_series(1, 128, 128, seed=1)[0])
NO_DICOM = "expected a preamble and DICM"


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
        watched.lay(f".burst/IM{n}", FILES[n])
    (watched.path / ".burst").rename(watched.path / "burst")  # both are there at the same look
    watched.wait(lambda: len(watched.entries(Ended)) == 1)
    watched.lay("IM2", FILES[2])
    watched.wait(lambda: len(watched.entries(Ended)) == 2)

    origins = [one.origin for one in watched.entries(Kept)]

    assert origins[0] == origins[1] != origins[2]
    assert [one.origin for one in watched.entries(Ended)] == [origins[0], origins[2]]
    assert (origins[0].ingest, origins[0].address) == ("folder", str(watched.path))


def test_a_file_that_grows_is_waited_for(tmp_path):
    with watching(tmp_path, quiet_seconds=1) as watched, (watched.path / "IM0").open("wb") as file:
        for at in range(0, len(FILES[0]), len(FILES[0]) // 30):
            file.write(FILES[0][at : at + len(FILES[0]) // 30])
            file.flush()
            time.sleep(0.05)

        watched.empty()

        assert watched.held() == {UIDS[0]: data_set(FILES[0])}


@pytest.mark.parametrize("size", [0, len(LARGE)], ids=["as it comes", "its size first"])
def test_a_file_whose_copy_stalls_is_neither_refused_nor_taken_by_half(tmp_path, size):
    half = len(LARGE) // 2
    with watching(tmp_path, patience_seconds=60) as watched, (watched.path / "IM0").open("wb") as file:
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
        watched.lay(".IM0", FILES[0]).chmod(0)
        (watched.path / ".IM0").rename(watched.path / "IM0")
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
        watched.lay(".study/IM0", FILES[0])
        (watched.path / ".study").chmod(0o500)
        (watched.path / ".study").rename(watched.path / "study")

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
