"""A person orders a pipeline for a series, whatever the rules say."""

import pytest
from sqlalchemy import select, update

from gateway.acts.order import Ordered, order
from gateway.auditing.audit import Act
from gateway.db import open_database
from gateway.engine import RUN, Queues
from gateway.errors import ConfigError
from gateway.pipeline import Needs, Pipeline
from gateway.rows.tables import Delivery, Instance, Job, JobInstance, JobState, OutputInstance, Series
from gateway.rows.trail import AuditEvent
from tests.rows_fixture import NOW, SERIES, SOURCE, STUDY, a_job, a_series

PIPELINES = {
    "bright": Pipeline("1", "bright", Needs("CT"), lambda *_: ()),
    "lungs": Pipeline("2", "lungs", Needs("CT"), lambda *_: ()),
}


@pytest.fixture
def place(database_url):
    db, queues = open_database(database_url), Queues(database_url)
    a_series(db)

    def ask(pipeline: str = "lungs", **more: object) -> Ordered:
        wanted = {"send_to": ["pacs"], "peers": ["pacs", "archive"], "actor": "ann", "now": NOW} | more
        return order(db, queues, SERIES, pipeline=pipeline, pipelines=PIPELINES, **wanted)

    ask.db, ask.queues = db, queues
    yield ask
    queues.close()
    db.kw["bind"].dispose()


def test_an_order_makes_a_job_of_the_whole_series_and_tells_who_asked(place) -> None:
    made = place(priority="stat")

    with place.db() as session:
        job = session.get_one(Job, made.job)
        inputs = session.scalars(select(JobInstance.sop_instance_uid).where(JobInstance.job == job.id)).all()
        told = session.scalars(select(AuditEvent).where(AuditEvent.act == Act.JOB_ORDERED)).one()
    assert (made.is_new, job.pipeline, job.send_to, job.priority, job.rules) == (
        True,
        "lungs",
        ["pacs"],
        "stat",
        ["ordered by ann"],
    )
    assert inputs == [SOURCE]
    assert (told.actor, told.job, told.detail["pipeline"]) == ("ann", job.id, "lungs")
    assert place.queues.is_alive(RUN, str(job.id), "0")


def test_the_same_order_twice_is_one_job(place) -> None:
    first, second = place(), place()

    assert (second.job, second.is_new) == (first.job, False)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.DONE])
def test_an_order_of_what_was_done_already_sends_the_results_to_the_peers_that_did_not_get_them(place, state: str) -> None:
    first = place()
    with place.db.begin() as session:
        session.execute(update(Job).values(state=state))
        for uid, retracts, gone_at in (
            ("2.25.1", "", None),
            ("2.25.2", "", None),
            ("2.25.3", "2.25.2", None),
            ("2.25.4", "", NOW),
        ):
            session.add(OutputInstance(sop_instance_uid=uid, job=first.job, study_instance_uid=STUDY, series_instance_uid=SERIES, sop_class_uid="1.2", modality="SR", sha256="5" * 64, size=1, created_at=NOW, retracts=retracts, gone_at=gone_at))  # fmt: skip

    second, third = place(send_to=["archive", "pacs"]), place(send_to=["archive"])

    with place.db() as session:
        sent = [(one.sop_instance_uid, one.peer, one.state) for one in session.scalars(select(Delivery))]
        assert session.get_one(Job, first.job).send_to == ["pacs", "archive"]
    assert sent == ([("2.25.1", "archive", "queued")] if state == JobState.DONE else [])
    assert str(second) == f"job {first.job} did that already; its results go to archive too"
    assert str(third) == f"job {first.job} did that already"


def test_an_order_that_names_no_peer_says_that_the_results_stay_here(place) -> None:
    made = place(send_to=[])

    assert str(made) == f"job {made.job} is queued; no peer was named, its results stay here"


@pytest.mark.parametrize(("retracted", "gone_at"), [(True, None), (False, NOW)])
def test_an_order_of_what_was_done_and_is_not_here_any_more_promises_nothing(place, retracted: bool, gone_at) -> None:
    first = place()
    with place.db.begin() as session:
        session.execute(update(Job).values(state=JobState.DONE))
        for uid, retracts in (("2.25.1", ""), *((("2.25.2", "2.25.1"),) if retracted else ())):
            session.add(OutputInstance(sop_instance_uid=uid, job=first.job, study_instance_uid=STUDY, series_instance_uid=SERIES, sop_class_uid="1.2", modality="SR", sha256="5" * 64, size=1, created_at=NOW, retracts=retracts, gone_at=gone_at))  # fmt: skip

    with pytest.raises(ConfigError, match="did that already, and its results are not here any more"):
        place(send_to=["archive"])

    with place.db() as session:
        assert session.get_one(Job, first.job).send_to == ["pacs"]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_an_order_of_what_failed_or_was_cancelled_is_done(place, state: str) -> None:
    first = place()
    with place.db.begin() as session:
        session.execute(update(Job).values(state=state, attempts=2, crashes=3, ended_at=NOW))

    second = place(send_to=["archive"])

    with place.db() as session:
        job = session.get_one(Job, first.job)
    assert str(second) == f"job {first.job} is queued again; its results go to archive too"
    assert (job.state, job.crashes, job.ended_at) == (JobState.QUEUED, 0, None)
    assert place.queues.is_alive(RUN, str(job.id), job.ticket)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"pipeline": "no_such"}, "expected one of the pipelines bright, lungs"),
        ({"send_to": ["pacs", "nobody"]}, "expected peers among archive, pacs"),
        ({"priority": "now"}, "expected a priority: stat, routine, background"),
    ],
)
def test_an_order_that_cannot_be_followed_says_what_was_expected(place, wanted: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        place(**wanted)


def test_a_series_that_still_arrives_cannot_be_ordered_for(place) -> None:
    with place.db.begin() as session:
        session.execute(update(Series).values(state="receiving"))

    with pytest.raises(ConfigError, match="when it is complete"):
        place()


def test_a_series_whose_files_went_cannot_be_ordered_for(place) -> None:
    with place.db.begin() as session:
        session.execute(update(Instance).values(gone_at=NOW))

    with pytest.raises(ConfigError, match="send them again"):
        place()


def test_a_result_of_ours_cannot_be_ordered_for(place) -> None:
    job = a_job(place.db)
    with place.db.begin() as session:
        session.add(OutputInstance(sop_instance_uid=SOURCE, job=job, study_instance_uid="1", series_instance_uid="1", sop_class_uid="1", modality="SEG", sha256="5" * 64, size=1, created_at=NOW))  # fmt: skip

    with pytest.raises(ConfigError, match="expected one of images"):
        place()
