"""While nobody could come in, silence says nothing: a series is not taken for complete, nor given up, because we were away."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from gateway.rows.hosts import Filed
from gateway.rows.tables import JobState, Series
from tests.ports import free_port
from tests.postgres_fixture import OwnPostgres
from tests.synthetic import ct_series
from tests.world import World

SLICES = 6


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_series_whose_deadline_passes_while_the_gateway_is_away_waits_for_the_rest(
    end: str, database_url: str, tmp_path: Path, triton: str
) -> None:
    series = ct_series(SLICES, ImagesInAcquisition=SLICES)
    settings = {"completeness": {"quiet_seconds": 0.3, "deadline_seconds": 30, "at_deadline": "partial"}}
    with World(tmp_path, database_url.replace("+psycopg", ""), triton, settings=settings) as world:
        world.start()
        world.send(series[:2])
        world.wait_until(lambda: all(map(world.held, series[:2])))
        getattr(world, end)()
        with world.database() as db, db.begin() as session:  # as long as if it had been away for an hour
            (row,) = session.scalars(select(Series))
            session.execute(update(Series).values(last_received_at=row.last_received_at - timedelta(hours=1)))

        world.start()
        world.wait_until(lambda: " of 30 s" in world.story(series).series.reason)  # it was looked at
        world.send(series[2:])
        story = world.wait_ended(series)

        assert [(one.job.state, one.job.revision, one.job.partial) for one in story.jobs] == [(JobState.DONE, 1, "")]


def test_doors_that_were_closed_have_been_open_since_they_opened_again(own_postgres: OwnPostgres, tmp_path: Path) -> None:
    (ds,) = ct_series(1)
    settings = {"store": {"behind_seconds": 0.5}}
    address = own_postgres.url.replace("+psycopg", "")

    def opened_at(world: World):
        with world.database() as db, db() as session:
            return session.scalars(select(Filed.opened_at)).one()

    with World(tmp_path, address, f"127.0.0.1:{free_port()}", settings=settings) as world:
        world.start()
        world.wait_until(lambda: opened_at(world))
        before = opened_at(world)
        own_postgres.stop()
        try:
            assert world.send([ds]) == [0x0000]
            world.wait_until(lambda: world.logged("door.closed"))
        finally:
            own_postgres.start()

        world.wait_until(lambda: opened_at(world) > before)
        world.wait_until(lambda: world.held(ds))
