"""Many machines: processes with folders of their own, one database and one store; whoever dies, the others end its work."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, text
from structlog.testing import capture_logs

from gateway import migrations
from gateway.commands.desk import reach
from gateway.configuration.roles import Role, roles
from gateway.configuration.sections import Config
from gateway.db import Database, open_database, open_engine
from gateway.errors import ConfigError
from gateway.filing import Books
from gateway.machine.folders import claim, folders, holding
from gateway.migrations import Schema
from gateway.rows.hosts import Filed
from gateway.rows.tables import JobState, OutputInstance, Series, SeriesState
from gateway.rows.trail import AuditEvent
from gateway.serving.hosts import Hosts, share, wrong_clock
from gateway.serving.inherit import Heir
from gateway.store import Store
from tests.ports import free_port
from tests.postgres_fixture import OwnPostgres
from tests.synthetic import ct_series
from tests.world import World, associate, store

SLICES = 4
NOW = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)
RECEIVE, WORK = ("--only", "receive"), ("--only", "work")
Host = Callable[..., World]
PATIENT = """\
import time
from pathlib import Path

from gateway.pipeline import Needs, Pipeline
from tests.pipelines.bright import run as bright


def run(study, infer):
    while not Path("GO").exists():
        time.sleep(0.05)
    return bright(study, infer)


PIPELINE = Pipeline(version="1.0.0", model="bright", needs=Needs(modality="CT", slices_at_least=2), run=run)
"""
PATIENT_RULES = """\
rules:
  - {name: patient, when: {all: [{attribute: Modality, is: CT}]}, pipeline: patient, send_to: [PEERS]}
"""


BRIEF = "from datetime import timedelta; from gateway.engine import Worker; Worker.stop.__defaults__ = (timedelta(seconds=2),)"
"""How long a host that is stopped lets its jobs end: not twenty seconds."""


@pytest.fixture
def host(database_url: str, tmp_path: Path, triton: str) -> Iterator[Host]:
    """`host("name", *arguments)` is a machine: a data_dir and a port of its own, the store, the database and the PACS of all."""
    worlds: list[World] = []
    (tmp_path / "pacs").mkdir()

    def machine(name: str, *arguments: str, store: Path = tmp_path / "store", **more: object) -> World:
        pacs = {"name": "pacs", "protocol": "folder", "path": str(tmp_path / "pacs")}
        pipelines = [str(Path(__file__).parent / "pipelines"), str(tmp_path / "pipelines")]
        settings = {
            "store": {"folder": str(store), "keep_free_bytes": 0},
            "gateway": {
                "data_dir": str(tmp_path / name / "var"),
                "pipelines": pipelines[: 1 + (tmp_path / "pipelines").exists()],
            },
        }
        world = World(
            tmp_path / name, database_url, triton, (pacs,), settings=settings, arguments=arguments, **more
        )  # fmt: skip
        worlds.append(world)
        return world

    yield machine
    for world in worlds:
        world.__exit__()


only_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def assert_done_once(world: World, pacs: Path, *every: Sequence[Dataset]) -> None:
    """One job a series, done once; its SEG and its SR under one UID each, in the PACS once, with the bytes of the store."""
    with world.database() as db, db() as session:
        outputs = session.scalars(select(OutputInstance)).all()
        acts = Counter((event.act, event.job) for event in session.scalars(select(AuditEvent)))
        received = Counter(
            event.sop_instance_uid for event in session.scalars(select(AuditEvent)) if event.act == "instance.received"
        )
    jobs = world.jobs()
    assert sorted(job.series_instance_uid for job in jobs) == sorted(series[0].SeriesInstanceUID for series in every)
    assert {job.state for job in jobs} == {JobState.DONE}
    assert [acts["job.done", job.id] for job in jobs] == [1] * len(jobs)
    assert [acts["delivery.sent", job.id] for job in jobs] == [2] * len(jobs)
    assert received == {ds.SOPInstanceUID: 1 for series in every for ds in series}
    held = sorted(pacs.rglob("*.dcm"))
    assert sorted(dcmread(path).SOPInstanceUID for path in held) == sorted(output.sop_instance_uid for output in outputs)
    assert len(held) == 2 * len(every)
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in held} == {output.sha256 for output in outputs}


def receivers(world: World) -> list[str]:
    with world.database() as db, db() as session:
        return list(session.scalars(select(Filed.executor)))


def states(world: World) -> list[str]:
    with world.database() as db, db() as session:
        return list(session.scalars(select(Series.state)))


# Roles


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], set(Role)),
        (["work"], {Role.WORK}),
        (["receive"], {Role.RECEIVE}),
        (["receive,work"], {Role.RECEIVE, Role.WORK}),
        (["work", "receive", "web"], set(Role)),
        (["web"], {Role.WEB}),
    ],
)
def test_a_process_does_what_it_is_told_and_else_everything(only: list[str], expected: set[Role]) -> None:
    assert roles(only, database_url="postgresql+psycopg://h/d") == expected


@pytest.mark.parametrize(
    ("only", "url", "words"),
    [
        (["nothing"], "postgresql+psycopg://h/d", "expected receive or work or web"),
        ([""], "postgresql+psycopg://h/d", "expected receive or work or web"),
        (["work"], "sqlite:///gateway.db", "expected PostgreSQL"),
    ],
)
def test_what_a_process_cannot_do_alone_is_refused_in_words(only: list[str], url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        roles(only, database_url=url)


def test_serve_refuses_to_work_alone_on_sqlite(tmp_path: Path) -> None:
    world = World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", f"127.0.0.1:{free_port()}")

    ended = world.run("serve", "--only", "work")

    assert ended.returncode == 1
    assert "expected PostgreSQL" in ended.stderr


# Folders and what was filed


def test_a_folder_belongs_to_who_claimed_it_until_that_ends(tmp_path: Path) -> None:
    folder, alive = claim(tmp_path / "incoming", "host.0")
    with pytest.raises(BlockingIOError), holding(folder):
        pass

    alive.close()

    with holding(folder), pytest.raises(BlockingIOError), holding(folder):
        pass
    assert folders(tmp_path / "incoming") == [folder]


def test_series_are_settled_as_of_what_the_slowest_receiver_has_filed_but_not_for_ever(database_url: str) -> None:
    db = open_database(database_url)
    me, quick, slow, hung = (Hosts(db, name) for name in ("me", "quick", "slow", "hung"))
    assert me.filed(NOW) == NOW

    me.tell(NOW - timedelta(seconds=50))
    quick.tell(NOW - timedelta(seconds=1))
    slow.tell(NOW - timedelta(seconds=9))
    slow.tell(NOW - timedelta(seconds=7))

    assert me.filed(NOW) == NOW - timedelta(seconds=7)
    slow.tell(None)
    assert me.filed(NOW) == NOW - timedelta(seconds=1)
    hung.tell(NOW - timedelta(days=1))
    assert me.filed(NOW) == NOW - timedelta(seconds=60)
    assert Hosts(db, "me", alone=True).filed(NOW) == NOW
    db.kw["bind"].dispose()


@only_postgresql
def test_nobody_settles_as_of_a_time_that_has_not_come_to_the_database_and_a_clock_that_differs_is_told(
    database_url: str,
) -> None:
    db = open_database(database_url)
    here = datetime.now(UTC)
    fast, others = Hosts(db, "fast"), Hosts(db, "others")
    others.tell(here)

    as_of = fast.filed(here + timedelta(seconds=120))
    with capture_logs() as logs:
        fast.forget({"others"}, datetime.now(UTC))
        for seconds in (120, 125, 181):
            fast.forget({"others"}, here + timedelta(seconds=seconds))

    assert as_of == here
    assert ["s ahead of the database's" in line["reason"] for line in logs] == [True, True]  # once a minute
    assert " s behind the database's" in wrong_clock(db, here - timedelta(seconds=30))
    db.kw["bind"].dispose()


def test_who_has_no_doors_knows_since_when_the_first_of_the_others_has_them_open(database_url: str) -> None:
    db = open_database(database_url)
    me, early, late, older = (Hosts(db, name) for name in ("me", "early", "late", "of an older version"))
    assert me.listening_since() is None

    late.tell(NOW, NOW - timedelta(seconds=3))
    older.tell(NOW)

    assert me.listening_since() == NOW - timedelta(seconds=3)
    early.tell(NOW, NOW - timedelta(days=3))
    assert me.listening_since() == NOW - timedelta(days=3)
    early.tell(NOW, NOW)
    assert me.listening_since() == NOW - timedelta(seconds=3)
    assert Hosts(db, "me", alone=True).listening_since() is None
    db.kw["bind"].dispose()


def test_a_receiver_that_left_no_folder_is_not_waited_for(database_url: str) -> None:
    db = open_database(database_url)
    for executor, seconds in (("dead", 60), ("with folder", 60), ("just beginning", 1)):
        Hosts(db, executor).tell(NOW - timedelta(seconds=seconds))

    Hosts(db, "me").forget({"with folder"}, NOW)

    with db() as session:
        assert set(session.scalars(select(Filed.executor))) == {"with folder", "just beginning"}
    db.kw["bind"].dispose()


def test_a_receiver_whose_folders_were_taken_over_is_not_waited_for_any_longer(database_url: str) -> None:
    db = open_database(database_url)
    for executor in ("dead", "dead, of two folders", "living"):
        Hosts(db, executor).tell(NOW)

    Hosts(db, "me").forget({"dead, of two folders", "living"}, NOW, dead={"dead", "dead, of two folders"})

    with db() as session:
        assert set(session.scalars(select(Filed.executor))) == {"dead, of two folders", "living"}
    db.kw["bind"].dispose()


def test_who_inherits_tells_whose_folders_are_there_and_whose_were_taken_over(tmp_path: Path) -> None:
    store, told = Store(tmp_path / "store"), []
    books = Books(lambda _: None, dict, lambda _: None, lambda _: None, lambda _: None)
    for executor in ("dead", "half-dead"):
        claim(store.incoming, f"{executor}.0")[1].close()
    alive = [claim(store.incoming, f"{executor}.1")[1] for executor in ("half-dead", "living")]

    Heir(store, books=books, left=lambda *who: told.append(who)).look()

    assert told == [({"half-dead", "living"}, {"dead", "half-dead"})]
    for file in alive:
        file.close()


def test_a_journal_that_cannot_be_read_holds_up_no_other_and_is_tried_again(tmp_path: Path) -> None:
    store, told = Store(tmp_path / "store"), []
    books = Books(lambda _: None, dict, lambda _: None, lambda _: None, lambda _: None)
    for executor in ("broken", "dead"):
        claim(store.incoming, f"{executor}.0")[1].close()
    (unreadable := folders(store.incoming)[0] / "1.journal").mkdir()
    heir = Heir(store, books=books, left=lambda *who: told.append(who))

    with capture_logs() as logs:
        heir.look()
    unreadable.rmdir()
    heir.look()

    assert told == [({"broken"}, {"dead"}), (set(), {"broken"})]
    assert [one["error"] for one in logs if one["event"] == "inherit.failed"] == ["IsADirectoryError"]


def test_a_store_folder_that_is_not_the_one_of_the_database_is_refused(database_url: str, tmp_path: Path) -> None:
    db = open_database(database_url)
    for name in ("store", "other"):
        (tmp_path / name).mkdir()
    share(tmp_path / "store", db=db)
    share(tmp_path / "store", db=db)

    with pytest.raises(ConfigError, match="expected the folder in which all files of this database are"):
        share(tmp_path / "other", db=db)

    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["store.id"]
    db.kw["bind"].dispose()


# Hosts


@only_postgresql
def test_one_host_receives_and_another_works(host: Host, tmp_path: Path) -> None:
    series = ct_series(SLICES)
    receiving, working = host("receiving", *RECEIVE), host("working", *WORK)
    receiving.start()
    assert receiving.send(series) == [0x0000] * SLICES
    receiving.wait_until(lambda: all(map(receiving.held, series)))
    assert states(receiving) == [SeriesState.RECEIVING]

    working.start()
    working.wait_settled()

    assert_done_once(working, tmp_path / "pacs", series)
    assert not working.listens()
    assert working.ingests == []
    assert (working.stop(), receiving.stop()) == (0, 0)
    assert receivers(working) == []


@only_postgresql
def test_a_series_that_comes_to_two_hosts_makes_one_job(host: Host, tmp_path: Path) -> None:
    series = ct_series(2 * SLICES)
    first, second = host("first").start(), host("second").start()
    with_first, with_second = associate(first.port, series), associate(second.port, series)
    for one, other in zip(series[::2], series[1::2], strict=True):
        assert store(with_first, one) == store(with_second, other) == 0x0000
    with_first.release()
    first.wait_until(lambda: all(map(first.held, series)))
    assert states(first) == [SeriesState.RECEIVING]

    with_second.release()
    first.wait_ended(series)

    assert_done_once(first, tmp_path / "pacs", series)


@only_postgresql
def test_of_two_workers_each_takes_jobs_and_none_is_done_twice(host: Host, tmp_path: Path) -> None:
    every = [ct_series(SLICES, seed=seed) for seed in range(6)]
    receiving = host("receiving", *RECEIVE).start()
    host("first", *WORK).start()
    host("second", *WORK).start()

    for series in every:
        receiving.send(series)
    receiving.wait_settled(len(every))

    assert_done_once(receiving, tmp_path / "pacs", *every)


@only_postgresql
@pytest.mark.parametrize("point", ["settle.committed", "run.started", "run.stored", "run.committed", "deliver.sent"])
def test_the_work_of_a_host_that_dies_is_done_by_another_without_anybody_acting(host: Host, tmp_path: Path, point: str) -> None:
    series = ct_series(SLICES)
    receiving = host("receiving", *RECEIVE).start()
    dying, living = host("dying", *WORK).start(crash_at=point), host("living", *WORK)
    receiving.send(series)
    dying.wait_for_death()

    living.start()
    living.wait_settled(seconds=60)

    assert_done_once(receiving, tmp_path / "pacs", series)


@only_postgresql
def test_a_job_under_way_on_a_host_that_is_killed_goes_to_the_one_that_lives(host: Host, tmp_path: Path) -> None:
    world, other, go = _two_workers_with_a_patient_job(host, tmp_path)
    world.kill()
    go.touch()

    other.wait_settled(seconds=60)

    assert_done_once(other, tmp_path / "pacs", ct_series(SLICES))


@only_postgresql
def test_a_job_that_does_not_end_before_its_host_is_stopped_goes_to_the_one_that_lives(host: Host, tmp_path: Path) -> None:
    world, other, go = _two_workers_with_a_patient_job(host, tmp_path, but=BRIEF)
    assert world.stop() == 0
    go.touch()

    other.wait_settled(seconds=60)

    assert_done_once(other, tmp_path / "pacs", ct_series(SLICES))


def _two_workers_with_a_patient_job(host: Host, folder: Path, **more: str) -> tuple[World, World, Path]:
    """The one that runs the job, the other, and the file that lets the job go on."""
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "patient.py").write_text(PATIENT.replace("GO", str(folder / "go")))
    world = host("world", rules=PATIENT_RULES, **more).start()
    world.send(ct_series(SLICES))
    world.wait_until(lambda: [job.state for job in world.jobs()] == [JobState.RUNNING])
    return world, host("other", *WORK, rules=PATIENT_RULES).start(), folder / "go"


@only_postgresql
def test_a_host_that_hangs_keeps_its_job_and_what_it_does_after_it_lost_its_lock_is_not_written_twice(
    host: Host, tmp_path: Path
) -> None:
    """It is not fenced: while it holds its lock its job is its own. Without it another host does the job, and it comes too late."""
    world, other, go = _two_workers_with_a_patient_job(host, tmp_path)
    assert world.process is not None
    with world.database() as db:
        mine = _holders(db, before=other)
        os.kill(world.process.pid, signal.SIGSTOP)
        go.touch()
        time.sleep(3)  # three looks of the other
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]

        with db() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
        other.wait_settled(seconds=60)
        assert_done_once(other, tmp_path / "pacs", ct_series(SLICES))

        os.kill(world.process.pid, signal.SIGCONT)
        world.wait_until(lambda: world.logged("reaper.interrupted"))
        assert world.stop() == 0  # what it had in hand has ended
    assert_done_once(other, tmp_path / "pacs", ct_series(SLICES))


def _holders(db: Database, *, before: World) -> int:
    """The session that holds the lock of the host that was there before `before`: it took it first."""
    query = (
        "SELECT activity.pid FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)"
        " WHERE locktype = 'advisory' AND classid = 7401 ORDER BY activity.backend_start LIMIT 1"
    )
    before.wait_until(lambda: before.logged("gateway.started"))
    with db() as session:
        return session.execute(text(query)).scalar_one()


@only_postgresql
def test_what_a_dead_receiver_had_acknowledged_is_filed_by_another_host(host: Host, tmp_path: Path) -> None:
    series = ct_series(SLICES)
    working = host("working", *WORK).start()
    dying = host("dying", *RECEIVE).start(crash_at="receive.filed")
    acknowledged = [ds for ds, status in zip(series, dying.send(series), strict=True) if status == 0x0000]
    dying.wait_for_death()
    assert acknowledged

    working.wait_until(lambda: all(map(working.held, acknowledged)))
    working.wait_until(lambda: receivers(working) == [])
    again = host("again", *RECEIVE).start()
    again.send([ds for ds in series if ds not in acknowledged])
    working.wait_ended(series)

    assert folders(working.store.work) != []
    assert [path.name.rpartition(".")[0] for path in folders(working.store.incoming)] == receivers(working)


@only_postgresql
def test_half_files_of_the_living_stay_and_those_of_the_dead_go(host: Host) -> None:
    living, dying = host("living", *WORK).start(), host("dying", *WORK).start()
    assert len(folders(living.store.work)) == 2

    dying.kill()

    living.wait_until(lambda: len(folders(living.store.work)) == 1)
    assert living.process.poll() is None


@only_postgresql
def test_a_host_with_another_store_folder_is_refused(host: Host, tmp_path: Path) -> None:
    host("first").start()

    ended = host("second", store=tmp_path / "not mounted").run("serve")

    assert ended.returncode == 1
    assert "expected the folder in which all files of this database are" in ended.stderr


# Upgrades and restarts


@pytest.mark.parametrize("point", ["settle.committed", "run.started", "run.committed", "deliver.started"])
def test_work_that_an_older_gateway_left_goes_on_after_the_upgrade(
    host: Host, database_url: str, tmp_path: Path, point: str
) -> None:
    series = ct_series(SLICES)
    world = host("world").start(crash_at=point)
    world.send(series)
    world.wait_for_death()
    engine = open_engine(database_url)
    migrations.downgrade(engine, "0002")
    assert migrations.state(engine) is Schema.OLDER
    engine.dispose()

    world.start()
    world.wait_settled()

    assert_done_once(world, tmp_path / "pacs", series)


def test_a_gateway_that_starts_before_its_postgresql_waits_for_it(own_postgres: OwnPostgres, tmp_path: Path) -> None:
    own_postgres.stop()
    with (
        World(tmp_path / "world", own_postgres.url, f"127.0.0.1:{free_port()}") as world,
        (world.folder / "log").open("ab") as log,
    ):
        world.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(world.config)], stdout=log, stderr=log
        )
        world.wait_until(lambda: world.logged("database.awaited"))

        own_postgres.start()

        world.wait_until(lambda: world.logged("gateway.started"))
        assert len(world.logged("database.awaited")) == 1
        assert world.stop() == 0


def test_a_postgresql_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    settings = {
        "gateway": {"data_dir": tmp_path / "var"},
        "database": {"url": f"postgresql+psycopg://h@127.0.0.1:{free_port()}/d"},
    }

    with capture_logs() as logged, pytest.raises(ConfigError, match="PostgreSQL does not answer"):
        reach(Config.model_validate(settings), patience=timedelta(seconds=0.7))

    assert [line["event"] for line in logged] == ["database.awaited"]


def test_a_postgresql_that_is_restarted_under_work_loses_nothing_and_doubles_nothing(
    own_postgres: OwnPostgres, tmp_path: Path, triton: str
) -> None:
    every = [ct_series(SLICES, seed=seed) for seed in range(4)]
    with World(tmp_path / "world", own_postgres.url, triton) as world:
        world.start()
        for series in every[:2]:
            world.send(series)
        world.wait_until(world.jobs)

        own_postgres.stop()
        statuses = world.send(every[2])
        own_postgres.start()
        statuses += world.send(every[3])

        assert statuses == [0x0000] * (2 * SLICES)
        world.wait_settled(len(every))
        assert_done_once(world, world.folder / "pacs", *every)


def test_a_file_of_sqlite_that_is_replaced_under_a_gateway_ends_it_and_it_is_not_served_unasked(tmp_path: Path) -> None:
    """What was acknowledged went on into the file that nobody has any more, and no command of ours saw it."""
    early, late = ct_series(SLICES, seed=1), ct_series(SLICES, seed=2)
    file, backup = tmp_path / "gateway.db", tmp_path / "backup.db"
    with World(tmp_path, f"sqlite:///{file}", f"127.0.0.1:{free_port()}") as world:
        world.start().send(early)
        world.wait_until(lambda: all(map(world.held, early)))
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        world.send(late)
        world.wait_until(lambda: all(map(world.held, late)))

        for name in ("gateway.db-wal", "gateway.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        backup.rename(file)

        assert world.wait_for_death() == 1
        assert "its file was replaced" in world.logged("database.older")[0]["reason"]
        assert "say so with `gateway db restored`" in world.run("serve").stderr
        assert f"{SLICES} files in" in world.run("db", "restored").stdout


def test_a_standby_that_lacks_the_last_commits_is_noticed_and_what_was_acknowledged_is_filed_again(
    own_postgres: OwnPostgres, tmp_path: Path, triton: str
) -> None:
    early, late = ct_series(SLICES, seed=1), ct_series(SLICES, seed=2)
    data, standby = own_postgres.folder / "data", own_postgres.folder / "standby"
    shared = {"store": {"folder": str(tmp_path / "store"), "keep_free_bytes": 0}}
    with (
        World(tmp_path / "world", own_postgres.url, triton, settings=shared) as world,
        World(tmp_path / "idle", own_postgres.url, triton, settings=shared, arguments=RECEIVE) as idle,
    ):
        world.start().send(early)
        idle.start()
        world.wait_settled()
        own_postgres.stop()
        subprocess.run(["cp", "-a", data, standby], check=True)
        own_postgres.start()
        world.send(late)
        world.wait_until(lambda: all(map(world.held, late)))
        time.sleep(2)  # so that who wrote nothing has seen it

        own_postgres.stop()
        data.rename(own_postgres.folder / "lost")
        standby.rename(data)
        (data / "standby.signal").touch()
        own_postgres.start()
        time.sleep(3)  # a standby may be behind: nothing follows from that
        assert (world.process.poll(), idle.process.poll()) == (None, None)
        own_postgres.run("pg_ctl", "-w", "promote")

        assert (world.wait_for_death(), idle.wait_for_death()) == (1, 1)
        assert "a standby took over that lacks the last commits" in world.logged("database.older")[0]["reason"]
        assert "say so with `gateway db restored`" in world.run("serve").stderr
        assert world.run("db", "restored").returncode == 0
        world.start()
        world.wait_until(lambda: all(map(world.held, late)))
        assert world.run("audit", "verify").returncode == 0
