"""One job of one pipeline: what that gets, what becomes of what it yields, and why there is nothing of it."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from io import BytesIO
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from gateway.decisions.completeness import Policy
from gateway.decisions.rules import load
from gateway.errors import ModelDied, ModelUnavailable
from gateway.outputs import Equipment, Output
from gateway.pipeline import Infer, Needs, Pipeline, Study
from gateway.rows.tables import Job, OutputInstance
from gateway.run import run
from gateway.settle import settle
from tests.door_fixture import Place, come
from tests.results_fixture import NOTHING_FOUND
from tests.synthetic import ct_series

EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
RULES = "rules:\n  - {name: all CT, when: {all: [{attribute: Modality, is: CT}]}, pipeline: p, send_to: [pacs]}\n"


class Models:
    version, weights = "1", "ab" * 32

    def identity(self, _model: str) -> "Models":
        return self

    def infer(self, _model: str):
        return lambda arrays: {"labels": (arrays["volume"] > -500).astype(np.uint8)}


def done(
    place: Place, series: list[Dataset], what: Callable[[Study, Infer], Iterable[Output]], *, times: int = 1, **settings: object
) -> tuple[Job, list[Dataset]]:
    """The job of a pipeline that does `what` on `series`, after so many attempts, and its results as they are stored."""
    pipelines = {"p": Pipeline("1", "m", Needs("CT"), what)}
    come(place, series)
    place.now += timedelta(seconds=30)
    settle(
        series[0].SeriesInstanceUID, place.now, policy=Policy(10, 3600), pipelines=pipelines, equipment=EQUIPMENT,
        rules=load(RULES, pipelines=("p",), peers=("pacs",)), store=place.store, db=place.db, queues=place.queues,
    )  # fmt: skip
    with place.db() as session:
        job = session.scalars(select(Job.id)).one()
    terms = {"pipelines": pipelines, "models": Models(), "equipment": EQUIPMENT, "begun": {}} | settings
    for _ in range(times):
        run(job, clock=lambda: place.now, store=place.store, db=place.db, queues=place.queues, **terms)
    with place.db() as session:
        files = [place.store.path(one).read_bytes() for one in session.scalars(select(OutputInstance.sha256))]
        return session.get_one(Job, job), [dcmread(BytesIO(file)) for file in files]


def test_a_pipeline_that_changes_the_headers_changes_no_result(place: Place) -> None:
    def meddle(study: Study, _infer: Infer) -> Iterable[Output]:
        for header in study.source:
            header.PatientID, header.StudyInstanceUID, header.AccessionNumber = "OTHER", "1.2.3", "OTHER"
            header.ImagePositionPatient[2] = 0
        assert {one.PatientID for one in study.source[:2]} == {study.source[-1].PatientID} == {"OTHER"}
        yield NOTHING_FOUND

    series = ct_series(4)

    job, (report,) = done(place, series, meddle)

    assert job.state == "done"
    for keyword in ("PatientID", "StudyInstanceUID", "AccessionNumber"):
        assert report[keyword].value == series[0][keyword].value


@pytest.mark.parametrize(
    ("nothing", "expected"), [((), "expected at least one output: "), (None, "expected run to yield outputs")]
)
def test_a_pipeline_that_yields_nothing_fails_and_says_what_was_expected(
    place: Place, nothing: Iterable[Output] | None, expected: str
) -> None:
    job, results = done(place, ct_series(4), lambda _study, _infer: nothing)

    assert (job.state, job.code, results) == ("failed", "OUTPUT", [])
    assert job.reason.startswith(expected)


def test_a_job_whose_pipeline_this_machine_does_not_have_waits_for_one_that_does(place: Place) -> None:
    job, results = done(place, ct_series(4), lambda _study, _infer: [], pipelines={})

    assert (job.state, job.code, results) == ("queued", "PIPELINE", [])
    assert job.reason == "expected pipeline p on every machine that works: the job waits for one that has it"


class Dying(Models):
    """How it fails in each attempt."""

    def __init__(self, *attempts: type[ModelUnavailable]) -> None:
        self.attempts = list(attempts)

    def infer(self, _model: str):
        def ask(_arrays: object):
            raise self.attempts.pop(0)("the model's process ended while it worked")

        return ask


@pytest.mark.parametrize(
    ("attempts", "ended"),
    [
        ((ModelDied, ModelDied, ModelDied), ("failed", "CRASH", 0)),
        ((ModelDied, ModelDied, ModelUnavailable), ("queued", "MODEL", 0)),
        ((ModelDied, ModelUnavailable, ModelDied), ("queued", "MODEL", 1)),
    ],
)
def test_what_ends_the_models_process_each_time_is_given_up_and_no_other_model_waits_for_it_again(
    place: Place, attempts: tuple[type[ModelUnavailable], ...], ended: tuple[str, str, int]
) -> None:
    models = Dying(*attempts)

    job, results = done(place, ct_series(4), lambda study, infer: [infer({"volume": study.volume.array})], models=models, times=3)

    assert (job.state, job.code, job.crashes, results) == (*ended, [])
    if job.state == "failed":
        assert job.reason == "the process that worked on this job, the gateway's or its model's, ended 3 times"


def test_a_result_tells_the_time_of_the_hospital_where_the_images_name_no_zone(place: Place) -> None:
    place.now = place.now.replace(hour=22, minute=30)

    _, (report,) = done(
        place, ct_series(4, TimezoneOffsetFromUTC=None), lambda _study, _infer: [NOTHING_FOUND], zone=ZoneInfo("Asia/Tokyo")
    )

    assert (str(report.ContentDate), str(report.ContentTime), str(report.SeriesDate)) == ("20260103", "073030", "20260103")
