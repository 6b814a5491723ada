"""What comes to a real Orthanc is worked on once, and its results are back there, whichever side is restarted when."""

import random
import signal
import time
from contextlib import ExitStack

import pytest
from sqlalchemy import select

from gateway.retrieval import Retrieval, RetrievalState
from gateway.tables import DeliveryState, JobState
from gateway.trail import AuditEvent
from tests.orthanc_fixture import modalities, stored_in, wait_watching, world_beside
from tests.peers_fixture import free_port, running_orthanc
from tests.synthetic import ct_series
from tests.test_kill import FETCHING

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
        time.sleep(4)  # what came back becomes stable too
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


def test_series_that_come_while_either_side_is_killed_are_worked_on_once(tmp_path, triton):
    chance = random.Random(11)
    every = [ct_series(SLICES, seed=seed) for seed in range(4)]
    folder, ports = tmp_path / "orthanc", (free_port(), free_port())
    folder.mkdir()
    with ExitStack() as stack:
        orthanc = stack.enter_context(running_orthanc(folder, ports=ports, StableAge=1))
        with world_beside(orthanc, tmp_path, triton) as world:
            world.start()
            wait_watching(world)
            for number, series in enumerate(every):
                stored_in(orthanc, series)
                time.sleep(chance.uniform(0, 2))
                if number % 2:
                    world.kill()
                    world.start()
                else:
                    stack.close()  # before the series was stable: Orthanc will never say that it is
                    orthanc = stack.enter_context(running_orthanc(folder, ports=ports, StableAge=1))
            world.wait_settled(len(every), seconds=150)
            world.wait_until(lambda: modalities(orthanc) == sorted(["CT", "SEG", "SR"] * len(every)))

            assert_done_once(world, orthanc, *every)
            assert {world.story(series).series.revision for series in every} == {1}
