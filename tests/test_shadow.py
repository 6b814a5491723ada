"""What no rule wanted, what a rule wanted that is no more, and what runs in the shadow: nothing of it is lost, nothing of it is sent."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydicom import Dataset
from sqlalchemy import select

from gateway.acts.release import release_held, release_series
from gateway.acts.retract import retract
from gateway.decisions.arrival import arrival
from gateway.decisions.completeness import Policy
from gateway.decisions.matching import Canary
from gateway.decisions.rules import RuleSet, load, load_taken
from gateway.doors.policy import Caller
from gateway.doors.policy import Policy as Callers
from gateway.errors import ConfigError
from gateway.outputs import Equipment
from gateway.pipeline import load_pipelines
from gateway.rows.tables import Delivery, Job, JobState, OutputInstance, RuleOutcome, Series, SeriesState
from gateway.rows.trail import AuditEvent
from gateway.rows.verdicts import Held
from gateway.run import run
from gateway.settle import settle
from gateway.views import stories
from gateway.views.agreement import agreement, dice
from gateway.views.lists import held_series
from gateway.work.kept import Keep
from gateway.work.shadow import release_job
from tests.door_fixture import Place, come
from tests.synthetic import ct_series

EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
BRIGHT = load_pipelines([Path(__file__).parent / "pipelines"])["bright"]
PIPELINES = {"bright": BRIGHT, "bright_v2": BRIGHT}
NAMES = {"pipelines": tuple(PIPELINES), "peers": ("pacs", "archive")}
CT = "rules:\n  - {name: all CT, when: {all: [{attribute: Modality, is: CT}]}, pipeline: bright, send_to: [pacs]%s}\n"
LIVE, SHADOW = CT % "", CT % ", shadow: true"


def look(place: Place, series: Sequence[Dataset], rules: RuleSet | str) -> Series:
    place.now += timedelta(seconds=30)
    uid = series[0].SeriesInstanceUID
    settle(
        uid, place.now, policy=Policy(10, 3600), pipelines=PIPELINES, equipment=EQUIPMENT, store=place.store,
        rules=load(rules, **NAMES) if isinstance(rules, str) else rules, db=place.db, queues=place.queues,
        put=Keep(place.store.headers).put,
    )  # fmt: skip
    with place.db() as session:
        return session.get_one(Series, uid)


class Models:
    version, weights = "1", "ab" * 32

    def identity(self, _model: str) -> "Models":
        return self

    def __init__(self, above: int = -500) -> None:
        self.above = above

    def infer(self, _model: str):
        return lambda arrays: {"labels": (arrays["volume"] > self.above).astype(np.uint8)}


def work(place: Place, job: int, above: int = -500) -> None:
    run(
        job, clock=lambda: place.now, pipelines=PIPELINES, models=Models(above), equipment=EQUIPMENT, store=place.store, db=place.db,
        queues=place.queues, begun={},
    )  # fmt: skip


def rows(place: Place, table):
    with place.db() as session:
        return list(session.scalars(select(table)))


def release(place: Place, job: int) -> str:
    return release_job(place.db, place.queues, job, actor="anna", now=place.now)


def test_a_series_that_no_rule_wanted_is_held_and_a_later_rule_takes_it(place: Place) -> None:
    series = ct_series(3)
    come(place, series)

    assert look(place, series, LIVE.replace("is: CT", "is: MR")).held == Held.UNMATCHED
    assert [one.series_instance_uid for one in held_series(place.db)] == [series[0].SeriesInstanceUID]

    release_series(place.db, place.queues, series[0].SeriesInstanceUID, actor="anna", now=place.now)
    row = look(place, series, LIVE)

    assert (row.state, row.held) == (SeriesState.COMPLETE, "")
    assert [job.pipeline for job in rows(place, Job)] == ["bright"]
    assert [(one.rule, one.matched) for one in rows(place, RuleOutcome)] == [("all CT", True)]
    assert held_series(place.db) == []


def test_a_series_that_is_released_again_and_again_makes_one_job(place: Place) -> None:
    series = ct_series(3)
    come(place, series)
    look(place, series, LIVE)

    for _ in range(2):
        release_series(place.db, place.queues, series[0].SeriesInstanceUID, actor="anna", now=place.now)
        look(place, series, LIVE)

    assert [job.state for job in rows(place, Job)] == [JobState.QUEUED]
    with pytest.raises(ConfigError, match="there is no series"):
        release_series(place.db, place.queues, "1.2.3", actor="anna", now=place.now)


def test_a_rule_whose_peer_has_gone_holds_what_it_wanted_and_the_others_go_on(place: Place) -> None:
    text = (
        LIVE
        + "  - {name: thin, when: {all: [{attribute: SliceThickness, at_most: 1}]}, pipeline: bright_v2, send_to: [archive]}\n"
    )
    gone = load_taken(text, pipelines=NAMES["pipelines"], peers=("archive",), version=7)
    thick, thin = ct_series(3, seed=1), ct_series(3, seed=2, SliceThickness="1")
    come(place, thick)
    come(place, thin)

    held, both = look(place, thick, gone), look(place, thin, gone)

    assert (held.held, both.held) == (Held.REFUSED, Held.REFUSED)
    assert "all CT would have, and cannot be followed any more" in held.reason
    assert [(job.pipeline, job.series_instance_uid) for job in rows(place, Job)] == [("bright_v2", thin[0].SeriesInstanceUID)]
    assert {one.rules_version for one in rows(place, RuleOutcome)} == {7}
    said = release_held(place.db, place.queues, why=Held.REFUSED, actor="anna", now=place.now)
    assert len(said) == 2
    assert [look(place, one, load_taken(text, **NAMES, version=8)).held for one in (thick, thin)] == ["", ""]
    assert len(rows(place, Job)) == 3


def test_a_fallback_takes_no_series_of_a_rule_that_cannot_be_followed(place: Place) -> None:
    text = LIVE + "  - {name: rest, when: otherwise, pipeline: bright_v2, send_to: [archive]}\n"
    series = ct_series(3)
    come(place, series)

    row = look(place, series, load_taken(text, pipelines=NAMES["pipelines"], peers=("archive",), version=1))

    assert row.held == Held.REFUSED
    assert rows(place, Job) == []


def test_a_job_in_the_shadow_runs_and_sends_nothing_before_a_person_says_so(place: Place) -> None:
    series = ct_series(3)
    come(place, series)
    assert look(place, series, SHADOW).held == Held.UNMATCHED
    (job,) = rows(place, Job)
    assert job.priority == "background"

    work(place, job.id)

    (job,) = rows(place, Job)
    assert (job.state, job.reason[:13]) == (JobState.DONE, "in the shadow")
    assert len(stories.show_job(place.db, job.id).outputs) == 2
    assert rows(place, Delivery) == []

    assert release(place, job.id) == f"job {job.id} is released"
    assert [one.peer for one in rows(place, Delivery)] == ["pacs", "pacs"]
    with pytest.raises(ConfigError, match="not in the shadow"):
        release(place, job.id)
    with place.db.begin() as session:
        session.get_one(Job, job.id).state = JobState.FAILED
    with pytest.raises(ConfigError, match=f"job {job.id} is failed: it has no results that could go out"):
        release(place, job.id)
    assert [event.actor for event in rows(place, AuditEvent) if event.act == "job.released"] == ["anna"]


def test_a_job_in_the_shadow_whose_series_has_grown_is_not_released_but_its_successor_is(place: Place) -> None:
    """Both would go out, neither saying which is the later."""
    series = ct_series(4)
    for part in (series[:3], series[3:]):
        come(place, part)
        look(place, series, SHADOW)
        work(place, rows(place, Job)[-1].id)
    first, second = rows(place, Job)

    with pytest.raises(ConfigError, match=f"superseded by revision 2 of the series, which is job {second.id}"):
        release(place, first.id)
    release(place, second.id)

    assert [one.job for one in rows(place, Delivery)] == [second.id] * 2


def test_results_in_the_shadow_that_were_retracted_are_not_said_to_be_released(place: Place) -> None:
    series = ct_series(3)
    come(place, series)
    look(place, series, SHADOW)
    (job,) = rows(place, Job)
    work(place, job.id)
    retract(
        place.db, place.queues, job=job.id, reason="quality", actor="anna", now=place.now, equipment=EQUIPMENT, store=place.store
    )

    with pytest.raises(ConfigError, match=f"job {job.id}: its results were retracted"):
        release(place, job.id)

    assert [event.act for event in rows(place, AuditEvent) if event.act == "job.released"] == []


def test_a_job_that_is_released_before_it_ends_sends_when_it_ends(place: Place) -> None:
    series = ct_series(3)
    come(place, series)
    look(place, series, SHADOW)
    (job,) = rows(place, Job)

    release(place, job.id)
    assert rows(place, Delivery) == []
    work(place, job.id)

    assert [one.peer for one in rows(place, Delivery)] == ["pacs", "pacs"]


def test_a_rule_that_leaves_the_shadow_sends_what_was_made_in_it(place: Place) -> None:
    series = ct_series(3)
    come(place, series)
    look(place, series, SHADOW)
    work(place, rows(place, Job)[0].id)

    release_series(place.db, place.queues, series[0].SeriesInstanceUID, actor="anna", now=place.now)
    look(place, series, LIVE.replace("[pacs]", "[archive]"))

    assert [job.send_to for job in rows(place, Job)] == [["archive"]]
    assert [one.peer for one in rows(place, Delivery)] == ["archive", "archive"]


def test_a_canary_works_in_the_shadow_beside_the_pipeline_of_its_rule(place: Place) -> None:
    series = ct_series(3)
    come(place, series)

    look(place, series, CT % ", canary: {pipeline: bright_v2, share: 100}")
    for job in rows(place, Job):
        work(place, job.id)

    jobs = {job.pipeline: job for job in rows(place, Job)}
    assert {name: (job.state, job.rules) for name, job in jobs.items()} == {
        "bright": (JobState.DONE, ["all CT"]),
        "bright_v2": (JobState.DONE, ["all CT"]),
    }
    assert {one.job for one in rows(place, Delivery)} == {jobs["bright"].id}


def test_the_agreement_of_a_canary_is_told_with_its_numbers(place: Place) -> None:
    for seed, above in ((1, -500), (2, 20)):
        series = ct_series(3, seed=seed)
        come(place, series)
        look(place, series, CT % ", canary: {pipeline: bright_v2, share: 100}")
        for job in rows(place, Job):
            work(place, job.id, above if job.pipeline == "bright_v2" else -500)
    stored = np.stack([ds.pixel_array.astype(int) + int(ds.RescaleIntercept) for ds in series])
    one, other = stored > -500, stored > 20

    found = agreement(place.db, place.store, "all CT")

    assert (len(found.pairs), found.unreadable) == (2, 0)
    (summary,) = found.dice.values()
    expected = 2 * (one & other).sum() / (one.sum() + other.sum())
    assert (summary.n, summary.worst) == (2, pytest.approx(expected))
    assert summary.median == pytest.approx((1 + expected) / 2)
    assert max(two.worst for two in found.differences.values()) == pytest.approx(1 - other.sum() / one.sum(), rel=1e-3)
    assert agreement(place.db, place.store, "another").pairs == []

    for output in rows(place, OutputInstance):
        place.store.discard(output.sha256)
    assert agreement(place.db, place.store, "all CT").unreadable == 2


def test_a_series_that_has_grown_counts_once_in_an_agreement_with_the_whole_of_it(place: Place) -> None:
    series = ct_series(4)
    for part in (series[:3], series[3:]):
        come(place, part)
        look(place, series, CT % ", canary: {pipeline: bright_v2, share: 100}")
        for job in [one for one in rows(place, Job) if one.state == JobState.QUEUED]:
            work(place, job.id)
    last = max(one.revision for one in rows(place, Job))
    whole = {one.pipeline: one.id for one in rows(place, Job) if one.revision == last}

    found = agreement(place.db, place.store, "all CT")

    assert [pair.jobs for pair in found.pairs] == [(whole["bright"], whole["bright_v2"])]
    assert {one.n for one in found.dice.values()} == {1}


def test_segments_without_a_voxel_agree_on_nothing() -> None:
    empty, full = {(0.0,): np.zeros((2, 2), bool)}, {(0.0,): np.ones((2, 2), bool)}

    assert dice(empty, empty) is None
    assert dice(empty, full) == 0
    assert dice(full, full) == 1
    assert dice(full, {(1.0,): np.ones((2, 2), bool)}) == 0


def test_a_canary_takes_its_share_and_of_a_series_always_the_same_decision() -> None:
    canary = Canary("v2", 10)
    uids = [f"1.2.3.{number}" for number in range(5000)]

    taken = [uid for uid in uids if canary.takes(uid)]

    assert 400 < len(taken) < 600
    assert taken == [uid for uid in uids if canary.takes(uid)]
    assert all(Canary("v2", 50).takes(uid) for uid in taken)


def test_rules_see_the_weekday_and_the_time_in_the_hospitals_zone() -> None:
    at = datetime(2026, 7, 5, 22, 30, tzinfo=UTC)  # a Sunday; in Berlin Monday already

    assert arrival(at, zone=ZoneInfo("Europe/Berlin"), caller="CT1") == {
        "weekday": "mon",
        "time_of_day": "00:30",
        "caller": "CT1",
    }


@pytest.mark.parametrize(
    ("window", "holds"),
    [
        ('time: ["07:00", "19:00"]', ["mon 07:00", "sun 18:59"]),
        ('time: ["19:00", "07:00"]', ["mon 19:00", "mon 23:59", "tue 00:00", "tue 06:59"]),
        ('time: ["19:00", "07:00"], days: [fri]', ["fri 19:00", "fri 23:59", "sat 00:00", "sat 06:59"]),
        ("days: [sat, sun]", ["sat 00:00", "sun 23:59"]),
        ('time: ["00:00", "24:00"], days: [mon]', ["mon 00:00", "mon 23:59"]),
    ],
)
def test_a_time_window_holds_within_it_and_not_beside_it(window: str, holds: list[str]) -> None:
    rules = load(f"rules:\n  - {{name: w, when: {{all: [{{{window}}}]}}, pipeline: bright, send_to: [pacs]}}\n", **NAMES)
    (condition,) = rules.rules[0].conditions
    moments = [
        f"{day} {time}"
        for day in ("mon", "tue", "fri", "sat", "sun")
        for time in ("00:00", "06:59", "07:00", "18:59", "19:00", "23:59")
    ]

    held = [one for one in moments if condition.holds({}, dict(zip(("weekday", "time_of_day"), one.split(), strict=True)))]

    assert set(holds) <= set(held)
    assert not [one for one in held if "days" in window and one.split()[0] not in {two.split()[0] for two in holds}]
    told = condition.outcome({}, {"weekday": "wed", "time_of_day": "12:00"})
    assert told.why.endswith("; found wed 12:00")


@pytest.mark.parametrize("window", ["time: [7, 19]", 'time: ["7:00", "19:00"]', 'time: ["07:00", "07:00"]', 'time: ["25:00", "26:00"]', "days: [monday]", "days: mon", 'time: ["07:00", "19:00"], day: [mon]'])  # fmt: skip
def test_a_time_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(ConfigError, match="line 2, rule 'w': expected"):
        load(f"rules:\n  - {{name: w, when: {{all: [{{{window}}}]}}, pipeline: bright, send_to: [pacs]}}\n", **NAMES)


def test_the_caller_of_an_association_is_the_one_that_its_names_and_network_say() -> None:
    wide, narrow = (
        Caller("any CT", frozenset({"CT1"})),
        Caller.from_settings({"name": "room 3", "calling_ae_title": "CT1", "networks": ["10.1.0.0/16"]}),
    )
    proved = Caller("with certificate", frozenset({"CT1"}), certificate_names=frozenset({"ct1"}))

    def of(*callers: Caller, address: str = "10.1.2.3", ingest: str = "dimse") -> str:
        return Callers("AIGATEWAY", callers).caller_of(ingest, "CT1", "AIGATEWAY", address)

    assert of(narrow, wide) == "room 3"
    assert of(narrow, wide, address="10.2.0.1") == "any CT"
    assert of(proved) == "with certificate"
    assert of(proved, wide) == ""  # only its certificate would say
    assert of(wide, ingest="move") == "any CT"
    assert of(wide, address="10.2.0.1", ingest="dicomweb") == ""
    assert of() == ""


HOSTILE = ["<script>alert(1)</script>", "'; DROP TABLE gw_series; --", 'a" || true || "', "%n%s", "\u202egnp.exe", "😀", "../../etc", "{{7*7}}", "[red]x[/]"]  # fmt: skip


def test_hostile_words_in_names_and_values_stay_words(place: Place) -> None:
    printable = [one for one in HOSTILE if one.isprintable()]
    rules = "rules:\n" + "".join(
        f"  - {{name: {json.dumps(one, ensure_ascii=False)}, when: {{none: [{{attribute: SeriesDescription, is: {json.dumps(one, ensure_ascii=False)}}}]}}, pipeline: bright, send_to: [pacs]}}\n"
        for one in printable
    )
    series = ct_series(3)
    come(place, series)

    look(place, series, rules)

    assert [job.rules for job in rows(place, Job)] == [printable]
    assert sorted(one.rule for one in rows(place, RuleOutcome)) == sorted(printable)
    for one in set(HOSTILE) - set(printable):
        with pytest.raises(ConfigError, match="expected name: a text"):
            load(LIVE.replace("all CT", json.dumps(one)), **NAMES)
