"""A PostgreSQL that goes away while a gateway starts, or is away when it stops: it is said in words, and nobody is held up."""

import re
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.db import open_database
from tests.ports import free_port
from tests.postgres_fixture import OwnPostgres
from tests.synthetic import ct_series
from tests.world import World


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_goes_away_while_the_gateway_starts_is_told_and_the_next_start_serves(
    database_url: str, tmp_path: Path
) -> None:
    db = open_database(database_url)
    with db.begin() as session:  # it is gone for who writes that it has started
        body = "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END"
        session.execute(text(f"CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS '{body}'"))
        session.execute(text("CREATE TRIGGER gone AFTER INSERT ON gw_audit_event FOR EACH ROW EXECUTE FUNCTION gone()"))
    with World(tmp_path, database_url.replace("+psycopg", ""), f"127.0.0.1:{free_port()}") as world:
        ran = world.run("serve")

        assert ran.returncode == 1
        assert re.search(
            r"^the database failed while the gateway started \(\w+\): see to it, and start again$", ran.stderr, re.MULTILINE
        )
        assert not {"Traceback", "exception.uncaught"} & set(re.findall(r"[\w.]+", ran.stderr))

        with db.begin() as session:
            session.execute(text("DROP FUNCTION gone CASCADE"))
        db.kw["bind"].dispose()
        assert world.start().listens()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_whose_database_is_away_stops_all_the_same(
    own_postgres: OwnPostgres, tmp_path: Path, end: signal.Signals
) -> None:
    with World(tmp_path, own_postgres.url.replace("+psycopg", ""), f"127.0.0.1:{free_port()}") as world:
        world.start()
        own_postgres.stop()
        try:
            assert world._end(end) == 0
        finally:
            own_postgres.start()
        assert world.logged("gateway.stopped")


def test_a_database_that_is_away_is_told_in_a_sentence_and_not_four_times_a_second(
    own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    series = ct_series(2)
    with World(tmp_path, own_postgres.url, f"127.0.0.1:{free_port()}") as world:
        world.start()
        own_postgres.stop()
        assert world.send(series) == [0x0000] * 2
        world.wait_until(lambda: world.logged("receive.failed"))
        time.sleep(3)
        own_postgres.start()
        world.wait_until(lambda: all(map(world.held, series)))

        filings = [line for line in world.logged("receive.failed") if "what is acknowledged is kept" in line["reason"]]
        assert 1 <= len(filings) <= 5  # the filing's once a minute, and who tells the others how far it is, once a second
        assert '"stack"' not in world.log
