"""The search for priors in rows: when a job waits for one, for a person, or not at all."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway import app
from gateway.acts import admin
from gateway.db import Database, open_database
from gateway.engine import PRIORS, RUN, Queues
from gateway.fetching.archives import Archives
from gateway.fetching.priors import look_back, priors_failed
from gateway.pipeline import HOLD, Needs, Pipeline, Priors
from gateway.rows.searches import Prior, PriorSearch, SearchState
from gateway.rows.tables import Job, JobInstance, JobState
from gateway.rows.trail import AuditEvent
from gateway.store import Store
from tests.rows_fixture import NOW, a_job, a_series
from tests.synthetic import ct_series, part10

DEADLINE = NOW + timedelta(minutes=10)


class Source:
    """Has one earlier series of the patient, and says this of it."""

    def __init__(self, **says: str) -> None:
        self.series = {"StudyInstanceUID": "1.2.77", "SeriesInstanceUID": "1.2.78", "Modality": "MR", **says}

    def studies_of(self, patient_id: str) -> list[dict[str, str]]:
        return [{"PatientID": patient_id, "StudyInstanceUID": self.series["StudyInstanceUID"], "StudyDate": "20251231"}]

    def series_of(self, _study_instance_uid: str) -> list[dict[str, str]]:
        return [self.series]


class Place:
    """A job that waits for its priors, and what looks back for it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.db: Database = open_database(url)
        self.queues, self.store, self.peers = Queues(url), Store(folder / "store"), {}
        app.upgrade(url, self.db)
        a_series(self.db)
        self.job = a_job(self.db)
        with self.db.begin() as session:
            sha256 = self.store.put([part10(ct_series(1)[0])]).sha256
            session.scalars(select(JobInstance)).one().sha256 = sha256
            session.add(PriorSearch(id=self.job, begun_at=NOW, due_at=NOW, deadline_at=DEADLINE))

    def look_back(self, *sources: str, now=NOW, **wants: object) -> None:
        pipeline = Pipeline("1", "bright", Needs("CT", priors=Priors(**wants)), lambda _study, _infer: ())
        look_back(
            self.job, clock=lambda: now, pipelines={"bright": pipeline}, sources=sources, archives=Archives(lambda: self.peers, self.around),
            store=self.store, db=self.db, queues=self.queues,
        )  # fmt: skip

    def around(self):
        return type("Around", (), {"clock": staticmethod(lambda: NOW)})

    @property
    def rows(self) -> tuple[Job, PriorSearch]:
        with self.db() as session:
            return session.get_one(Job, self.job), session.get_one(PriorSearch, self.job)

    def is_alive(self, stage: str) -> bool:
        job, search = self.rows
        return self.queues.is_alive(stage, str(self.job), search.ticket if stage == PRIORS else job.ticket)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    place = Place(database_url, tmp_path)
    yield place
    place.queues.close()
    place.db.kw["bind"].dispose()


def test_without_sources_the_job_runs_at_once_and_says_so(place) -> None:
    place.look_back()

    _, search = place.rows
    assert (search.state, search.reason) == (SearchState.DONE, "no peer is named in [priors]")
    assert place.is_alive(RUN)


def test_a_source_that_cannot_be_asked_is_asked_again_until_the_deadline(place) -> None:
    place.look_back("pacs")

    job, search = place.rows
    assert (job.state, search.state, search.attempts) == (JobState.QUEUED, SearchState.WAITING, 1)
    assert (
        job.reason == "waits for priors: pacs: expected a peer that answers queries: dimse, dicomweb or orthanc, and not disabled"
    )
    assert place.is_alive(PRIORS)
    assert not place.is_alive(RUN)

    place.look_back("pacs", now=DEADLINE)

    assert (place.rows[0].reason, place.rows[1].state) == ("", SearchState.DONE)
    assert place.is_alive(RUN)


@pytest.mark.parametrize(
    ("says", "modalities"),
    [
        ({}, ["MR"]),
        ({"Modality": "CT\0"}, [""]),
        ({"SeriesInstanceUID": "1.2." + "3" * 70}, []),
        ({"StudyInstanceUID": "1.2." + "3" * 70}, []),
    ],
)
def test_what_a_source_says_that_no_row_can_hold_is_passed_over(place, says: dict[str, str], modalities: list[str]) -> None:
    place.peers["pacs"] = Source(**says)

    place.look_back("pacs")

    with place.db() as session:
        assert list(session.scalars(select(Prior.modality))) == modalities
    assert place.rows[1].state == SearchState.DONE


def test_a_job_that_is_not_to_run_without_is_held_and_a_person_lets_it_run(place) -> None:
    place.look_back(without=HOLD)

    job, search = place.rows
    assert (job.state, search.state) == (JobState.QUEUED, SearchState.HELD)
    assert job.reason == "held: no peer is named in [priors]; retry runs it without a prior"
    assert not place.is_alive(RUN)

    admin.retry_job(place.db, place.queues, place.job, actor="somebody", now=NOW)

    assert place.is_alive(RUN)
    assert (place.rows[1].state, place.rows[1].reason) == (SearchState.DONE, "a person let the job run")
    with place.db() as session:
        acts = list(session.scalars(select(AuditEvent.act).order_by(AuditEvent.id)))
    assert acts[-3:] == ["priors.sought", "priors.done", "job.retried"]


def test_a_job_that_was_cancelled_is_not_sought_for_any_more(place) -> None:
    admin.cancel_job(place.db, place.job, actor="somebody", now=NOW)

    place.look_back(now=DEADLINE)

    assert place.rows[0].state == JobState.CANCELLED
    assert not place.is_alive(RUN)


def test_a_search_that_breaks_ends_as_if_none_had_come(place) -> None:
    priors_failed(place.job, KeyError("x"), NOW, pipelines={}, db=place.db, queues=place.queues)

    assert place.rows[1].reason == "unexpected KeyError; the log has where it was raised"
    assert place.is_alive(RUN)
