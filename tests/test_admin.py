"""What a person may ask and do, on SQLite and on PostgreSQL; every act stands in the trail with who did it."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import text

from gateway.acts import admin
from gateway.auditing import events
from gateway.engine import DELIVER, RUN, workflow_id
from gateway.errors import ConfigError
from gateway.views import lists, stories
from gateway.views.overview import overview
from gateway.views.wanted import Wanted
from tests.rows_fixture import NOW, OUTPUT, SERIES, SOURCE, STUDY, a_delivery, a_job, a_series

LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def db(db):
    a_series(db)
    return db


def engine_state(db, workflow: str) -> tuple[str, int] | None:
    """The engine's own state and priority of an attempt."""
    table = "workflow_status" if db.kw["bind"].dialect.name == "sqlite" else "dbos.workflow_status"
    with db() as session:
        row = session.execute(
            text(f"SELECT status, priority FROM {table} WHERE workflow_uuid = :id"), {"id": workflow}
        ).one_or_none()
    return None if row is None else (row[0], row[1])


def last_act(db) -> tuple[str, str]:
    event = events.latest(db)[-1]
    return event.act, event.actor


def test_a_series_is_told_with_its_rules_jobs_and_deliveries(db) -> None:
    job = a_job(db)
    a_delivery(db, job)

    story = stories.show_series(db, SERIES)

    assert (story.study.study_instance_uid, story.instances, story.size, story.versions) == (STUDY, 1, 2_500_000, 0)
    assert [(outcome.rule, outcome.matched) for outcome in story.outcomes] == [("chest CT", False)]
    assert [(one.job.id, list(one.inputs)) for one in story.jobs] == [(job, ["5" * 64])]
    assert [one.sop_instance_uid for one in story.jobs[0].outputs] == [OUTPUT]
    assert [row.instances for row in lists.series(db, Wanted()).rows] == [1]


def test_lists_show_the_latest_and_only_those_in_a_state(db) -> None:
    jobs = [a_job(db, input_key=f"{n:064}", state=state) for n, state in enumerate(("done", "failed", "done"))]

    assert [row.job.id for row in lists.jobs(db, Wanted()).rows] == jobs[::-1]
    assert [row.job.id for row in lists.jobs(db, Wanted(state="done"), limit=1).rows] == [jobs[2]]
    assert lists.deliveries(db, Wanted(state="sent")).rows == []


def test_a_state_that_does_not_exist_is_refused_with_those_that_do(db) -> None:
    with pytest.raises(ConfigError, match="queued, running, done, failed, cancelled"):
        lists.jobs(db, Wanted(state="finished"))
    with pytest.raises(ConfigError, match="queued, sending, sent, proved, held, failed, cancelled"):
        lists.deliveries(db, Wanted(state="done"))


def test_a_delivery_is_told_with_the_events_of_its_own_peer(db) -> None:
    job = a_job(db)
    mine, _ = a_delivery(db, job), a_delivery(db, job, peer="other")

    story = stories.show_delivery(db, mine)

    assert (story.delivery.id, story.output.sop_instance_uid) == (mine, OUTPUT)
    assert [event.detail["peer"] for event in story.events] == ["pacs"]


def test_the_trail_can_be_narrowed_to_a_series_or_a_job(db) -> None:
    job = a_job(db)
    a_delivery(db, job)

    assert [event.act for event in events.latest(db)] == ["series.complete", "delivery.retried"]
    assert [event.act for event in events.latest(db, series=SERIES)] == ["series.complete"]
    assert [event.act for event in events.latest(db, job=job)] == ["delivery.retried"]
    assert [event.act for event in events.latest(db, limit=1)] == ["delivery.retried"]


@pytest.mark.parametrize("ask", [stories.show_job, stories.show_delivery, stories.show_series])
def test_what_does_not_exist_is_told(db, ask) -> None:
    with pytest.raises(ConfigError, match=r"there is no (job|delivery|series) 4711"):
        ask(db, "4711" if ask is stories.show_series else 4711)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_ended_badly_is_queued_again_with_its_priority(db, queues, state: str) -> None:
    job = a_job(db, state=state, attempts=2, crashes=3, ended_at=NOW, priority="stat")

    assert admin.retry_job(db, queues, job, actor="ann", now=LATER) == f"job {job} is queued again"

    row = stories.show_job(db, job).job
    assert (row.state, row.crashes, row.ended_at, row.due_at) == ("queued", 0, None, LATER)
    assert engine_state(db, workflow_id(RUN, str(job), row.ticket)) == ("ENQUEUED", 1)
    assert last_act(db) == ("job.retried", "ann")


def test_a_job_that_waits_starts_now(db, queues) -> None:
    job = a_job(db, queues)
    assert engine_state(db, workflow_id(RUN, str(job), "0"))[0] == "DELAYED"

    admin.retry_job(db, queues, job, actor="ann", now=LATER)

    row = stories.show_job(db, job).job
    assert row.due_at <= LATER
    assert _is_due(db, workflow_id(RUN, str(job), row.ticket))
    assert last_act(db) == ("job.retried", "ann")


def _is_due(db, workflow: str) -> bool:
    """The engine makes an attempt ENQUEUED when its delay is over: at once, or at its next look."""
    table = "workflow_status" if db.kw["bind"].dialect.name == "sqlite" else "dbos.workflow_status"
    with db() as session:
        query = text(f"SELECT status, delay_until_epoch_ms FROM {table} WHERE workflow_uuid = :id")
        status, until = session.execute(query, {"id": workflow}).one()
    return status == "ENQUEUED" or until <= time.time() * 1000


@pytest.mark.parametrize("state", ["running", "done"])
def test_a_job_that_runs_or_is_done_is_not_queued_again(db, queues, state: str) -> None:
    job = a_job(db, state=state)

    with pytest.raises(ConfigError, match=f"job {job} is {state}: expected one that failed, was cancelled or waits"):
        admin.retry_job(db, queues, job, actor="ann", now=LATER)


def test_a_waiting_job_can_be_cancelled_and_no_other(db) -> None:
    job = a_job(db)

    assert admin.cancel_job(db, job, actor="ann", now=LATER) == f"job {job} is cancelled"

    row = stories.show_job(db, job).job
    assert (row.state, row.ended_at, row.reason) == ("cancelled", LATER, "cancelled by ann")
    assert last_act(db) == ("job.cancelled", "ann")
    with pytest.raises(ConfigError, match="expected one that waits"):
        admin.cancel_job(db, job, actor="ann", now=LATER)


def test_a_failed_job_can_be_cancelled_and_says_why_it_had_failed(db) -> None:
    job = a_job(db, state="failed", ended_at=NOW, reason="no slices")

    assert admin.cancel_job(db, job, actor="ann", now=LATER) == f"job {job} is cancelled"

    row = stories.show_job(db, job).job
    assert (row.state, row.ended_at, row.reason) == ("cancelled", NOW, "cancelled by ann; it had failed: no slices")
    assert last_act(db) == ("job.cancelled", "ann")
    assert overview(db, LATER).failed_jobs == 0


@pytest.mark.parametrize("state", ["failed", "held", "cancelled"])
def test_a_delivery_that_ended_badly_is_queued_again_with_its_jobs_priority(db, queues, state: str) -> None:
    job = a_job(db, state="done", priority="stat")
    delivery = a_delivery(db, job, state=state, attempts=3)

    assert admin.retry_delivery(db, queues, delivery, actor="ann", now=LATER) == f"delivery {delivery} is queued again"

    row = stories.show_delivery(db, delivery).delivery
    assert (row.state, row.due_at) == ("queued", LATER)
    assert engine_state(db, workflow_id(DELIVER, str(delivery), row.ticket)) == ("ENQUEUED", 1)
    assert last_act(db) == ("delivery.retried", "ann")


def test_a_delivery_that_waits_starts_now(db, queues) -> None:
    delivery = a_delivery(db, a_job(db, state="done"), queues)

    admin.retry_delivery(db, queues, delivery, actor="ann", now=LATER)

    assert _is_due(db, workflow_id(DELIVER, str(delivery), stories.show_delivery(db, delivery).delivery.ticket))
    assert last_act(db) == ("delivery.retried", "ann")


@pytest.mark.parametrize("state", ["sending", "sent", "proved"])
def test_a_delivery_on_its_way_or_arrived_is_neither_retried_nor_cancelled(db, queues, state: str) -> None:
    delivery = a_delivery(db, a_job(db, state="done"), state=state, ticket="")  # of a peer that proves nothing, where it is sent

    with pytest.raises(ConfigError, match=f"is {state}"):
        admin.retry_delivery(db, queues, delivery, actor="ann", now=LATER)
    with pytest.raises(ConfigError, match=f"is {state}"):
        admin.cancel_delivery(db, queues, delivery, actor="ann", now=LATER)


def test_a_delivery_can_be_given_up(db, queues) -> None:
    delivery = a_delivery(db, a_job(db, state="done"), state="failed")

    assert admin.cancel_delivery(db, queues, delivery, actor="ann", now=LATER) == f"delivery {delivery} is cancelled"

    assert stories.show_delivery(db, delivery).delivery.reason == "cancelled by ann"
    assert last_act(db) == ("delivery.cancelled", "ann")


def test_an_act_that_is_refused_leaves_no_trace(db, queues) -> None:
    job = a_job(db, state="done")
    before = len(events.latest(db))

    with pytest.raises(ConfigError):
        admin.retry_job(db, queues, job, actor="ann", now=LATER)

    assert len(events.latest(db)) == before
    assert SOURCE not in [event.sop_instance_uid for event in events.latest(db)]
