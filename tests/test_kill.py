"""Nothing is lost and nothing is made twice, whenever the gateway dies (SIGKILL) and however often."""

import ast
import hashlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, text

import gateway
from gateway import crash
from gateway.rows.tables import DeliveryState, Instance, JobState, OutputInstance, SeriesState
from gateway.rows.trail import AuditEvent
from tests.peers_fixture import ScriptedScp, data_set
from tests.ports import free_port
from tests.synthetic import ct_series, part10
from tests.world import RULES, World, associate, pacs, send_over

SLICES = 6
PEERS = 2


@contextmanager
def world_with_two_peers(folder: Path, database_url: str, triton: str, **more: object) -> Iterator[tuple[World, ScriptedScp]]:
    """A folder, which shows what a PACS holds in the end, and an SCP, which counts what it was sent."""
    port = free_port()
    peers = (
        {"name": "folder", "protocol": "folder", "path": str(folder / "pacs")},
        {"name": "scp", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "SCP"},
    )
    with World(folder, database_url, triton, peers, **more) as world, pacs(port) as scp:
        yield world, scp


def send_some(world: World, series: Sequence[Dataset]) -> tuple[list[Dataset], list[Dataset]]:
    """Send until the gateway dies; what it acknowledged until then, and what a scanner sends again.

    That is what nobody acknowledged; or, where only the release had no answer, the last one, for the job has failed.
    """
    if not world.listens():  # pynetdicom leaves the socket of a refused connection open
        return [], list(series)
    try:
        association = associate(world.port, series)
    except ConnectionError:
        return [], list(series)
    statuses = send_over(association, series)
    taken = [ds for ds, status in zip(series, statuses, strict=True) if status == 0x0000]
    left = [ds for ds in series if ds not in taken]
    return taken, left or ([] if association.is_released else [series[-1]])


def send_all(world: World, series: Sequence[Dataset]) -> None:
    """A scanner sends until everything is acknowledged and it was let go."""
    left = list(series)
    end = time.monotonic() + 180
    while left:
        assert time.monotonic() < end, "nobody takes the series"
        _, left = send_some(world, left)
        time.sleep(0.05)


def assert_kept(world: World, acknowledged: Iterable[Dataset]) -> None:
    """What was acknowledged is in the database, and its bytes are on the disk."""
    with world.database() as db, db() as session:
        for ds in acknowledged:
            row = session.get_one(Instance, ds.SOPInstanceUID)
            held = world.store.path(row.sha256).read_bytes()
            assert hashlib.sha256(held).hexdigest() == row.sha256
            assert data_set(held) == data_set(part10(ds))


def assert_done_once(world: World, *every: Sequence[Dataset]) -> None:
    """One job a series, done; its SEG and its SR, under one UID each, delivered to each peer; nothing half done anywhere."""
    with world.database() as db, db() as session:
        outputs = session.scalars(select(OutputInstance)).all()
        acts = Counter((event.act, event.job) for event in session.scalars(select(AuditEvent)))
    jobs, deliveries = world.jobs(), world.deliveries()
    assert sorted(job.series_instance_uid for job in jobs) == sorted(series[0].SeriesInstanceUID for series in every)
    assert {job.state for job in jobs} == {JobState.DONE}
    assert [acts["job.done", job.id] for job in jobs] == [1] * len(jobs)
    assert {delivery.state for delivery in deliveries} == {DeliveryState.PROVED}
    assert [acts["delivery.sent", job.id] for job in jobs] == [2 * PEERS] * len(jobs)
    assert [acts["delivery.proved", job.id] for job in jobs] == [2 * PEERS] * len(jobs)
    for series in every:
        story = world.story(series)
        assert story.series.state == SeriesState.COMPLETE
        assert story.instances == len(series)
        assert story.versions == 0
    held = {dcmread(path).SOPInstanceUID: path for path in world.pacs_files()}
    assert sorted(held) == sorted(output.sop_instance_uid for output in outputs)
    assert Counter(output.modality for output in outputs) == {"SEG": len(every), "SR": len(every)}
    assert [hashlib.sha256(held[output.sop_instance_uid].read_bytes()).hexdigest() for output in outputs] == [
        o.sha256 for o in outputs
    ]
    assert world.run("audit", "verify").returncode == 0
    assert [path for path in (world.folder / "var" / "store" / "incoming").iterdir() if path.is_file()] == []


def receptions(world: World, scp: ScriptedScp) -> list[int]:
    """How often each result came to the SCP; all that came are the bytes of a result."""
    expected = [data_set(path) for path in world.pacs_files()]
    assert set(scp.received) == set(expected)
    return [scp.received.count(bytes_) for bytes_ in expected]


def test_every_crash_point_stands_once_in_the_source_and_has_its_test() -> None:
    calls = [
        node.args[0].value
        for path in Path(gateway.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "crash_point"
    ]

    assert sorted(calls) == sorted(crash.POINTS)
    assert len(set(calls)) == len(calls)


DOOR = ("journal.synced", "association.ended")
PERFORMING = ("step.promised",)
RETAINING = ("retain.written", "retain.removed")
RETRACTING = ("retract.stored", "retract.committed")
FETCHING = ("fetch.wanted", "fetch.done")
SEEKING = ("priors.chosen", "priors.fetched", "priors.committed")
ELSEWHERE = (
    "elect.committed",
    *SEEKING,
    *FETCHING,
    *PERFORMING,
    "commit.reported",
    "prove.recorded",
    "prove.asked",
    "seal.appended",
    "collector.sent",
    "notice.told",
    "workitem.stored",
    "perform.committed",
    *RETAINING,
    *RETRACTING,
)
"""See below, test_commit, test_elect, test_told, test_chain, test_collector, test_orthanc, test_priors, test_perform and
test_performed.
"""


@pytest.mark.parametrize("point", [point for point in crash.POINTS if point not in ELSEWHERE])
def test_after_a_death_at_any_step_everything_is_done_and_done_once(
    point: str, database_url: str, tmp_path: Path, triton: str
) -> None:
    series = ct_series(SLICES)
    with world_with_two_peers(tmp_path / "world", database_url, triton) as (world, scp):
        world.start(crash_at=point)
        acknowledged, left = send_some(world, series)
        if point in DOOR:  # it takes an ingest process with it, then another; the gateway goes on
            world.wait_until(lambda: world.logged("ingest.died"))
            world.kill()
        assert world.wait_for_death() == -signal.SIGKILL

        world.start()
        world.wait_until(lambda: all(map(world.held, acknowledged)))
        assert_kept(world, acknowledged)
        if point != "association.ended":  # what was asked for before the answer got lost counts
            send_all(world, left)
        world.wait_until(lambda: all(map(world.held, series)))
        world.wait_settled()

        assert_kept(world, series)
        assert_done_once(world, series)
        assert max(receptions(world, scp)) <= (2 if point.startswith("deliver.") else 1)


def let_it_sweep(world: World) -> None:
    """There is one round a minute: the engine forgets those of this minute, so that the next start has one at once."""
    with world.database() as db, db.begin() as session:
        table = "workflow_status" if db.kw["bind"].dialect.name == "sqlite" else "dbos.workflow_status"
        session.execute(text(f"DELETE FROM {table} WHERE name = 'sweep'"))


@pytest.mark.parametrize("point", RETAINING)
def test_after_a_death_while_files_go_they_are_gone_and_nothing_else_is(
    point: str, database_url: str, tmp_path: Path, triton: str
) -> None:
    series = ct_series(SLICES)
    with World(tmp_path / "world", database_url, triton) as world:
        world.start()
        world.send(series)
        world.wait_settled()
        assert world.stop() == 0
        world.settings = {"retention": {"sources_days": 0, "outputs_days": 0}}
        world.config.write_text(world.toml())
        let_it_sweep(world)

        world.start(crash_at=point)
        assert world.wait_for_death() == -signal.SIGKILL
        let_it_sweep(world)
        world.start()
        world.wait_until(lambda: list((world.folder / "var" / "store").glob("??/*.dcm")) == [])

        assert len(world.pacs_files()) == 2
        assert {delivery.state for delivery in world.deliveries()} == {DeliveryState.PROVED}
        assert all(map(world.held, series))
        assert world.run("audit", "verify").returncode == 0


@pytest.mark.parametrize("point", RETRACTING)
def test_after_a_death_while_a_result_is_taken_back_each_has_one_note(
    point: str, database_url: str, tmp_path: Path, triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = ct_series(SLICES)
    with World(tmp_path / "world", database_url, triton) as world:
        world.start()
        world.send(series)
        world.wait_settled()
        (job,) = world.jobs()

        monkeypatch.setenv("GATEWAY_CRASH_AT", point)
        assert world.run("retract", str(job.id), "--reason", "quality").returncode == -signal.SIGKILL
        monkeypatch.delenv("GATEWAY_CRASH_AT")
        assert world.run("retract", str(job.id), "--reason", "quality").returncode == 0
        world.wait_settled()

        modalities = Counter(dcmread(path).Modality for path in world.pacs_files())
        assert modalities == {"SEG": 1, "SR": 1, "KO": 2}
        assert {delivery.state for delivery in world.deliveries()} == {DeliveryState.PROVED}
        assert world.run("audit", "verify").returncode == 0


def test_deaths_at_random_moments_lose_nothing_and_make_nothing_twice(database_url: str, tmp_path: Path, triton: str) -> None:
    chance = random.Random(7)
    every = [ct_series(SLICES, seed=seed) for seed in range(4)]
    with world_with_two_peers(tmp_path / "world", database_url, triton) as (world, scp):
        world.start()
        scanners = [threading.Thread(target=send_all, args=(world, series)) for series in every]
        for scanner in scanners:
            scanner.start()
        for _ in range(3):
            time.sleep(chance.uniform(0.1, 2.5))
            world.kill()
            world.start()
        for scanner in scanners:
            scanner.join()
        world.wait_until(lambda: all(world.held(ds) for series in every for ds in series))
        world.wait_settled(len(every))

        for series in every:
            assert_kept(world, series)
        assert_done_once(world, *every)
        assert min(receptions(world, scp)) >= 1


POISON = """\
rules:
  - {name: poison, when: {all: [{attribute: SeriesDescription, is: poison}]}, pipeline: poison, send_to: [PEERS]}
"""


def test_a_job_that_kills_its_process_three_times_fails_and_the_next_series_is_worked_on(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    poison, good = ct_series(SLICES, seed=1, SeriesDescription="poison"), ct_series(SLICES, seed=2)
    rules = POISON + RULES.removeprefix("rules:\n").replace(
        "- {fact: slices", "- {attribute: SeriesDescription, is: Axial}\n        - {fact: slices"
    )
    with World(tmp_path / "world", database_url, triton, rules=rules) as world:
        world.start()
        world.send(poison)
        for _ in range(3):
            assert world.wait_for_death() == -signal.SIGKILL
            world.start()
        world.wait_settled()
        world.send(good)
        world.wait_settled(2)

        (failed,) = world.story(poison).jobs
        assert (failed.job.state, failed.job.code) == (JobState.FAILED, "CRASH")
        assert "3 times" in failed.job.reason
        assert [story.job.state for story in world.story(good).jobs] == [JobState.DONE]
        assert len(world.pacs_files()) == 2
        assert world.process.poll() is None


def test_a_gateway_that_is_killed_leaves_no_process_of_its_own_behind(tmp_path: Path) -> None:
    models = Path(__file__).parent / "models"
    settings = {"triton": {"environment": str(Path(__file__).parent.parent / ".venv-triton"), "models": [str(models)]}}
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", "embedded", settings=settings) as world:
        world.start()
        world.send(ct_series(SLICES))
        world.wait_settled()
        children = psutil.Process(world.process.pid).children(recursive=True)
        assert "tritonserver" in {child.name() for child in children}

        world.kill()

        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
