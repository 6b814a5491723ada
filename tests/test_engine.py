"""The engine: work is committed with its row, runs once an attempt, and outlives the worker and the database that did it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.engine import Queues, backoff, rank, settle_attempt, ticket, workflow_id
from tests.engine_fixture import HELD, QUICK, SINGLE, Journal, enqueue, worker
from tests.postgres_fixture import OwnPostgres


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_work_of_a_transaction_that_was_rolled_back_never_runs(database_url: str, tmp_path: Path, journal: Journal) -> None:
    enqueue(database_url, "rolled back", commit=False)
    enqueue(database_url, "committed")

    with worker(database_url, tmp_path):
        journal.wait_for("done committed")
        enqueue(database_url, "rolled back too", commit=False)
        enqueue(database_url, "last")
        journal.wait_for("done last")

    assert not [line for line in journal.lines if "rolled" in line]


def test_the_same_attempt_runs_once_and_another_runs_again(database_url: str, tmp_path: Path, journal: Journal) -> None:
    with worker(database_url, tmp_path):
        for attempt in ("1", "1", "2", "1"):
            enqueue(database_url, "row", attempt=attempt, lane=SINGLE)
        enqueue(database_url, "last", lane=SINGLE)
        journal.wait_for("done last")

    assert journal.count("done row") == 2


def test_delayed_work_waits_and_a_person_can_start_it_now(
    database_url: str, tmp_path: Path, journal: Journal, queues: Queues
) -> None:
    with worker(database_url, tmp_path):
        began = time.monotonic()
        enqueue(database_url, "soon", delay=1.5)
        enqueue(database_url, "in an hour", delay=3600)
        journal.wait_for("done soon")
        assert time.monotonic() - began >= 1.4
        assert journal.count("begun in an hour") == 0

        queues.start_now("work", "in an hour", "1")

        journal.wait_for("done in an hour")


def test_stat_goes_before_routine_before_background(database_url: str, tmp_path: Path, journal: Journal) -> None:
    for priority in ("background", "routine", "stat"):
        for n in range(2):
            enqueue(database_url, f"{priority} {n}", lane=SINGLE, rank=rank(priority, datetime(2026, 1, 2, tzinfo=UTC)) + n)

    with worker(database_url, tmp_path):
        journal.wait_for("done background 1")

    assert [line for line in journal.lines if line.startswith("begun")] == [
        f"begun {priority} {n}" for priority in ("stat", "routine", "background") for n in range(2)
    ]


def test_a_lane_runs_no_more_than_its_slots_and_does_not_hold_up_another(
    database_url: str, tmp_path: Path, journal: Journal
) -> None:
    with worker(database_url, tmp_path):
        for n in range(2):
            enqueue(database_url, f"wait for go {n}", lane=SINGLE)
        journal.wait_for("begun wait for go 0")
        enqueue(database_url, "other", lane=QUICK)
        journal.wait_for("done other")
        (tmp_path / "go").touch()
        journal.wait_for("done wait for go 1")

    assert journal.lines == [
        "begun wait for go 0",
        "begun other",
        "done other",
        "done wait for go 0",
        "begun wait for go 1",
        "done wait for go 1",
    ]


def test_work_of_a_lane_that_is_not_ready_stays_queued_and_goes_on_when_it_is(
    database_url: str, tmp_path: Path, journal: Journal, queues: Queues
) -> None:
    with worker(database_url, tmp_path):
        enqueue(database_url, "held back", lane=HELD)
        enqueue(database_url, "sleep 1 other")
        journal.wait_for("done sleep 1 other")
        assert journal.count("begun held back") == 0
        assert queues.is_alive("work", "held back", "1")

        (tmp_path / "ready").touch()

        journal.wait_for("done held back")


def test_what_a_stage_did_not_expect_is_written_down_and_the_worker_goes_on(
    database_url: str, tmp_path: Path, journal: Journal
) -> None:
    with worker(database_url, tmp_path):
        enqueue(database_url, "raise it")
        journal.wait_for("failed raise it ValueError")
        enqueue(database_url, "next")
        journal.wait_for("done next")

    assert journal.count("begun raise it") == 1
    assert "CANARY" not in (tmp_path / "log").read_text()


def test_the_work_of_a_dead_worker_is_taken_over(database_url: str, tmp_path: Path, journal: Journal) -> None:
    with worker(database_url, tmp_path) as first:
        enqueue(database_url, "wait for go", lane=SINGLE)
        enqueue(database_url, "behind it", lane=SINGLE)
        journal.wait_for("begun wait for go")

        with worker(database_url, tmp_path) as second:
            first.kill()
            (tmp_path / "go").touch()

            journal.wait_for("done wait for go")
            journal.wait_for("done behind it")
            assert second.executor != first.executor
            assert f"buried {first.executor}" in journal.lines

    assert journal.count("begun wait for go") == 2
    assert journal.count("done wait for go") == 1


def test_work_that_was_under_way_when_the_only_worker_died_goes_on_after_the_next_start(
    database_url: str, tmp_path: Path, journal: Journal
) -> None:
    with worker(database_url, tmp_path) as first:
        enqueue(database_url, "wait for go")
        journal.wait_for("begun wait for go")
        first.kill()
    (tmp_path / "go").touch()

    with worker(database_url, tmp_path):
        journal.wait_for("done wait for go")

    assert journal.count("done wait for go") == 1


def test_the_work_of_a_living_worker_is_left_to_it(database_url: str, tmp_path: Path, journal: Journal) -> None:
    with worker(database_url, tmp_path):
        enqueue(database_url, "sleep 3 long")
        journal.wait_for("begun sleep 3 long")
        with worker(database_url, tmp_path):
            journal.wait_for("done sleep 3 long")

    assert journal.lines == ["begun sleep 3 long", "done sleep 3 long"]


def test_a_worker_that_is_stopped_lets_its_work_end(database_url: str, tmp_path: Path, journal: Journal) -> None:
    with worker(database_url, tmp_path) as stopped:
        enqueue(database_url, "sleep 1 short")
        journal.wait_for("begun sleep 1 short")
        stopped.stop()

    assert journal.lines == ["begun sleep 1 short", "done sleep 1 short"]


def test_work_outlives_a_postgresql_that_is_away_for_seconds(own_postgres: OwnPostgres, tmp_path: Path, journal: Journal) -> None:
    with worker(own_postgres.url, tmp_path):
        enqueue(own_postgres.url, "wait for go")
        journal.wait_for("begun wait for go")

        own_postgres.stop()
        (tmp_path / "go").touch()
        time.sleep(3)
        assert journal.count("done wait for go") == 0
        own_postgres.start()

        journal.wait_for("done wait for go", 40)
        enqueue(own_postgres.url, "after it")
        journal.wait_for("done after it", 40)

    assert not [line for line in journal.lines if line.startswith("failed")]


def test_the_engine_says_whether_an_attempt_is_still_to_do(
    database_url: str, tmp_path: Path, journal: Journal, queues: Queues
) -> None:
    enqueue(database_url, "row", delay=3600)
    assert queues.is_alive("work", "row", "1")
    assert not queues.is_alive("work", "row", "2")
    assert not queues.is_alive("work", "other", "1")

    with worker(database_url, tmp_path):
        queues.start_now("work", "row", "1")
        journal.wait_for("done row")

        wait_until(lambda: not queues.is_alive("work", "row", "1"))


def test_ended_attempts_are_forgotten_and_waiting_ones_are_not(
    database_url: str, tmp_path: Path, journal: Journal, queues: Queues
) -> None:
    with worker(database_url, tmp_path):
        enqueue(database_url, "ended")
        enqueue(database_url, "waiting", delay=3600)
        journal.wait_for("done ended")
        wait_until(lambda: not queues.is_alive("work", "ended", "1"))

    assert queues.prune(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert queues.prune(datetime.now(UTC) + timedelta(minutes=1)) == 1
    assert queues.is_alive("work", "waiting", "1")


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 10), (1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (10_000, 3600)])
def test_the_wait_doubles_until_it_is_long_enough(attempts: int, seconds: int) -> None:
    assert backoff(attempts, first=timedelta(seconds=10), at_most=timedelta(hours=1)) == timedelta(seconds=seconds)


def test_attempts_have_names_that_do_not_repeat() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)

    names = {"1", "2", ticket(1, now), ticket(1, now + timedelta(milliseconds=1)), settle_attempt(1, now), settle_attempt(2, now)}

    assert len({workflow_id("run", "1", name) for name in names}) == len(names)
