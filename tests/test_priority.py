"""Priority: what makes a job stat, and that stat does not wait; that background waits, but not for ever."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select

from gateway.configuration.sections import Config
from gateway.decisions.completeness import Policy as Completeness
from gateway.decisions.priority import decide
from gateway.decisions.rules import load
from gateway.doors.policy import Caller, Policy, Rejection
from gateway.engine import RUN, Queues, model_lane, rank
from gateway.outputs import Equipment
from gateway.pipeline import Needs, Pipeline
from gateway.rows.tables import Job, JobInstance, JobState
from gateway.rows.trail import AuditEvent
from gateway.settle import settle
from tests.door_fixture import NOW, Origin, Place, scanner
from tests.synthetic import ct_series
from tests.world import HERE, World

RULE, CALLED, ATTRIBUTE = "rule", "called AE title", "RequestedProcedurePriority"


@pytest.mark.parametrize(
    ("rule", "called", "requested", "expected"),
    [
        ("stat", "AIGATEWAY", (), ("stat", RULE)),
        ("routine", "AIGATEWAY", (), ("routine", RULE)),
        ("background", "AIGATEWAY", (), ("background", RULE)),
        ("stat", "STATGW", (), ("stat", RULE)),
        ("routine", "STATGW", (), ("stat", CALLED)),
        ("background", "STATGW", (), ("stat", CALLED)),
        ("routine", "STATGW", ("LOW",), ("stat", CALLED)),
        ("routine", "AIGATEWAY", ("STAT",), ("stat", ATTRIBUTE)),
        ("routine", "AIGATEWAY", ("HIGH",), ("stat", ATTRIBUTE)),
        ("background", "AIGATEWAY", ("STAT",), ("stat", ATTRIBUTE)),
        ("background", "AIGATEWAY", ("HIGH",), ("stat", ATTRIBUTE)),
        ("routine", "AIGATEWAY", (" stat ",), ("stat", ATTRIBUTE)),
        ("routine", "AIGATEWAY", ("ROUTINE",), ("routine", RULE)),
        ("background", "AIGATEWAY", ("ROUTINE",), ("background", RULE)),
        ("routine", "AIGATEWAY", ("MEDIUM",), ("routine", RULE)),
        ("background", "AIGATEWAY", ("MEDIUM",), ("background", RULE)),
        ("stat", "AIGATEWAY", ("LOW",), ("stat", RULE)),
        ("routine", "AIGATEWAY", ("LOW",), ("background", ATTRIBUTE)),
        ("background", "AIGATEWAY", ("LOW",), ("background", RULE)),
        ("routine", "AIGATEWAY", ("LOW", "HIGH"), ("stat", ATTRIBUTE)),
        ("routine", "AIGATEWAY", ("LOW", "ROUTINE"), ("routine", RULE)),
        ("routine", "AIGATEWAY", ("SOON",), ("routine", RULE)),
        ("routine", "AIGATEWAY", ("",), ("routine", RULE)),
    ],
)
def test_the_most_urgent_of_rule_called_ae_title_and_attribute_counts(
    rule: str, called: str, requested: Sequence[str], expected: tuple[str, str]
) -> None:
    assert decide(rule, called={called}, stat_ae_titles={"STATGW"}, requested=requested) == expected


# Who may call us so


@pytest.mark.parametrize(
    ("caller", "called", "is_admitted"),
    [
        (Caller("any"), "AIGATEWAY", True),
        (Caller("any"), "STATGW", True),
        (Caller("any"), "STATGW          ", True),
        (Caller("any"), "OTHER", False),
        (Caller("never stat", called_ae_titles=frozenset({"AIGATEWAY"})), "STATGW", False),
        (Caller("always stat", called_ae_titles=frozenset({"STATGW"})), "STATGW", True),
    ],
)
def test_a_stat_ae_title_is_ours_unless_a_caller_is_told_to_use_another(caller: Caller, called: str, is_admitted: bool) -> None:
    policy = Policy("AIGATEWAY", (caller,), ("STATGW",))

    found = policy.admit("CT1", called, "127.0.0.1", None)

    assert found == caller if is_admitted else (isinstance(found, Rejection) and found.reason == 7)


def test_stat_ae_titles_reach_the_ingest_processes() -> None:
    config = Config.model_validate({"dimse": {"stat_ae_titles": ["STATGW"]}})

    sent = json.loads(json.dumps(config.policy.to_settings()))

    assert Policy.from_settings(sent).stat_ae_titles == ("STATGW",)


# What settle makes of it


def settled(place: Place, series: Sequence[Dataset], *, rule: str = "routine") -> tuple[Job, AuditEvent]:
    """The job of `series`, and its event."""
    rules = load(
        "rules:\n  - {name: all, when: {all: [{attribute: Modality, is: CT}]}, pipeline: p, send_to: [pacs], priority: "
        + rule
        + "}",
        pipelines=("p",),
        peers=("pacs",),
    )
    place.file()
    settle(
        series[0].SeriesInstanceUID, place.now + timedelta(days=1), policy=Completeness(10, 3600), rules=rules,
        pipelines={"p": Pipeline("1", "m", Needs("CT"), lambda _study, _infer: ())}, equipment=Equipment("a", "b", "1", "1"),
        store=place.store, db=place.db, queues=place.queues, stat_ae_titles=("STATGW",),
    )  # fmt: skip
    with place.db() as session:
        job = session.scalars(select(Job).order_by(Job.id.desc())).first()
        event = session.scalars(select(AuditEvent).where(AuditEvent.act == "job.created", AuditEvent.job == job.id)).one()
        return job, event


def called(ae_title: str) -> Origin:
    return Origin("dimse", f"to {ae_title}", "CT1", ae_title, "127.0.0.1")


def test_one_instance_that_was_sent_to_a_stat_ae_title_makes_the_series_stat(place: Place) -> None:
    series = ct_series(3)
    for ds, ae_title in zip(series, ("AIGATEWAY", "STATGW", "AIGATEWAY"), strict=True):
        place.bring(ds, called(ae_title))

    job, event = settled(place, series)

    assert job.priority == "stat"
    assert (event.detail["priority"], event.detail["priority_by"]) == ("stat", CALLED)
    assert place.queues.is_alive(RUN, str(job.id), "0")


@pytest.mark.parametrize(
    ("requested", "rule", "expected"),
    [
        ("HIGH", "routine", ("stat", ATTRIBUTE)),
        ("LOW", "routine", ("background", ATTRIBUTE)),
        ("LOW", "stat", ("stat", RULE)),
        ("ROUTINE", "routine", ("routine", RULE)),
    ],
)
def test_what_the_header_asks_for_is_heard(place: Place, requested: str, rule: str, expected: tuple[str, str]) -> None:
    series = ct_series(2, RequestedProcedurePriority=requested)
    for ds in series:
        place.bring(ds)

    job, event = settled(place, series, rule=rule)

    assert (job.priority, event.detail["priority_by"]) == expected


def test_an_instance_that_comes_late_to_a_stat_ae_title_makes_the_next_revision_stat(place: Place) -> None:
    series = ct_series(3)
    for ds in series[:2]:
        place.bring(ds, scanner())
    first, _ = settled(place, series)
    place.now += timedelta(hours=1)
    place.bring(series[2], called("STATGW"))

    second, _ = settled(place, series)

    assert (first.priority, second.priority, second.revision) == ("routine", "stat", 2)


# Whose turn it is


DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("stat", NOW), ("routine", NOW - DAY)),
        (("stat", NOW), ("background", NOW - 365 * DAY)),
        (("routine", NOW), ("background", NOW)),
        (("routine", NOW), ("background", NOW - HOUR)),
        (("background", NOW - DAY), ("routine", NOW)),
        (("routine", NOW - HOUR), ("routine", NOW)),
        (("background", NOW - HOUR), ("background", NOW)),
    ],
)
def test_stat_goes_first_and_who_has_waited_long_before_who_has_not(first: tuple, then: tuple) -> None:
    assert rank(*first) < rank(*then)


def test_background_that_waits_overtakes_what_comes_later_and_so_it_ends() -> None:
    background = rank("background", NOW)

    overtaken = [rank("routine", NOW + hours * HOUR) > background for hours in range(24)]

    assert overtaken == sorted(overtaken)
    assert overtaken[-1]


# With a whole gateway


RULES = """\
rules:
  - {name: patient, when: {all: [{fact: called_ae_title, is: AIGATEWAY}]}, pipeline: patient, send_to: [PEERS]}
  - {name: urgent, when: {all: [{fact: called_ae_title, is: STATGW}]}, pipeline: bright, send_to: [PEERS]}
"""
PATIENT = """\
import time
from pathlib import Path

from gateway.pipeline import Needs, Pipeline


def run(study, infer):
    while not Path({go!r}).exists():
        time.sleep(0.05)
    return ()


PIPELINE = Pipeline(version="1.0.0", model="bright", needs=Needs(modality="CT"), run=run)
"""


def test_a_stat_job_behind_a_hundred_routine_ones_of_its_model_does_not_wait_for_them(
    database_url: str, tmp_path: Path, triton: str
) -> None:
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    (pipelines / "patient.py").write_text(PATIENT.format(go=str(tmp_path / "go")))
    settings = {
        "dimse": {"stat_ae_titles": ["STATGW"]},
        "gateway": {"pipelines": [str(HERE / "pipelines"), str(pipelines)]},
    }
    with World(tmp_path / "world", database_url, triton, rules=RULES, settings=settings) as world:
        world.start()
        world.send(ct_series(2, seed=1))
        world.wait_until(lambda: [row.state for row in jobs(world)] == [JobState.RUNNING])
        a_hundred_more(world)

        world.send(ct_series(2, seed=2), called="STATGW")
        world.wait_until(lambda: [row.state for row in jobs(world) if row.priority == "stat"] == [JobState.DONE])

        routine = [row.state for row in jobs(world) if row.priority == "routine"]
        assert routine == [JobState.RUNNING] + [JobState.QUEUED] * 100
        (tmp_path / "go").touch()


def jobs(world: World) -> list[Job]:
    with world.database() as db, db() as session:
        return list(session.scalars(select(Job).order_by(Job.id)))


def a_hundred_more(world: World) -> None:
    """Routine jobs like the one that is there."""
    queues = Queues(world.database_url)
    with world.database() as db, db.begin() as session:
        model = session.scalars(select(Job)).one()
        inputs = session.scalars(select(JobInstance).where(JobInstance.job == model.id)).all()
        for n in range(100):
            job = Job(
                input_key=f"{n:064}", series_instance_uid=model.series_instance_uid, revision=1, rules=model.rules,
                pipeline=model.pipeline, model=model.model, send_to=model.send_to, priority="routine",
                created_at=model.created_at, due_at=model.due_at,
            )  # fmt: skip
            session.add(job)
            session.flush()
            session.add_all(JobInstance(job=job.id, sop_instance_uid=one.sop_instance_uid, sha256=one.sha256) for one in inputs)
            lane = model_lane(job.model, job.priority)
            queues.enqueue(session, RUN, str(job.id), attempt="0", lane=lane, rank=rank(job.priority, job.created_at))
    queues.close()
