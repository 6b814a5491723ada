"""The door: durable before it answers, shown by the system's own trace; closed when there is no room; nothing half kept."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.doors import journal
from gateway.doors.door import Door
from gateway.doors.journal import segments
from gateway.errors import InvalidUid, NotUnderstood, OutOfResources
from gateway.rows.tables import Association, Instance
from tests.door_fixture import Place, parts, scanner
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.world import World, associate, send, store

Trace = Callable[[int], Path]


@pytest.fixture
def place(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Place]:
    database = tmp_path / "gateway.db"
    shutil.copy(migrated_sqlite, database)
    place = Place(f"sqlite:///{database}", tmp_path)
    yield place
    place.close()


def test_what_was_not_kept_leaves_nothing(place: Place) -> None:
    first, second = ct_series(2)
    data, incoming = parts(first)
    origin = scanner()
    with place.door.open(incoming, origin, maximum_bytes=2**20) as arrival:
        arrival.write(data)  # and then the association breaks off

    place.take(second, origin)

    assert place.count(Instance) == place.count(Instance, sop_instance_uid=second.SOPInstanceUID) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"sop_instance_uid": "1.2.3"}, InvalidUid), ({"data": b""}, NotUnderstood), ({"data": b"rubbish" * 99}, NotUnderstood)],
)
def test_what_is_refused_is_not_promised(place: Place, changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        place.bring(ct_series(1)[0], **changes)

    assert place.promised() == []


def test_more_bytes_than_allowed_are_refused_before_they_are_all_there(place: Place) -> None:
    data, incoming = parts(ct_series(1)[0])

    with place.door.open(incoming, scanner(), maximum_bytes=1000) as arrival, pytest.raises(NotUnderstood):
        for at in range(0, len(data), 100):
            arrival.write(data[at : at + 100])

    assert arrival.size < 2000


def test_a_door_that_is_closed_says_why_and_opens_again(place: Place) -> None:
    (ds,) = ct_series(1)
    place.door.closed = "the gateway rests"
    with pytest.raises(OutOfResources, match="the gateway rests"):
        place.bring(ds)

    place.door.closed = ""
    place.take(ds)

    assert place.count(Instance) == 1


def test_a_disk_that_is_nearly_full_takes_nothing(place: Place) -> None:
    (place.folder.parent / "full").mkdir()
    door = Door(place.folder.parent / "full", clock=lambda: place.now, keep_free_bytes=2**62)

    with pytest.raises(OutOfResources) as refused:
        door.open(parts(ct_series(1)[0])[1], scanner(), maximum_bytes=2**20)

    assert refused.value.dimse_status == 0xA700


def test_a_folder_that_is_gone_is_answered_out_of_resources(place: Place) -> None:
    shutil.rmtree(place.folder)

    with pytest.raises(OutOfResources, match="the store cannot be written: no such file or directory"):
        place.bring(ct_series(1)[0])

    place.folder.mkdir()
    place.take(ct_series(1)[0])
    assert place.count(Instance) == 1


def test_an_association_that_has_ended_leaves_its_segment_to_the_next(place: Place) -> None:
    first, second = scanner(), scanner()
    place.bring(ct_series(2)[0], first)
    place.door.end(first)
    before = len(os.listdir("/proc/self/fd"))

    place.bring(ct_series(2)[1], second)
    place.door.end(second)

    assert len(os.listdir("/proc/self/fd")) == before
    assert len(segments(place.folder)) == 1
    assert [type(promise).__name__ for _, promise in place.promised()] == ["Kept", "Ended", "Kept", "Ended"]


def test_a_segment_that_is_full_is_left_to_its_reader_and_the_association_goes_on(place: Place, monkeypatch) -> None:
    monkeypatch.setattr(journal, "FULL", 5000)
    origin = scanner()

    for ds in ct_series(3):
        place.bring(ds, origin)
    place.file()

    assert place.count(Instance) == 3
    assert len(segments(place.folder)) == 3


def test_who_floods_the_door_does_not_flood_the_trail(place: Place) -> None:
    for _ in range(100):
        place.door.turn_away(scanner(), "expected a known caller")
    assert len(place.promised()) == 20

    place.now += timedelta(seconds=2)
    place.door.turn_away(scanner(), "expected a known caller")

    assert len(place.promised()) == 21


@pytest.fixture
def strace(tmp_path: Path) -> Iterator[Trace]:
    """Attached to a process and its threads; the calls that end it and their files, in order."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    tracing: list[subprocess.Popen[str]] = []

    def attach(pid: int) -> Path:
        log = tmp_path / f"strace.{pid}"
        calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2,sendto,sendmsg,pwrite64,pwritev,pwritev2"
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


def calls(log: str, kinds: dict[str, str]) -> list[str]:
    """What the trace has of an instance, by the patterns of `kinds`, in its order: where a pattern asks for the result, by when
    that came, else by when the call began. A call during which another thread makes one is told in two lines.
    """
    found, begun = [], dict[str, str]()
    for line in log.splitlines():
        thread, _, call = line.partition(" ")
        before = begun.pop(thread, "") if "resumed>" in call else ""
        whole = before.removesuffix(" <unfinished ...>") + call.partition("resumed>")[2] if before else call
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
        found += [kind for kind, pattern in kinds.items() if re.search(pattern, whole) and not re.search(pattern, before or "-")]
    return found


def test_a_call_that_is_told_in_two_lines_counts_once() -> None:
    log = """7  syncfs(5</store> <unfinished ...>
8  sendto(6<TCP>, "x" <unfinished ...>
8  <... sendto resumed>) = 1
7  <... syncfs resumed>) = 0"""

    assert calls(log, {"synced": r"syncfs\(\d+<[^>]*>\) += 0", "sent": r"sendto"}) == ["sent", "synced"]


def test_an_instance_is_on_disk_before_it_is_acknowledged_and_in_its_place_before_the_database_says_so(
    tmp_path: Path, strace: Trace
) -> None:
    series = ct_series(4)
    with World(
        tmp_path / "world",
        f"sqlite:///{tmp_path}/gateway.db",
        f"127.0.0.1:{free_port()}",
        settings={"completeness": {"quiet_seconds": 60}},
    ) as world:
        world.start()
        send(series[:1], world.port)
        world.wait_until(lambda: world.held(series[0]))
        assert world.process is not None
        (ingest,) = world.ingests
        door, filing = strace(ingest.pid), strace(world.process.pid)

        assert send(series[1:], world.port) == [0x0000] * 3
        world.wait_until(lambda: world.held(series[3]))
        world.stop()

    at_the_door = calls(
        door.read_text(),
        {
            "written": r"pwrite(64|v2?)\(\d+<[^>]*\.journal>",
            "synced": r"fdatasync\(\d+<[^>]*\.journal>\) += 0",
            "answered": r"send(to|msg)\(\d+<(TCP|socket)[^>]*>+, \"\\4\\0",
        },
    )
    acknowledged = [n for n, kind in enumerate(at_the_door) if kind == "answered"]
    assert len(acknowledged) == 3
    for answer in acknowledged:
        assert at_the_door[answer - 2 : answer] == ["written", "synced"], at_the_door
    filed = calls(
        filing.read_text(),
        {
            "files synced": r"syncfs\(\d+<[^>]*/store/incoming>\) += 0",
            "file renamed": r"rename(at2?)?\(.*/store/work/half-[0-9a-f]{32}/[0-9a-f]{32}\".*\.dcm\"",
            "database synced": r"(fsync|fdatasync)\(\d+<[^>]*gateway\.db-wal>",
        },
    )
    renamed = [n for n, kind in enumerate(filed) if kind == "file renamed"]
    assert len(renamed) == 3, filed
    assert filed[renamed[0] - 1] == "files synced", filed
    assert filed[renamed[-1] + 1] == "files synced", filed
    assert "database synced" in filed[renamed[-1] + 2 :], filed


def test_an_ingest_process_that_dies_is_replaced_and_loses_nothing(database_url: str, tmp_path: Path) -> None:
    series = ct_series(6)
    settings = {"completeness": {"quiet_seconds": 60}}
    with World(tmp_path / "world", database_url, f"127.0.0.1:{free_port()}", settings=settings) as world:
        world.start()
        assert send(series[:3], world.port) == [0x0000] * 3
        (ingest,) = world.ingests

        ingest.send_signal(signal.SIGKILL)
        world.wait_until(lambda: [one.pid for one in world.ingests] not in ([ingest.pid], []))

        assert send(series[3:], world.port) == [0x0000] * 3
        world.wait_until(lambda: all(map(world.held, series)))
        world.wait_until(lambda: len([path for path in world.store.incoming.iterdir() if path.is_dir()]) == 1)


def test_an_association_whose_ingest_process_dies_is_broken_off(tmp_path: Path) -> None:
    series = ct_series(6)
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", f"127.0.0.1:{free_port()}") as world:
        world.start()
        association = associate(world.port, series)
        assert [store(association, ds) for ds in series[:3]] == [0x0000] * 3

        world.ingests[0].send_signal(signal.SIGKILL)
        world.wait_until(lambda: all(map(world.held, series[:3])))

        world.wait_until(lambda: ended(world))
        assert [one.broken for one in ended(world)] == [True]
        association.abort()


def ended(world: World) -> list[Association]:
    with world.database() as db, db() as session:
        return list(session.scalars(select(Association).where(Association.ended_at.is_not(None))))


def test_what_an_ingest_process_holds_half_is_gone_after_its_death(tmp_path: Path) -> None:
    (ds,) = ct_series(1)
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", f"127.0.0.1:{free_port()}") as world:
        world.start(crash_at="journal.synced")
        assert send([ds], world.port) == [-1]
        world.wait_until(lambda: world.logged("ingest.died"))
        world.kill()

        world.start()
        world.wait_until(lambda: world.held(ds))

        assert send([ds], world.port) == [0x0000]
        assert len(list((world.folder / "var" / "store").glob("??/*.dcm"))) == 1
        # The process that took the dead one's place may outlive its gateway for a moment, and holds its folder until then.
        world.wait_until(lambda: len([path for path in world.store.incoming.iterdir() if path.is_dir()]) == 1)
