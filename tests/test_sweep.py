"""Sweep: work that the engine has forgotten goes on, work that it still has is left alone."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete

from gateway import app
from gateway.db import Database, open_database
from gateway.engine import DELIVER, PRIORS, RUN, SETTLE, Queues, settle_attempt
from gateway.rows.searches import PriorSearch
from gateway.rows.tables import Delivery, Instance, Job, OutputInstance, Series
from gateway.sweep import sweep
from tests.rows_fixture import NOW, OUTPUT, SERIES, STUDY, a_job, a_series

LATER = NOW + timedelta(minutes=10)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[tuple[Database, Queues]]:
    db, queues = open_database(database_url), Queues(database_url)
    app.upgrade(database_url, db)
    a_series(db)
    yield db, queues
    queues.close()
    db.kw["bind"].dispose()


def a_lost_delivery(db: Database) -> None:
    job = a_job(db, state="done")
    with db.begin() as session:
        session.add(OutputInstance(sop_instance_uid=OUTPUT, job=job, study_instance_uid=STUDY, series_instance_uid=SERIES, sop_class_uid="1.2", modality="SR", sha256="8" * 64, size=1, created_at=NOW))  # fmt: skip
        session.flush()
        session.add(Delivery(sop_instance_uid=OUTPUT, study_instance_uid=STUDY, job=job, peer="pacs", created_at=NOW, due_at=NOW))


def test_a_job_that_the_engine_has_forgotten_is_enqueued_again(place) -> None:
    db, queues = place
    job = a_job(db)

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        assert queues.is_alive(RUN, str(job), session.get_one(Job, job).ticket)


def test_a_job_that_the_engine_still_has_is_left_alone(place) -> None:
    db, queues = place
    job = a_job(db, queues)

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        assert session.get_one(Job, job).ticket == "0"


def test_a_job_that_waits_for_priors_goes_on_seeking_and_is_not_run_before(place) -> None:
    db, queues = place
    job = a_job(db)
    with db.begin() as session:
        session.add(PriorSearch(id=job, begun_at=NOW, due_at=NOW, deadline_at=LATER))

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        assert queues.is_alive(PRIORS, str(job), session.get_one(PriorSearch, job).ticket)
        assert not queues.is_alive(RUN, str(job), session.get_one(Job, job).ticket)


def test_a_job_that_has_ended_is_left_alone(place) -> None:
    db, queues = place
    job = a_job(db, state="failed")

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        found = session.get_one(Job, job)
        assert not queues.is_alive(RUN, str(job), found.ticket)
        assert found.state == "failed"


def test_a_delivery_that_the_engine_has_forgotten_is_enqueued_again_once(place) -> None:
    db, queues = place
    a_lost_delivery(db)

    sweep(LATER, db=db, queues=queues)
    with db() as session:
        first = session.query(Delivery).one().ticket
    sweep(LATER + timedelta(minutes=5), db=db, queues=queues)

    with db() as session:
        delivery = session.query(Delivery).one()
        assert delivery.ticket == first
        assert queues.is_alive(DELIVER, str(delivery.id), first)


def test_a_series_that_nobody_looks_at_any_more_is_looked_at(place) -> None:
    db, queues = place
    with db.begin() as session:
        session.get_one(Series, SERIES).state = "receiving"

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        series = session.get_one(Series, SERIES)
        assert queues.is_alive(SETTLE, SERIES, settle_attempt(series.revision, series.due_at))


def test_every_round_enqueues_the_next_one(place) -> None:
    db, queues = place

    sweep(LATER, db=db, queues=queues)

    assert queues.is_alive("sweep", "sweep", str(int((LATER + timedelta(minutes=1)).timestamp() // 60)))


def test_more_jobs_than_are_asked_for_at_once_do_not_hide_one_that_was_forgotten(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sweep._AT_ONCE", 2)
    db, queues = place
    jobs = [a_job(db, None if n == 4 else queues, input_key=f"{n:064}") for n in range(6)]

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        tickets = [session.get_one(Job, job).ticket for job in jobs]
        assert [one == "0" for one in tickets] == [True, True, True, True, False, True]
        assert queues.is_alive(RUN, str(jobs[4]), tickets[4])


def test_a_series_without_an_instance_is_left_alone(place) -> None:
    db, queues = place
    with db.begin() as session:
        session.execute(delete(Instance))
        session.get_one(Series, SERIES).state = "receiving"

    sweep(LATER, db=db, queues=queues)

    with db() as session:
        series = session.get_one(Series, SERIES)
        assert not queues.is_alive(SETTLE, SERIES, settle_attempt(series.revision, series.due_at))
        assert series.due_at == NOW
