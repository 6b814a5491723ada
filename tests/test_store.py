"""The store: what was put survives a power cut, what is damaged is found, what is half written goes."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gateway.doors.journal import Entry, entries, new_segment
from gateway.errors import ConfigError, Damaged, OutOfResources
from gateway.store import Store, Stored

CONTENT = b"DICM" * 1000
ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def left(store: Store) -> list[Path]:
    return [path for path in store._root.rglob("*") if path.is_file()]


def test_what_was_put_is_read_under_the_digest_of_its_bytes(store: Store) -> None:
    stored = store.put((CONTENT[:100], memoryview(CONTENT)[100:]))

    assert stored == Stored(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert store.read(stored.sha256) == CONTENT
    assert store.path(stored.sha256).read_bytes() == CONTENT
    assert left(store) == [store.path(stored.sha256)]


def test_the_same_bytes_are_kept_once(store: Store) -> None:
    assert store.put((CONTENT,)) == store.put((CONTENT,))
    assert len(left(store)) == 1


def test_many_threads_may_put_at_once(store: Store) -> None:
    contents = [bytes([n % 8]) * 10_000 for n in range(64)]
    threads = [threading.Thread(target=store.put, args=((content,),)) for content in contents]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {store.read(hashlib.sha256(content).hexdigest()) for content in contents} == set(contents)
    assert len(left(store)) == 8


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x" + CONTENT[1:]), lambda path: path.write_bytes(CONTENT[:-1]), lambda path: path.unlink()], ids=["changed", "shortened", "gone"])  # fmt: skip
def test_damage_is_found_when_it_is_read(store: Store, damage) -> None:
    stored = store.put((CONTENT,))
    damage(store.path(stored.sha256))

    with pytest.raises(Damaged):
        store.read(stored.sha256)


def test_bytes_that_come_again_mend_what_was_damaged(store: Store) -> None:
    stored = store.put((CONTENT,))
    store.path(stored.sha256).write_bytes(b"")

    store.put((CONTENT,))

    assert store.read(stored.sha256) == CONTENT


def test_what_a_killed_process_left_half_written_goes_and_nothing_else(tmp_path: Path) -> None:
    stored = Store(tmp_path).put((CONTENT,))
    (tmp_path / "incoming" / "half").write_bytes(CONTENT[:10])

    again = Store(tmp_path)

    assert again.forget_unfinished() == 1
    assert again.forget_unfinished() == 0
    assert left(again) == [again.path(stored.sha256)]


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, keep_free_bytes=2**60)

    with pytest.raises(OutOfResources, match="nearly full"):
        store.put((CONTENT,))
    assert left(store) == []


def test_a_sender_that_breaks_off_leaves_no_half_file_under_a_name(store: Store) -> None:
    def parts():
        yield CONTENT
        raise OSError("the connection broke")

    with pytest.raises(OutOfResources):
        store.put(parts())
    assert left(store) == []


def test_a_disk_that_refuses_to_sync_keeps_nothing(tmp_path: Path) -> None:
    """A real full disk would do; a limit on the size of files is one that needs no rights."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from gateway.store import Store; from gateway.errors import OutOfResources\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    Store(Path(sys.argv[1])).put((b'x' * 5000,))\nexcept OutOfResources as error:\n    print(error)\n"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "store"], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )

    assert ran.stdout == "the store cannot be written\n"
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="it needs a second file system")
def test_a_store_whose_journals_lie_on_another_file_system_is_refused(tmp_path: Path) -> None:
    with TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "incoming").symlink_to(other)

        with pytest.raises(ConfigError, match="incoming on the same file system"):
            Store(tmp_path)


def test_discarding_is_safe_to_repeat(store: Store) -> None:
    stored = store.put((CONTENT,))

    store.discard(stored.sha256)
    store.discard(stored.sha256)

    assert left(store) == []


def arrival(folder: Path, data: bytes) -> Entry:
    """`data` as they lie in a journal."""
    segment = new_segment(folder)
    segment.begin()
    segment.write(data)
    segment.commit({})
    (entry,) = entries(segment.path, 0)
    return entry


def test_what_lies_in_a_journal_is_filed_under_its_digest(store: Store, tmp_path: Path) -> None:
    digests = store.file([arrival(tmp_path, CONTENT), arrival(tmp_path, b"other")])

    assert digests == [hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(b"other").hexdigest()]
    assert [store.read(digest) for digest in digests] == [CONTENT, b"other"]
    assert len(left(store)) == 2


def test_what_is_filed_again_mends_what_was_damaged(store: Store, tmp_path: Path) -> None:
    (digest,) = store.file([arrival(tmp_path, CONTENT)])
    store.path(digest).write_bytes(b"damaged")

    assert store.file([arrival(tmp_path, CONTENT)]) == [digest]

    assert store.read(digest) == CONTENT


def test_a_journal_that_was_damaged_is_not_filed(store: Store, tmp_path: Path) -> None:
    entry = arrival(tmp_path, CONTENT)
    with entry.segment.open("r+b") as file:
        file.seek(entry.data_at)
        file.write(b"X")

    assert store.file([entry]) == [""]
    assert left(store) == []


def test_a_store_that_cannot_be_written_files_nothing(store: Store, tmp_path: Path) -> None:
    store.incoming.rmdir()

    with pytest.raises(OutOfResources):
        store.file([arrival(tmp_path, CONTENT)])
