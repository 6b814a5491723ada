"""What the machine can do to a whole gateway: full disks, syncs that fail, power cuts, wrong clocks, an old backup (standards.md 5.4)."""

import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import create_engine, select, text
from sqlalchemy.pool import QueuePool

from gateway.attempt import Stage, guarded, until_the_database_answers
from gateway.commands.check import check_all
from gateway.db import durability, open_engine
from gateway.doors import journal
from gateway.doors.door import Door
from gateway.doors.entry import Kept, promise
from gateway.doors.journal import entries, segments
from gateway.rows.tables import DeliveryState, Instance, JobState, OutputInstance
from gateway.rows.trail import AuditEvent
from gateway.store import Store
from tests.archive_fixture import archive
from tests.door_fixture import NOW, parts, scanner
from tests.gate_fixture import mounted, open_gate
from tests.peers_fixture import data_set
from tests.ports import free_port
from tests.postgres_fixture import OwnPostgres
from tests.scanner_fixture import ABORT, c_store, encoded
from tests.synthetic import ct_series, part10
from tests.world import World, relay

NOT_YET = {"completeness": {"quiet_seconds": 60}}
NOWHERE = "127.0.0.1:9"


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is free on `disk` meanwhile."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    yield
    filler.unlink()


def acts(world: World) -> list[str]:
    with world.database() as db, db() as session:
        return list(session.scalars(select(AuditEvent.act).order_by(AuditEvent.id)))


def start_now(world: World) -> None:
    """The only job, unless it does anyway: it waits for its next attempt."""
    world.run("jobs", "retry", "1")


def outputs(world: World) -> dict[str, str]:
    """The digest of each of our objects, by UID."""
    with world.database() as db, db() as session:
        return {one.sop_instance_uid: one.sha256 for one in session.scalars(select(OutputInstance))}


def held(world: World, series: Sequence[Dataset]) -> bool:
    return all(map(world.held, series))


def assert_kept(world: World, series: Sequence[Dataset]) -> None:
    files = {data_set(path) for path in world.store.incoming.parent.glob("??/*.dcm")}
    assert {data_set(part10(ds)) for ds in series} <= files


# --- Disks (F16, F17, F18) ---


def test_a_job_whose_results_have_no_room_waits_and_is_done_when_there_is_some(tmp_path: Path, triton: str) -> None:
    series, port = ct_series(4), free_port()
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as disk,
        World(
            tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", f"127.0.0.1:{port}",
            settings={"store": {"folder": str(disk / "store"), "keep_free_bytes": 0}},
        ) as world,
    ):  # fmt: skip
        world.start()
        assert world.send(series) == [0x0000] * 4
        world.wait_until(lambda: [job.code for job in world.jobs()] == ["MODEL"])  # there is no Triton yet

        with filled(disk):
            before = sorted(disk.rglob("*.dcm"))
            with relay(port, triton):
                start_now(world)
                world.wait_until(lambda: [job.code for job in world.jobs()] != ["MODEL"])
                (job,) = world.jobs()
                assert (job.state, job.code) == (JobState.QUEUED, "STORE")
                assert sorted(disk.rglob("*.dcm")) == before
                assert [path for path in (disk / "store" / "work").rglob("*") if path.is_file() and path.stat().st_size] == []
        with relay(port, triton):
            start_now(world)
            world.wait_settled()

        assert [job.state for job in world.jobs()] == [JobState.DONE]
        assert len(world.pacs_files()) == 2


def test_a_database_whose_disk_is_full_closes_the_door_loses_nothing_and_recovers_alone(tmp_path: Path) -> None:
    series = ct_series(6)
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as disk,
        World(
            tmp_path / "world", f"sqlite:///{disk / 'gateway.db'}", NOWHERE, settings=NOT_YET | {"store": {"behind_seconds": 1.0}}
        ) as world,
    ):
        world.start()
        assert world.send(series[:1]) == [0x0000]
        world.wait_until(lambda: held(world, series[:1]))

        with filled(disk):
            taken = [ds for ds in series[1:4] if world.send([ds]) == [0x0000]]
            world.wait_until(lambda: world.send(series[4:5]) == [0xA700])
        world.wait_until(lambda: world.send(series[4:]) == [0x0000] * 2)
        world.wait_until(lambda: held(world, series[:1] + taken + series[4:]))

        assert taken != []
        assert_kept(world, series[:1] + taken + series[4:])
        assert world.process is not None
        assert world.process.poll() is None
        assert world.run("audit", "verify").returncode == 0


@contextmanager
def syncs_fail(world: World, log: Path) -> Iterator[None]:
    """Every sync of the gateway's main process, of files, folders and file systems, ends with EIO meanwhile."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    assert world.process is not None
    calls = "fsync,fdatasync,syncfs"
    command = ["strace", "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO", "-o", str(log)]
    tracing = subprocess.Popen([*command, "-p", str(world.process.pid)], stderr=subprocess.PIPE, text=True)
    assert tracing.stderr is not None
    if "attached" not in tracing.stderr.readline():
        pytest.skip("strace may not attach to a process here")
    try:
        yield
    finally:
        tracing.send_signal(signal.SIGINT)
        tracing.communicate(timeout=20)


def test_what_was_acknowledged_outlives_a_disk_that_cannot_sync_files_nor_the_database(tmp_path: Path) -> None:
    series = ct_series(4)
    settings = NOT_YET | {"store": {"behind_seconds": 60.0}}
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", NOWHERE, settings=settings) as world:
        world.start()
        with syncs_fail(world, tmp_path / "strace"):
            assert world.send(series) == [0x0000] * 4  # its journal is synced by another process
            world.wait_until(lambda: world.logged("receive.failed"))
            assert not any(map(world.held, series))
        world.wait_until(lambda: held(world, series))

        assert "EIO" in (tmp_path / "strace").read_text()
        assert_kept(world, series)
        assert world.run("audit", "verify").returncode == 0
        world.kill()
        world.start()
        assert held(world, series)


# --- Bits that rot (F21) ---


def rot(world: World, sha256: str) -> None:
    """One bit of a stored file, behind its header."""
    path = world.store.path(sha256)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def test_a_series_that_the_disk_has_changed_is_not_worked_on(tmp_path: Path, triton: str) -> None:
    series, port = ct_series(4), free_port()
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", f"127.0.0.1:{port}") as world:
        world.start()
        world.send(series)
        world.wait_until(lambda: [job.code for job in world.jobs()] == ["MODEL"])  # there is no Triton yet
        with world.database() as db, db() as session:
            rot(world, session.get_one(Instance, series[2].SOPInstanceUID).sha256)

        with relay(port, triton):
            start_now(world)
            world.wait_settled()

        (job,) = world.jobs()
        assert (job.state, job.code) == (JobState.FAILED, "INTEGRITY")
        assert outputs(world) == {}
        assert world.pacs_files() == []


def test_a_result_that_the_disk_has_changed_is_not_sent(tmp_path: Path, triton: str) -> None:
    port = free_port()
    peer = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "PACS"}
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton, (peer,)) as world:
        world.start()
        world.send(ct_series(4))
        world.wait_until(lambda: len(world.deliveries()) == 2)
        first, second = sorted(world.deliveries(), key=lambda one: one.id)
        rot(world, outputs(world)[first.sop_instance_uid])

        with archive(port) as pacs:
            world.wait_settled()

        states = {one.id: one.state for one in world.deliveries()}
        assert states == {first.id: DeliveryState.FAILED, second.id: DeliveryState.PROVED}
        assert list(pacs.held) == [second.sop_instance_uid]


# --- Power cuts (F22) ---

Image = dict[str, bytes]
"""The files of a folder."""


def image(folder: Path) -> Image:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def torn(before: Image, after: Image, chance: random.Random) -> Image:
    """What a disk may hold that lost its power on the way: all of `before`, which was synced, and any sectors of the rest."""
    found = {}
    for name, new in after.items():
        old = before.get(name)
        if old is None and chance.random() < 0.3:
            continue
        old = old or b""
        whole = max(len(old), len(new))
        size, likely = chance.choice([(chance.randint(len(old), whole), chance.random()), (whole, chance.choice([0.9, 1]))])
        content = bytearray(old.ljust(size, b"\0"))
        for at in range(0, size, 512):
            if chance.random() < likely:
                content[at : at + 512] = new[at : min(at + 512, size)].ljust(min(512, size - at), b"\0")
        found[name] = bytes(content)
    return found


def written(folder: Path, files: Image) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_journal_that_a_power_cut_tore_anywhere_has_all_that_was_acknowledged_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FULL", 20_000)
    (tmp_path / "door").mkdir()
    door, series, origins = (
        Door(tmp_path / "door", clock=lambda: NOW, keep_free_bytes=0),
        ct_series(10, 32, 32),
        [scanner(), scanner()],
    )
    images: list[Image] = [{}]
    for n, ds in enumerate(series):
        data, incoming = parts(ds)
        with door.open(incoming, origins[n % 2], maximum_bytes=2**20) as arrival:
            arrival.write(data)
            arrival.keep()
        images.append(image(tmp_path / "door"))
    door.close()
    chance, store, seen = random.Random(22), Store(tmp_path / "store"), set()

    for acknowledged in range(len(series)):
        for cut in range(25):
            folder = written(tmp_path / f"{acknowledged}-{cut}", torn(images[acknowledged], images[acknowledged + 1], chance))
            found = [
                (lies, one.incoming.sop_instance_uid)
                for segment in segments(folder) if folder.exists()
                for lies in entries(segment, 0) if isinstance(one := promise(lies.record), Kept)
            ]  # fmt: skip
            digests = store.file(lies for lies, _ in found)
            whole = {uid: store.read(digest) for (_, uid), digest in zip(found, digests, strict=True) if digest}
            expected = {str(ds.SOPInstanceUID): part10(ds) for ds in series[: acknowledged + 1]}
            assert set(expected) - {str(series[acknowledged].SOPInstanceUID)} <= set(whole) <= set(expected)
            assert all(data_set(content) == data_set(expected[uid]) for uid, content in whole.items())
            seen.add(len(whole) - acknowledged)

    assert seen == {0, 1}  # some cuts left the one that was on its way, and some did not


def test_a_gateway_that_starts_after_a_power_cut_has_everything_that_was_acknowledged(tmp_path: Path) -> None:
    series, folder, chance = ct_series(3), tmp_path / "world", random.Random(2)
    with World(folder, f"sqlite:///{folder / 'var' / 'gateway.db'}", NOWHERE, settings=NOT_YET) as world:
        (folder / "var").mkdir()
        world.start()
        assert world.process is not None
        os.kill(world.process.pid, signal.SIGSTOP)  # so that nothing is filed: what was acknowledged is in the journal only
        images = []
        for ds in series:
            assert world.send([ds]) == [0x0000]
            images.append(image(folder / "var"))
        world.kill()

        for n in (0, 1):
            shutil.rmtree(folder / "var")
            written(folder / "var", torn(images[n], images[n + 1], chance))
            world.start()
            world.wait_until(lambda n=n: held(world, series[: n + 1]))
            assert_kept(world, series[: n + 1])
            assert world.send(series) == [0x0000] * 3
            world.wait_until(lambda: held(world, series))
            assert "instance.version" not in acts(world)
            world.kill()


# --- A line that is slow, and stands still where packets are lost (F29) ---


def test_what_comes_over_a_line_that_stalls_is_kept_byte_for_byte(tmp_path: Path) -> None:
    series, chance = ct_series(3, 32, 32), random.Random(29)
    with open_gate(tmp_path) as gate, gate.scanner() as slow:
        for ds in series:
            whole = c_store(ds, fragment=1000)
            for at in range(0, len(whole), 700):
                slow.send(whole[at : at + 700])
                time.sleep(0.6 if chance.random() < 0.1 else 0.03)
            assert slow.status() == 0x0000

        assert gate.held() == {ds.SOPInstanceUID: encoded(ds) for ds in series}


# --- A caller that is gone and has not said so (F28) ---


@pytest.mark.parametrize("where", ["in a fragment", "between two fragments"])
def test_who_falls_silent_in_the_middle_of_an_instance_makes_room_and_leaves_nothing(tmp_path: Path, where: str) -> None:
    good, other = ct_series(2, 64, 64)
    with (
        open_gate(tmp_path, maximum_associations=1, idle_seconds=1, pdu_seconds=1) as gate,
        gate.scanner() as lost,  # its socket stays open: no FIN ever comes
    ):
        whole = c_store(other, fragment=2000)
        first = whole.index(encoded(other)[:1000]) + 2000
        lost.send(whole[: first + (1000 if where == "in a fragment" else 0)])

        assert lost.read().kind == ABORT
        assert gate.takes(good)


# --- The database (F23, F50) ---


def test_a_stage_that_finds_no_free_connection_is_tried_again_and_fails_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'one.db'}", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.1)
    done, failed = threading.Event(), []

    def act(_: str) -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        done.set()

    stage = Stage("work", act, lambda key, error: failed.append(type(error).__name__))
    try:
        with engine.connect():  # the only one
            thread = threading.Thread(target=until_the_database_answers, args=(lambda: guarded(stage, "1"), threading.Event()))
            thread.start()
            assert not done.wait(0.5)
        assert done.wait(20)
        thread.join()
    finally:
        engine.dispose()

    assert failed == []


def test_a_postgresql_that_may_lose_commits_is_told_with_what_it_was_told_not_to_do(own_postgres: OwnPostgres) -> None:
    careless, hasty = open_engine(own_postgres.url), open_engine(f"{own_postgres.url}&options=-csynchronous_commit%3Doff")
    assert [what.partition(":")[0] for what in durability(careless)] == ["fsync is off"]
    assert [what.partition(":")[0] for what in durability(hasty)] == ["fsync is off", "synchronous_commit is off"]

    own_postgres.stop()
    options = f"-c listen_addresses= -c unix_socket_directories={own_postgres.folder}"
    own_postgres.run("pg_ctl", "-w", "-l", own_postgres.folder / "log", "-o", options, "start")

    assert durability(careless) == []
    assert [what.partition(":")[0] for what in durability(hasty)] == ["synchronous_commit is off"]
    careless.dispose()
    hasty.dispose()


def test_a_postgresql_that_may_lose_commits_is_wrong_for_gateway_check(own_postgres: OwnPostgres, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f'[gateway]\ndata_dir = "{tmp_path}"\n[database]\nurl = "{own_postgres.url}"\n[triton]\nurl = "{NOWHERE}"\n')

    wrong = [found.text for found in check_all(path) if not found.good]

    assert "database: PostgreSQL: fsync is off: a power cut may lose or destroy the database" in wrong
    path.write_text(path.read_text().replace("[triton]", "unsafe = true\n[triton]"))
    assert "database: PostgreSQL: fsync is off: a power cut may lose or destroy the database" not in [
        found.text for found in check_all(path) if not found.good
    ]


def test_a_gateway_does_not_serve_on_a_postgresql_that_may_lose_commits_unless_it_is_told_to(
    own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    with World(tmp_path / "world", own_postgres.url, NOWHERE, settings={"database": {"unsafe": False}}) as world:
        refused = world.run("serve")
        assert refused.returncode == 1
        assert "fsync is off" in refused.stderr
        world.config.write_text(world.config.read_text().replace("unsafe = false", "unsafe = true"))

        world.start()

        assert world.logged("database.unsafe")
        assert world.stop() == 0


def test_sqlite_syncs_at_every_commit(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("synchronous", "journal_mode")]
    assert durability(engine) == []
    engine.dispose()

    assert found == [2, "wal"]


# --- Clocks (F52, F53) ---

SHIM = """\
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) {
    static volatile long *at;
    if (!at) {
        int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
        at = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return *at;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    int result = syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) t->tv_sec += shift();
    return result;
}
int gettimeofday(struct timeval *t, void *zone) {
    int result = syscall(SYS_gettimeofday, t, zone);
    t->tv_sec += shift();
    return result;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The wall clock of processes that are started from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """It is so much ahead of the right one from now on."""
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))


@pytest.fixture
def clock(tmp_path: Path, triton: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Triton keeps the right time: it was started before."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(SHIM)
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=False, capture_output=True
    )
    if built.returncode:
        pytest.skip("the C compiler makes no shared library")
    clock = Clock(tmp_path / "shift")
    monkeypatch.setenv("CLOCK_SHIFT", str(tmp_path / "shift"))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    return clock


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_jumps_an_hour_stops_nothing_that_comes_after_it_and_the_trail_keeps_its_order(
    tmp_path: Path, triton: str, clock: Clock, seconds: int
) -> None:
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton) as world:
        world.start()
        world.send(ct_series(4, seed=1))
        world.wait_settled()
        clock.jump(seconds)
        world.send(ct_series(4, seed=2))
        world.wait_settled(2)

        assert [job.state for job in world.jobs()] == [JobState.DONE] * 2
        assert len(world.pacs_files()) == 4
        with world.database() as db, db() as session:
            times = list(session.scalars(select(AuditEvent.at).order_by(AuditEvent.id)))
        assert abs((times[-1] - times[0]).total_seconds() - seconds) < 300
        assert world.run("audit", "verify").returncode == 0


def test_what_waits_when_the_clock_is_set_back_goes_on_when_the_clock_is_there_again(
    tmp_path: Path, triton: str, clock: Clock
) -> None:
    series, later = ct_series(4, seed=1), ct_series(4, seed=2)
    settings = {"completeness": {"quiet_seconds": 2}}
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton, settings=settings) as world:
        world.start()
        world.send(series)
        world.wait_until(lambda: held(world, series))
        clock.jump(-3600)
        world.send(later)
        world.wait_ended(later)  # it came after the jump; what came before waits for its own time by the clock
        clock.jump(0)
        world.wait_settled(2)

        assert [job.state for job in world.jobs()] == [JobState.DONE] * 2


def test_a_gateway_that_boots_in_1970_takes_everything_and_works_on_it(tmp_path: Path, triton: str, clock: Clock) -> None:
    series = ct_series(4)
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", triton) as world:
        clock.jump(86400 - int(time.time()))
        world.start()
        assert world.send(series) == [0x0000] * 4
        world.wait_until(lambda: held(world, series))
        clock.jump(0)
        world.wait_settled()

        assert_kept(world, series)
        assert [job.state for job in world.jobs()] == [JobState.DONE]
        with world.database() as db, db() as session:
            first = session.scalars(select(AuditEvent.at).order_by(AuditEvent.id)).first()
        assert first < datetime(1971, 1, 1, tzinfo=UTC)
        assert world.run("audit", "verify").returncode == 0


# --- A database that was restored from an older backup (F70) ---


def copied(database: Path, to: Path) -> None:
    """As `.backup` of SQLite does, beside a gateway that serves."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def test_after_an_older_backup_no_result_is_sent_again_and_no_file_without_a_row_is_lost(tmp_path: Path, triton: str) -> None:
    database, backup, port, pacs_port = tmp_path / "gateway.db", tmp_path / "backup.db", free_port(), free_port()
    early, late = ct_series(4, seed=1), ct_series(4, seed=2, Modality="MR")
    peer = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": pacs_port, "ae_title": "PACS"}
    with archive(pacs_port) as pacs, World(tmp_path / "world", f"sqlite:///{database}", f"127.0.0.1:{port}", (peer,)) as world:
        world.start()
        world.send(early)
        world.wait_until(lambda: [job.code for job in world.jobs()] == ["MODEL"])  # there is no Triton yet
        copied(database, backup)
        with relay(port, triton):
            start_now(world)
            world.wait_settled()
            world.send(late)
            world.wait_settled(2)
            first = outputs(world)
            digests = {uid: data_set(world.store.read(sha256)) for uid, sha256 in first.items()}
            assert world.stop() == 0
            for suffix in ("", "-wal", "-shm"):
                Path(f"{database}{suffix}").unlink(missing_ok=True)
            shutil.copy(backup, database)

            refused = world.run("serve")
            assert refused.returncode == 1
            assert "restored from an older backup" in refused.stderr
            assert "restored from an older backup" in world.run("check").stdout
            said = world.run("db", "restored")
            assert said.returncode == 0, said.stderr
            assert "have no row" in said.stdout
            world.start()
            start_now(world)
            world.wait_settled()

        assert outputs(world).keys() == first.keys() == pacs.held.keys()
        assert len(pacs.received) == len(first)  # it was asked, and has them: nothing was sent over them
        assert pacs.held == digests
        assert not any(map(world.held, late))
        assert_kept(world, late)
        orphans = written(
            tmp_path / "orphans", {path.name: path.read_bytes() for path in world.store.incoming.parent.glob("??/*.dcm")}
        )
        assert world.run("send", str(orphans)).returncode == 0
        world.wait_until(lambda: held(world, late))
        assert {one.state for one in world.deliveries()} == {DeliveryState.PROVED}
