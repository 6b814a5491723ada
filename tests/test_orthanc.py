"""What comes to a real Orthanc is worked on once, and its results are back there, whichever side is restarted when."""

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_rescale
from sqlalchemy import select

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.errors import Unreachable
from gateway.fetching import fetch
from gateway.peers import load_protocols, make_peer
from gateway.rows.retrieval import Retrieval, RetrievalState, WatchMark
from gateway.rows.tables import DeliveryState, JobState
from gateway.rows.trail import AuditEvent
from tests.orthanc_fixture import (
    a_token,
    modalities,
    orthanc_with_plugin,
    stored_in,
    wait_read,
    wait_stable,
    wait_watching,
    world_beside,
)
from tests.peers_fixture import Orthanc, data_set_sha256, running_http, running_orthanc, running_tcp
from tests.ports import free_port
from tests.synthetic import ct_series, part10
from tests.test_kill import FETCHING
from tests.world import RULES, World, retention_took, send

SLICES = 6


@pytest.fixture
def orthanc(tmp_path):
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc", StableAge=1) as running:
        yield running


@pytest.mark.parametrize("peer", [{}, {"dicomweb": ""}, {"take": "studies"}], ids=str)
def test_what_comes_to_orthanc_is_worked_on_and_its_results_are_back_there(orthanc, tmp_path, triton, peer):
    series = ct_series(SLICES)
    with world_beside(orthanc, tmp_path, triton, **peer) as world:
        world.start()
        wait_watching(world)

        stored_in(orthanc, series)
        world.wait_settled()

        assert [job.state for job in world.jobs()] == [JobState.DONE]
        assert {delivery.state for delivery in world.deliveries()} == {DeliveryState.PROVED}
        assert modalities(orthanc) == ["CT", "SEG", "SR"]
        wait_read(world, orthanc)
        assert len(world.jobs()) == 1
        with world.database() as db, db() as session:
            assert [(row.state, row.count) for row in session.scalars(select(Retrieval))] == [(RetrievalState.DONE, SLICES)]
            assert "retrieval.done" in set(session.scalars(select(AuditEvent.act)))


def assert_done_once(world, orthanc, *every):
    """One job a series and its results, here and in Orthanc, and nothing else."""
    assert sorted(job.series_instance_uid for job in world.jobs()) == sorted(series[0].SeriesInstanceUID for series in every)
    assert {job.state for job in world.jobs()} == {JobState.DONE}
    assert {delivery.state for delivery in world.deliveries()} == {DeliveryState.PROVED}
    assert modalities(orthanc) == sorted(["CT", "SEG", "SR"] * len(every))
    assert world.run("audit", "verify").returncode == 0


@pytest.mark.parametrize("point", [*FETCHING, "journal.synced", "receive.committed"])
def test_after_a_death_while_a_series_is_taken_it_is_worked_on_once(orthanc, tmp_path, triton, point):
    series = ct_series(SLICES)
    with world_beside(orthanc, tmp_path, triton) as world:
        world.start()
        wait_watching(world)
        world.kill()
        stored_in(orthanc, series)

        world.start(crash_at=point)
        assert world.wait_for_death() == -signal.SIGKILL
        world.start()
        world.wait_settled()

        assert_done_once(world, orthanc, series)
        assert world.story(series).series.revision == 1


def by_storescu(folder: Path, series, port: int) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("DCMTK is not installed (Debian: dcmtk)")
    folder.mkdir()
    for ds in series:
        ds.save_as(folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
    command = [program, "-aet", "AIGATEWAY", "-aec", "ORTHANC", "+sd", "127.0.0.1", str(port), str(folder)]
    at_once = os.environ | {"TCP_NODELAY": "1"}  # DCMTK and Orthanc wait 40 ms for each other otherwise, several times a file
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=at_once)


def an_hour_passes(world) -> None:
    """While the gateway is away: what it wrote of Orthanc's log is an hour older."""
    with world.database() as db, db.begin() as session:
        for mark in session.scalars(select(WatchMark)):
            mark.at -= timedelta(hours=1)


@pytest.mark.timeout(900)
def test_twenty_series_are_worked_on_once_whatever_fails_and_whoever_is_killed(tmp_path, triton):
    """Series come to Orthanc, with the plugin in it, while the gateway answers 500, while it is away, and while either is killed."""
    chance = random.Random(11)
    every = [ct_series(SLICES, 32, 32, seed=seed) for seed in range(20)]
    folder, ports, web = tmp_path / "orthanc", (free_port(), free_port()), free_port()
    folder.mkdir()
    plugged = partial(
        orthanc_with_plugin, folder, ports=ports, url=f"http://127.0.0.1:{web}", token=a_token(tmp_path / "world"), StableAge=1
    )  # fmt: skip

    def come(*numbers: int) -> None:
        for number in numbers:
            by_storescu(tmp_path / str(number), every[number], ports[0])

    with ExitStack() as stack:
        orthanc = stack.enter_context(plugged())
        with world_beside(orthanc, tmp_path, triton, settings={"web": {"port": web}}) as world:
            world.start()
            wait_watching(world)
            world.kill()
            with running_http(*[(500, {}, b"")] * 1000, port=web) as (_, refused):
                come(0, 1)
                world.wait_until(lambda: len(refused) > 1)
            come(2, 3, 4)
            an_hour_passes(world)
            world.start()

            for number in range(5, len(every)):
                come(number)
                time.sleep(chance.uniform(0, 1))
                if number % 5 == 1:
                    world.kill()
                    world.start()
                elif number % 5 == 3:
                    stack.close()  # maybe before the series was stable: then Orthanc will never say that it is
                    orthanc = stack.enter_context(plugged())
            world.wait_settled(len(every), seconds=300)
            world.wait_until(lambda: modalities(orthanc) == sorted(["CT", "SEG", "SR"] * len(every)), seconds=120)

            wait_read(world, orthanc)
            assert_done_once(world, orthanc, *every)
            assert {world.story(series).series.revision for series in every} == {1}


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"[{}]", b"null", b'"Orthanc"'])
def test_a_service_that_is_no_orthanc_is_said_to_be_something_else(answer):
    asks = [
        lambda peer: peer.echo(), lambda peer: peer.newest(), lambda peer: peer.news(1), lambda peer: peer.patient_of("2.25.1"),
        lambda peer: peer.series("one"), lambda peer: peer.listing("2.25.1", "2.25.2"), lambda peer: peer.studies_of("id"),
    ]  # fmt: skip
    for ask in asks:
        with running_http(*[(200, {}, answer)] * 3) as (url, _):
            peer = make_peer({"name": "orthanc", "protocol": "orthanc", "url": url}, protocols=load_protocols())
            with suppress(Unreachable):  # some of them can be understood all the same
                ask(peer)


def test_an_orthanc_is_watched_from_when_it_is_added_and_no_longer_when_it_is_disabled(orthanc, tmp_path, triton):
    first, second = ct_series(SLICES, 32, 32, seed=1), ct_series(SLICES, 32, 32, seed=2)
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", triton) as world:
        world.start()
        added = world.run("peers", "add", "orthanc", "orthanc", f"url={orthanc.url}", "take=series", "quiet_seconds=3")
        assert added.returncode == 0, added.stderr
        wait_watching(world)
        stored_in(orthanc, first)
        world.wait_settled()
        assert world.run("peers", "disable", "orthanc").returncode == 0
        world.wait_until(lambda: len(world.logged("peers.changed")) == 2)
        stored_in(orthanc, second)
        wait_stable(world, orthanc)
        time.sleep(2)  # the first was looked at within one
        assert [job.series_instance_uid for job in world.jobs()] == [first[0].SeriesInstanceUID]

        assert world.run("peers", "enable", "orthanc").returncode == 0

        world.wait_settled(2)
        assert {job.state for job in world.jobs()} == {JobState.DONE}


def test_a_series_whose_files_retention_took_comes_again_for_who_orders_something_on_it(orthanc, tmp_path, triton):
    series = ct_series(SLICES)
    with world_beside(orthanc, tmp_path, triton, rules=RULES.replace("is: CT", "is: MR")) as world:
        world.start()
        wait_watching(world)
        stored_in(orthanc, series)
        world.wait_settled()
        wait_read(world, orthanc)
        retention_took(world, series)

        with world.database() as db:
            fetch.ask("orthanc", series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "bright", actor="tests", now=datetime.now(UTC), db=db)  # fmt: skip

        world.wait_until(lambda: [job.state for job in world.jobs()] == [JobState.DONE])


def test_an_order_that_cannot_be_followed_when_its_series_is_here_is_told_in_the_log(orthanc, tmp_path):
    series = ct_series(SLICES, 32, 32)
    with world_beside(orthanc, tmp_path, "127.0.0.1:1") as world:
        world.start()
        wait_watching(world)
        stored_in(orthanc, series)
        with world.database() as db:
            fetch.ask("orthanc", series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "gone", actor="tests", now=datetime.now(UTC), db=db)  # fmt: skip

        world.wait_until(lambda: world.logged("order.refused"))

        (told,) = world.logged("order.refused")
        assert told["series_instance_uid"] == series[0].SeriesInstanceUID
        assert told["reason"].startswith("expected one of the pipelines ")


def test_an_orthanc_that_cannot_be_read_for_a_while_is_told_of_and_so_is_its_return(tmp_path):
    ports = free_port(), free_port()
    (tmp_path / "orthanc").mkdir()
    with world_beside(Orthanc(0, f"http://127.0.0.1:{ports[1]}"), tmp_path, "127.0.0.1:1") as world:
        world.but = "from datetime import timedelta\nfrom gateway.fetching import watch\nwatch._PATIENCE = timedelta(seconds=1)"
        world.start()

        def told():
            with world.database() as db, db() as session:
                mine = select(AuditEvent).where(AuditEvent.act.in_((Act.SOURCE_AWAY, Act.SOURCE_BACK))).order_by(AuditEvent.id)
                return [(one.act, one.detail["peer"], one.detail.get("reason")) for one in session.scalars(mine)]

        world.wait_until(told)
        with running_orthanc(tmp_path / "orthanc", ports=ports):
            world.wait_until(lambda: len(told()) > 1)

        assert told() == [
            (Act.SOURCE_AWAY, "orthanc", "no connection: connection refused"), (Act.SOURCE_BACK, "orthanc", None),
        ]  # fmt: skip


def test_a_gateway_that_stops_does_not_wait_for_an_orthanc_that_hangs(tmp_path):
    asked, over = threading.Event(), threading.Event()

    def hang(peer: socket.socket) -> None:
        peer.recv(65536)
        asked.set()
        over.wait(60)

    with (
        running_tcp(hang) as port,
        world_beside(Orthanc(0, f"http://127.0.0.1:{port}"), tmp_path, "127.0.0.1:1", timeout_seconds=60) as world,
    ):
        world.start()
        assert asked.wait(30)
        began = time.monotonic()

        assert world.stop() == 0

        assert time.monotonic() - began < 30
        over.set()


def test_a_series_that_is_deleted_while_it_is_taken_is_not_worked_on_by_half(orthanc, tmp_path, triton):
    series = ct_series(SLICES)
    with world_beside(orthanc, tmp_path, triton, dicomweb="", connections=1) as world:
        world.start()
        wait_watching(world)
        world.kill()
        stored_in(orthanc, series)
        world.start(crash_at="journal.synced")
        assert world.wait_for_death() == -signal.SIGKILL
        orthanc.clear()

        world.start()
        wait_read(world, orthanc, settled=False)

        world.wait_until(lambda: any(map(world.held, series)))
        world.wait_until(lambda: f"orthanc has {SLICES} instances of the series" in world.story(series).series.reason)
        assert world.jobs() == []
        with world.database() as db, db() as session:
            (row,) = session.scalars(select(Retrieval))
            (event,) = session.scalars(select(AuditEvent).where(AuditEvent.act == "retrieval.done"))
        assert (row.count, row.reason) == (SLICES, "the peer does not have it")
        assert (event.outcome, event.detail["reason"]) == (audit.MINOR, row.reason)


@pytest.mark.parametrize("is_seen", [True, False])
def test_another_orthanc_in_its_place_is_read_from_its_beginning(orthanc, tmp_path, triton, is_seen):
    """Its log is shorter than what was read of the one before, whether or not anybody has seen that one away."""
    series = ct_series(SLICES, 32, 32)
    with world_beside(orthanc, tmp_path, triton) as world:
        world.start()
        wait_watching(world)
        stored_in(orthanc, series)
        if is_seen:
            world.stop()
        with world.database() as db, db.begin() as session:
            for mark in session.scalars(select(WatchMark)):
                mark.position = 1000
        if is_seen:
            world.start()

        world.wait_settled()

        assert [job.state for job in world.jobs()] == [JobState.DONE]
        assert len(world.logged("watch.log_is_new")) == 1


def test_a_derived_series_and_a_map_are_back_in_orthanc_and_start_nothing_when_they_are_sent_here_again(
    orthanc, tmp_path, triton
):
    series = ct_series(SLICES)
    with world_beside(orthanc, tmp_path, triton, rules=RULES.replace("bright", "smooth")) as world:
        world.start()
        wait_watching(world)
        stored_in(orthanc, series)
        world.wait_settled()

        assert {(delivery.state, delivery.reason) for delivery in world.deliveries()} == {(DeliveryState.PROVED, "")}
        assert modalities(orthanc) == ["CT", "CT", "OT"]
        outputs = [dcmread(world.store.path(one.sha256)) for one in world.story(series).jobs[0].outputs]
        (change,), made = ([one for one in outputs if (one.Modality == "OT") == is_map] for is_map in (True, False))
        smooth = {one.SourceImageSequence[0].ReferencedSOPInstanceUID: one for one in made}
        for image in series:
            hounsfield = apply_rescale(image.pixel_array, image)
            one = smooth[image.SOPInstanceUID]
            assert np.allclose(apply_rescale(one.pixel_array, one), (hounsfield + np.roll(hounsfield, -1, axis=1)) / 2, atol=0.05)
        for one in outputs:
            assert data_set_sha256(orthanc.file(one.SOPInstanceUID)) == data_set_sha256(part10(one))

        assert set(send(outputs, world.port, calling="PACS")) == {0x0000}
        world.wait_settled(3)
        wait_read(world, orthanc)
        assert len(world.jobs()) == 1
        for one in (made, [change]):
            assert "made by this gateway, starts no job" in world.story(one).series.reason
