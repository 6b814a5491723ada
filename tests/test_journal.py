"""The journal: what was committed is read, once and in its order; what is torn or old is not."""

import os
import resource
import threading
from pathlib import Path

import pytest

from gateway.doors import journal
from gateway.doors.journal import Segment, entries, new_segment, release, segments
from gateway.errors import OutOfResources


def commit(segment: Segment, data: bytes, **record: object) -> None:
    segment.begin()
    for at in range(0, len(data), 1000):
        segment.write(data[at : at + 1000])
    segment.commit(record)


def read(path: Path, position: int = 0) -> list[tuple[dict[str, object], bytes]]:
    whole = path.read_bytes()
    return [(one.record, whole[one.data_at : one.data_at + one.data_size]) for one in entries(path, position)]


def test_what_was_committed_is_read_in_its_order(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)

    commit(segment, b"a" * 2500, n=1)
    segment.commit({"n": 2}, durable=False)
    commit(segment, b"b", n=3)

    assert read(segment.path) == [({"n": 1}, b"a" * 2500), ({"n": 2}, b""), ({"n": 3}, b"b")]
    assert segments(tmp_path) == [segment.path]


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    commit(segment, b"first", n=1)
    (first,) = entries(segment.path, 0)
    assert list(entries(segment.path, first.end)) == []

    commit(segment, b"second", n=2)

    assert read(segment.path, first.end) == [({"n": 2}, b"second")]


def test_data_that_were_not_committed_leave_nothing(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.begin()
    segment.write(b"broken off" * 100)

    commit(segment, b"whole", n=1)

    assert read(segment.path) == [({"n": 1}, b"whole")]


def test_data_can_be_read_before_they_are_committed(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    commit(segment, b"before", n=1)
    segment.begin()
    segment.write(b"0123456789")

    assert [segment.read(2, 3), segment.read(8, 100), segment.read(20, 5)] == [b"234", b"89", b""]


def test_data_in_more_pieces_than_the_system_takes_at_once_are_one_entry(tmp_path: Path) -> None:
    pieces = [bytes((n % 256,)) * (n % 3) for n in range(5000)]
    segment = new_segment(tmp_path)
    segment.write(*pieces)
    segment.commit({"n": 1})
    commit(segment, b"next", n=2)

    assert read(segment.path) == [({"n": 1}, b"".join(pieces)), ({"n": 2}, b"next")]


@pytest.mark.parametrize("size", [5 * 2**20, 40 * 2**20])
def test_the_room_that_is_made_ahead_for_something_huge_shows_no_entry(tmp_path: Path, size: int) -> None:
    piece = bytes(range(256)) * 1024
    segment = new_segment(tmp_path)
    for _ in range(size // len(piece)):
        segment.write(piece)
    segment.commit({"n": 1})
    (huge,) = entries(segment.path, 0)
    assert segment.path.stat().st_size > huge.end

    commit(segment, b"next", n=2)

    assert read(segment.path) == [({"n": 1}, piece * (size // len(piece))), ({"n": 2}, b"next")]


def test_a_file_that_takes_a_part_of_what_is_written_is_told_and_has_no_entry(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    commit(segment, b"before", n=1)
    (before,) = entries(segment.path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before.end + 100, limits[1]))
    try:
        with pytest.raises(OutOfResources, match="the journal cannot be written: file too large"):
            segment.write(b"a" * 30, b"b" * 30, b"c" * 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert segment.path.stat().st_size == before.end + 100, "expected a part of it to be written"

    commit(segment, b"after", n=2)

    assert read(segment.path) == [({"n": 1}, b"before"), ({"n": 2}, b"after")]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_end_is_no_entry(tmp_path: Path, cut: int) -> None:
    segment = new_segment(tmp_path)
    commit(segment, b"whole", n=1)
    (first,) = entries(segment.path, 0)
    commit(segment, b"torn" * 5, n=2)
    whole = segment.path.read_bytes()

    segment.path.write_bytes(whole[: max(first.end, len(whole) - cut)])

    assert read(segment.path) == [({"n": 1}, b"whole")]


def test_a_record_of_which_the_disk_has_only_a_part_is_no_entry(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    commit(segment, b"data", text="record")
    whole = bytearray(segment.path.read_bytes())

    whole[-3] ^= 1
    segment.path.write_bytes(whole)

    assert read(segment.path) == []


def test_a_segment_that_is_used_again_shows_nothing_of_its_past(tmp_path: Path) -> None:
    old = new_segment(tmp_path)
    for n in range(5):
        commit(old, b"x" * 100, n=n)
    old.close()
    release(old.path)

    again = new_segment(tmp_path)
    assert read(again.path) == []
    commit(again, b"x" * 100, n=7)

    assert again.path.stat().st_size > 500
    assert read(again.path) == [({"n": 7}, b"x" * 100)]
    assert list(tmp_path.glob("*.spare")) == []


def test_only_so_many_spare_segments_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SPARES", 2)
    for segment in [new_segment(tmp_path) for _ in range(4)]:
        release(segment.path)

    assert len(list(tmp_path.glob("*.spare"))) == 2
    assert segments(tmp_path) == []


def test_a_segment_of_a_huge_instance_is_not_kept_as_a_spare(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    os.truncate(segment.path, journal.LARGEST_SPARE + 1)

    release(segment.path)

    assert list(tmp_path.iterdir()) == []


def test_threads_that_want_a_spare_segment_each_get_their_own(tmp_path: Path) -> None:
    for segment in [new_segment(tmp_path) for _ in range(4)]:
        release(segment.path)
    got: list[Segment] = []
    threads = [threading.Thread(target=lambda: got.append(new_segment(tmp_path))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({segment.path for segment in got}) == 8
    assert len({segment.path.stat().st_ino for segment in got}) == 8


def test_a_segment_says_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FULL", 1000)
    segment = new_segment(tmp_path)
    commit(segment, b"x" * 500)
    assert not segment.is_full

    commit(segment, b"x" * 500)

    assert segment.is_full


def test_a_disk_that_does_not_sync_breaks_the_segment(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.close()
    reading, writing = os.pipe()
    segment._file = writing  # a pipe takes no sync

    with pytest.raises(OutOfResources):
        segment.commit({"n": 1})

    os.close(reading)
