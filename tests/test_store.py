"""The store: what was put survives a power cut, what is damaged is found, what is half written goes."""

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.errors import Damaged, OutOfResources
from gateway.store import Store, Stored
from tests.synthetic import ct_series, part10
from tests.world import World, free_port, send

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


def test_discarding_is_safe_to_repeat(store: Store) -> None:
    stored = store.put((CONTENT,))

    store.discard(stored.sha256)
    store.discard(stored.sha256)

    assert left(store) == []


@pytest.fixture
def strace(tmp_path: Path):
    """Attached to a process and its threads; the calls that end it and their files, in order."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    tracing: list[subprocess.Popen[str]] = []

    def attach(pid: int) -> Path:
        log = tmp_path / "strace"
        calls = "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg,write,pwrite64"
        command = [program, "-f", "-y", "-s", "12", "-e", calls, "-o", str(log), "-p", str(pid)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        tracing.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        if "attached" not in line:
            pytest.skip("strace may not attach to a process here")
        return log

    yield attach
    for process in tracing:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def order_of_effects(log: str) -> list[str]:
    """What the trace has of one instance: its file synced, renamed, its folder synced, the database synced, the answer sent."""
    kinds = (
        (r"fsync\(\d+<[^>]*/store/incoming/[0-9a-f]{32}>", "file synced"),
        (r"rename(at2?)?\(.*/store/incoming/[0-9a-f]{32}\".*\.dcm\"", "file renamed"),
        (r"fsync\(\d+<[^>]*/store/[0-9a-f]{2}>", "folder synced"),
        (r"(fsync|fdatasync)\(\d+<[^>]*gateway\.db-wal>", "database synced"),
        (r"send(to|msg)\(\d+<(TCP|socket)[^>]*>+, \"\\4\\0", "answer sent"),
    )
    found = []
    for line in log.splitlines():
        found += [kind for pattern, kind in kinds if re.search(pattern, line)]
    return found


def test_an_instance_is_on_disk_and_in_the_database_before_it_is_acknowledged(tmp_path: Path, strace) -> None:
    series = ct_series(3)
    with World(
        tmp_path / "world",
        f"sqlite:///{tmp_path}/gateway.db",
        f"127.0.0.1:{free_port()}",
        settings={"completeness": {"quiet_seconds": 60}},
    ) as world:
        world.start()
        send(series[:1], world.port)
        assert world.process is not None
        log = strace(world.process.pid)

        assert send(series[1:2], world.port) == [0x0000]
        world.stop()

    order = order_of_effects(log.read_text())
    answer = order.index("answer sent")
    first = [order.index(kind) for kind in ("file synced", "file renamed", "folder synced")]
    assert first == sorted(first), order
    assert "database synced" in order[first[-1] : answer], order
    assert order.count("file renamed") == 1
    assert answer > first[-1], order


def test_half_written_files_are_removed_when_the_gateway_starts(tmp_path: Path) -> None:
    (ds,) = ct_series(1)
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", f"127.0.0.1:{free_port()}") as world:
        world.start(crash_at="store.written")
        assert send([ds], world.port) == [-1]
        world.wait_for_death()
        incoming = world.folder / "var" / "store" / "incoming"
        assert len(list(incoming.iterdir())) == 1

        world.start()

        assert list(incoming.iterdir()) == []
        assert send([ds], world.port) == [0x0000]
    assert part10(ds)[-100:] in next((world.folder / "var" / "store").glob("??/*.dcm")).read_bytes()
