"""Retention, on SQLite and on PostgreSQL: what may go goes when its time is over or the disk is full, and nothing before proof."""

import errno
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select, update
from structlog.testing import capture_logs

from gateway.acts import admin
from gateway.configuration.config import load
from gateway.configuration.sections import RetentionSection
from gateway.db import lock
from gateway.decisions.completeness import Policy
from gateway.decisions.rules import load as load_rules
from gateway.errors import ConfigError, Damaged, OutOfResources
from gateway.fetching.worklist import Worklist
from gateway.outputs import Equipment
from gateway.peers.dimse import Dimse
from gateway.pipeline import Needs, Pipeline
from gateway.roster import Roster
from gateway.rows.candidates import Candidate
from gateway.rows.performed import ProcedureStep
from gateway.rows.ruleset import Shadow
from gateway.rows.searches import Prior, PriorInstance, PriorSearch, PriorState, SearchState
from gateway.rows.tables import Delivery, Instance, Job, JobInstance, OutputInstance, Series, Version
from gateway.rows.trail import AuditEvent
from gateway.rows.workitems import Report
from gateway.serving.plan import plan
from gateway.serving.stages import Stages
from gateway.settle import settle
from gateway.store import Store
from gateway.telling.traces import Traces
from gateway.views import stories
from gateway.work import retention
from gateway.work.retention import retain
from gateway.work.shadow import release_job
from tests.door_fixture import Place, come
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.test_commit import asked_for, listening
from tests.test_commit import look as an_attempt
from tests.world import World

WEEK = RetentionSection(sources_days=7, outputs_days=7)
RULES = """\
rules:
  - name: chest CT
    when: {all: [{attribute: Modality, is: CT}]}
    pipeline: bright
    send_to: [pacs]
"""


class Disk(Store):
    """A store that says of itself how much room there is, and may die while it removes, or keep what it should."""

    free: list[int]
    dies = False
    stuck = ""

    def free_bytes(self) -> int:
        return self.free.pop(0) if len(self.free) > 1 else self.free[0]

    def discard(self, sha256: str) -> None:
        if self.dies:
            raise KeyboardInterrupt
        if sha256 == self.stuck:
            raise OSError(errno.EIO, "Input/output error")
        super().discard(sha256)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    place = Place(database_url, tmp_path)
    place.store = Disk(tmp_path / "store")
    place.store.free = [2**50]
    yield place
    place.close()


def a_series(place: Place, slices: int = 3, *, seed: int = 0, state: str = "complete") -> list[Dataset]:
    """It came, and settled."""
    series = ct_series(slices, seed=seed)
    come(place, series)
    with place.db.begin() as session:
        mine = update(Series).where(Series.series_instance_uid == series[0].SeriesInstanceUID)
        session.execute(mine.values(state=state, complete_at=place.now))
    return series


def a_job(place: Place, series: list[Dataset], state: str = "done", **deliveries: str) -> tuple[int, str]:
    """A job on that series whose one object goes to these peers; its number, and the store's key of the object."""
    with place.db.begin() as session:
        instances = session.scalars(select(Instance).where(Instance.series_instance_uid == series[0].SeriesInstanceUID)).all()
        job = Job(
            input_key=f"{series[0].SeriesInstanceUID[-40:]}", series_instance_uid=series[0].SeriesInstanceUID, revision=1, rules=["chest CT"],
            pipeline="bright", model="bright", send_to=list(deliveries), priority="routine", state=state, created_at=place.now,
            due_at=place.now, ended_at=place.now if state in {"done", "failed"} else None,
        )  # fmt: skip
        session.add(job)
        session.flush()
        for one in instances:
            session.add(JobInstance(job=job.id, sop_instance_uid=one.sop_instance_uid, sha256=one.sha256))
        file = place.store.put([f"result of {job.id}".encode()])
        uid = f"1.2.3.{job.id}"
        session.add(OutputInstance(sop_instance_uid=uid, job=job.id, study_instance_uid=series[0].StudyInstanceUID, series_instance_uid="1.2.3", sop_class_uid="1.2", modality="SEG", sha256=file.sha256, size=file.size, created_at=place.now))  # fmt: skip
        session.flush()
        for peer, reached in deliveries.items():
            sent_at = place.now if reached in {"sent", "proved"} else None
            proved_at = place.now if reached == "proved" else None
            session.add(Delivery(sop_instance_uid=uid, job=job.id, study_instance_uid=series[0].StudyInstanceUID, peer=peer, state=reached, created_at=place.now, due_at=place.now, sent_at=sent_at, proved_at=proved_at))  # fmt: skip
        return job.id, file.sha256


def a_round(
    place: Place, settings: RetentionSection = WEEK, *, after: timedelta = timedelta(), unproving: tuple[str, ...] = ()
) -> None:
    place.now += after
    retain(place.now, settings=settings, unproving=unproving, store=place.store, db=place.db)


def held(place: Place, series: list[Dataset]) -> int:
    """How many of its files are there; the rows say the same."""
    with place.db() as session:
        rows = session.scalars(select(Instance).where(Instance.series_instance_uid == series[0].SeriesInstanceUID)).all()
    assert [row.gone_at is None for row in rows] == [place.store.path(row.sha256).exists() for row in rows]
    return sum(row.gone_at is None for row in rows)


def removals(place: Place) -> list[dict]:
    with place.db() as session:
        return [
            event.detail
            for event in session.scalars(select(AuditEvent).where(AuditEvent.act == "file.removed").order_by(AuditEvent.id))
        ]


def test_without_settings_nothing_ever_goes(place: Place) -> None:
    series = a_series(place)
    _, result = a_job(place, series, pacs="proved")

    a_round(place, RetentionSection(), after=timedelta(days=4000))

    assert held(place, series) == 3
    assert place.store.check(result)


def test_what_is_proved_goes_when_its_days_are_over_and_the_trail_says_how_much(place: Place) -> None:
    series = a_series(place)
    job, result = a_job(place, series, pacs="proved", web="cancelled")

    a_round(place, after=timedelta(days=6, hours=23))
    assert (held(place, series), place.store.path(result).exists()) == (3, True)
    a_round(place, after=timedelta(hours=2))

    assert (held(place, series), place.store.path(result).exists()) == (0, False)
    sources, outputs = removals(place)
    assert (sources["instances"], sources["reason"]) == (3, "its days are over")
    assert sources["bytes"] > 3 * 1000
    assert (outputs["outputs"], outputs["bytes"]) == (1, len(f"result of {job}"))
    assert place.count(Instance) == 3


def test_a_round_that_finds_nothing_more_says_nothing_more(place: Place) -> None:
    a_job(place, a_series(place), pacs="proved")
    a_round(place, after=timedelta(days=8))

    a_round(place, after=timedelta(minutes=1))

    assert len(removals(place)) == 2


@pytest.mark.parametrize("state", ["queued", "sending", "sent", "held", "failed"])
def test_a_delivery_without_proof_keeps_source_and_result(place: Place, state: str) -> None:
    series = a_series(place)
    _, result = a_job(place, series, pacs="proved", web=state)

    a_round(place, after=timedelta(days=4000))

    assert held(place, series) == 3
    assert place.store.check(result)


def test_a_peer_that_is_not_sent_such_objects_keeps_nothing(place: Place) -> None:
    series = a_series(place)
    _, result = a_job(place, series, pacs="proved", mini="unwanted")

    a_round(place, after=timedelta(days=8))

    assert held(place, series) == 0
    assert not place.store.path(result).exists()


def test_what_was_sent_to_a_peer_that_proves_nothing_keeps_the_result_and_not_the_source(place: Place) -> None:
    series = a_series(place)
    _, result = a_job(place, series, pacs="sent")

    a_round(place, after=timedelta(days=8), unproving=("pacs",))

    assert held(place, series) == 0
    assert place.store.check(result)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_that_waits_or_runs_keeps_its_instances(place: Place, state: str) -> None:
    series = a_series(place)
    a_job(place, series, state)

    a_round(place, after=timedelta(days=4000))

    assert held(place, series) == 3


def a_prior(place: Place, series: list[Dataset], job: int) -> None:
    """That series is one that the job gets."""
    row = {"peer": "pacs", "study_instance_uid": series[0].StudyInstanceUID, "modality": "CT", "state": PriorState.HERE}
    with place.db.begin() as session:
        session.add(PriorSearch(id=job, begun_at=place.now, due_at=place.now, deadline_at=place.now, state=SearchState.DONE))
        session.flush()
        session.add(prior := Prior(job=job, series_instance_uid=series[0].SeriesInstanceUID, **row))
        session.flush()
        for one in session.scalars(select(Instance).where(Instance.series_instance_uid == prior.series_instance_uid)):
            session.add(PriorInstance(prior=prior.id, sop_instance_uid=one.sop_instance_uid, sha256=one.sha256))


@pytest.mark.parametrize(("state", "kept"), [("queued", 3), ("running", 3), ("failed", 0)])
def test_a_prior_stays_while_a_job_that_gets_it_waits_or_runs(place: Place, state: str, kept: int) -> None:
    prior, series = a_series(place), a_series(place, seed=1)
    a_prior(place, prior, a_job(place, series, state)[0])

    a_round(place, after=timedelta(days=4000))

    assert held(place, prior) == kept


@pytest.mark.parametrize(
    ("settings", "after"), [(WEEK, timedelta(days=6)), (RetentionSection(pressure_free_bytes=1000), timedelta(days=4000))],
    ids=["days", "pressure"],
)  # fmt: skip
def test_a_prior_of_a_job_that_failed_stays_as_long_as_the_series_of_the_job(
    place: Place, settings: RetentionSection, after: timedelta
) -> None:
    prior = a_series(place)
    place.now += timedelta(days=5)
    series = a_series(place, seed=1)
    a_prior(place, prior, a_job(place, series, "failed")[0])
    place.store.free = [10]

    a_round(place, settings, after=after)

    assert (held(place, series), held(place, prior)) == (3, 3)


@pytest.mark.parametrize(("state", "kept"), [("waiting", 3), ("taken", 0), ("passed", 0)])
@pytest.mark.parametrize("settings", [WEEK, RetentionSection(pressure_free_bytes=1000)], ids=["days", "pressure"])
def test_a_series_that_waits_for_its_study_to_be_complete_stays(
    place: Place, settings: RetentionSection, state: str, kept: int
) -> None:
    series = a_series(place)
    place.store.free = [10]
    with place.db.begin() as session:
        session.add(Candidate(series_instance_uid=series[0].SeriesInstanceUID, revision=1, pipeline="bright", study_instance_uid=series[0].StudyInstanceUID, state=state, traits={}, rules=[], send_to=[], priority="routine", priority_by="", made_at=place.now, due_at=place.now))  # fmt: skip

    a_round(place, settings, after=timedelta(days=4000))

    assert held(place, series) == kept


def test_a_series_that_is_still_received_stays(place: Place) -> None:
    series = a_series(place, state="receiving")

    a_round(place, after=timedelta(days=4000))

    assert held(place, series) == 3


def test_a_series_that_no_rule_wanted_goes_when_its_days_are_over(place: Place) -> None:
    series = a_series(place)

    a_round(place, after=timedelta(days=8))

    assert held(place, series) == 0


@pytest.mark.parametrize("deliveries", [{}, {"pacs": "unwanted"}])
def test_a_result_that_went_to_nobody_stays(place: Place, deliveries: dict[str, str]) -> None:
    _, result = a_job(place, a_series(place), **deliveries)

    a_round(place, after=timedelta(days=4000))

    assert place.store.check(result)


def in_the_shadow(place: Place, job: int) -> None:
    with place.db.begin() as session:
        session.add(Shadow(job=job, beside="", released_by=""))


def test_results_in_the_shadow_that_nobody_released_go_when_their_own_days_are_over(place: Place) -> None:
    job, result = a_job(place, a_series(place))
    in_the_shadow(place, job)
    place.store.free = [10]
    own = RetentionSection(shadow_days=30)
    a_round(place, RetentionSection(outputs_days=7, pressure_free_bytes=1000), after=timedelta(days=29))
    a_round(place, own)
    assert place.store.check(result)

    a_round(place, own, after=timedelta(days=2))

    assert not place.store.path(result).exists()
    assert [one["reason"] for one in removals(place) if "outputs" in one] == ["their days are over"]
    with pytest.raises(ConfigError, match=f"job {job}: .* their days were over"):
        release_job(place.db, place.queues, job, actor="anna", now=place.now)


def test_results_that_a_person_released_from_the_shadow_wait_for_proof_like_all_others(place: Place) -> None:
    job, result = a_job(place, a_series(place))
    in_the_shadow(place, job)
    with place.db.begin() as session:
        session.get_one(Job, job).send_to = ["pacs"]
    release_job(place.db, place.queues, job, actor="anna", now=place.now)

    a_round(place, RetentionSection(outputs_days=7, shadow_days=7), after=timedelta(days=30))

    assert place.store.check(result)


def test_days_are_counted_from_the_last_thing_that_happened(place: Place) -> None:
    series = a_series(place)
    place.now += timedelta(days=20)
    _, result = a_job(place, series, pacs="proved")

    a_round(place, after=timedelta(days=1))
    assert held(place, series) == 3
    assert place.store.check(result)
    a_round(place, after=timedelta(days=7))

    assert held(place, series) == 0


def test_a_version_that_was_kept_apart_stays(place: Place) -> None:
    series = a_series(place)
    series[0].SeriesDescription = "changed"
    place.take(series[0])

    a_round(place, after=timedelta(days=4000))

    with place.db() as session:
        assert place.store.check(session.scalars(select(Version.sha256)).one())
    assert held(place, series) == 0


def test_a_result_that_came_back_is_two_rows_and_one_file_that_stays_until_both_may_go(place: Place) -> None:
    series = a_series(place)
    job, _ = a_job(place, a_series(place, seed=1), pacs="sent")
    with place.db.begin() as session:
        came = session.scalars(select(Instance).where(Instance.series_instance_uid == series[0].SeriesInstanceUID)).first()
        session.add(OutputInstance(sop_instance_uid=came.sop_instance_uid, job=job, study_instance_uid="1.2", series_instance_uid="1.2", sop_class_uid="1.2", modality="SEG", sha256=came.sha256, size=1, created_at=place.now))  # fmt: skip

    a_round(place, after=timedelta(days=8))

    with place.db() as session:
        assert session.get_one(Instance, came.sop_instance_uid).gone_at == place.now
    assert place.store.check(came.sha256)


def test_what_a_crash_leaves_between_row_and_file_the_next_round_takes(place: Place) -> None:
    series = a_series(place)
    _, result = a_job(place, series, pacs="proved")
    place.store.dies = True
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            a_round(place, RetentionSection(sources_days=7), after=timedelta(days=8))
    with pytest.raises(KeyboardInterrupt):
        a_round(place, RetentionSection(outputs_days=7))
    assert place.store.path(result).exists()

    place.store.dies = False
    a_round(place)

    assert held(place, series) == 0
    assert not place.store.path(result).exists()
    assert len(removals(place)) == 2


# --- A full disk ---


def test_a_nearly_full_disk_takes_the_oldest_first_and_no_more_than_it_must(place: Place) -> None:
    all_series = []
    for seed in range(3):
        all_series.append(a_series(place, seed=seed))
        place.now += timedelta(hours=1)
    place.store.free = [10, 10, 10, 2000]

    a_round(place, RetentionSection(pressure_free_bytes=1000))

    assert [held(place, series) for series in all_series] == [0, 0, 3]
    assert {one["reason"] for one in removals(place)} == {"the disk is nearly full"}


def test_a_nearly_full_disk_takes_nothing_without_proof_nothing_that_failed_and_nothing_fresh(place: Place) -> None:
    unproved, failed = a_series(place, seed=1), a_series(place, seed=2)
    a_job(place, unproved, pacs="sent")
    a_job(place, failed, "failed", pacs="proved")
    place.now += timedelta(hours=1)
    fresh = a_series(place, seed=3)
    place.store.free = [10]

    a_round(place, RetentionSection(pressure_free_bytes=1000), after=timedelta(minutes=1))

    assert [held(place, series) for series in (unproved, failed, fresh)] == [3, 3, 3]


def test_a_disk_with_room_takes_nothing_before_its_days(place: Place) -> None:
    series = a_series(place)

    a_round(place, RetentionSection(pressure_free_bytes=1000), after=timedelta(days=1))

    assert held(place, series) == 3


# --- What is gone and comes again ---


def test_instances_that_are_gone_and_come_again_are_held_again_without_a_second_job(place: Place) -> None:
    series = a_series(place)
    a_job(place, series, pacs="proved")
    a_round(place, after=timedelta(days=8))
    assert held(place, series) == 0

    for ds in series:
        place.take(ds)

    assert held(place, series) == 3
    assert (place.count(Job), place.count(Instance), place.count(Version)) == (1, 3, 0)
    assert place.count(AuditEvent, act="instance.repeated") == 3
    assert place.count(Series, gone_at=None, revision=1) == 1


def test_what_came_again_goes_again(place: Place) -> None:
    series = a_series(place)
    a_job(place, series, pacs="proved")
    a_round(place, after=timedelta(days=8))
    for ds in series:
        place.take(ds)
    with place.db.begin() as session:
        session.execute(update(Series).values(state="complete"))

    a_round(place)

    assert held(place, series) == 0
    assert len(removals(place)) == 3


def test_a_file_that_retention_removes_while_it_comes_again_is_filed_once_more(place: Place) -> None:
    (ds,) = series = a_series(place, 1)
    a_round(place, after=timedelta(days=8))
    place.bring(ds)
    file, store = place.store.file, place.store

    def filed_and_removed(arrived):
        digests = file(arrived)
        store.discard(digests[0])
        return digests

    store.file = filed_and_removed
    with pytest.raises(OutOfResources):
        place.file()
    store.file = file
    place.file()

    assert held(place, series) == 1


def test_a_series_that_comes_again_while_retention_takes_it_is_whole_or_gone(place: Place) -> None:
    series = a_series(place, 4)
    stop, broke = threading.Event(), []

    def take() -> None:
        at_once = RetentionSection(sources_days=0)
        while not stop.is_set():
            try:
                retain(place.now + timedelta(days=1), settings=at_once, unproving=(), store=place.store, db=place.db)
            except Exception as error:
                broke.append(error)

    taker = threading.Thread(target=take)
    taker.start()
    try:
        for _ in range(15):
            for ds in series:
                place.bring(ds)
            for _ in range(50):
                try:
                    place.file()
                    break
                except OutOfResources:
                    continue
            with place.db.begin() as session:
                session.execute(update(Series).values(state="complete"))
    finally:
        stop.set()
        taker.join()

    assert broke == []
    with place.db() as session:
        rows = session.scalars(select(Instance)).all()
    assert all(place.store.check(row.sha256) for row in rows if row.gone_at is None)
    a_round(place, RetentionSection(sources_days=0), after=timedelta(days=1))
    assert held(place, series) == 0


def look(place: Place, series: list[Dataset]) -> None:
    """Settle, a minute later."""
    place.now += timedelta(minutes=1)
    bright = Pipeline("1", "bright", Needs("CT"), lambda _study, _infer: ())
    settle(
        series[0].SeriesInstanceUID, place.now, policy=Policy(10, 60), pipelines={"bright": bright}, store=place.store,
        rules=load_rules(RULES, pipelines=("bright",), peers=("pacs",)), equipment=Equipment("m", "n", "1", "1"), db=place.db,
        queues=place.queues,
    )  # fmt: skip


def test_a_late_instance_of_a_series_that_is_gone_waits_for_the_others_to_come_again(place: Place) -> None:
    series = ct_series(4)
    come(place, series[:3])
    look(place, series)
    with place.db.begin() as session:
        session.execute(update(Job).values(state="done", ended_at=place.now))
    a_round(place, after=timedelta(days=8))

    come(place, series[3:])
    look(place, series)
    with place.db() as session:
        row = session.scalars(select(Series)).one()
    assert (row.state, row.revision, row.reason.split(";")[0]) == ("complete", 2, "held: retention took 3 of its 4 instances")
    assert place.count(Job) == 1

    come(place, series[:3])
    look(place, series)

    with place.db() as session:
        first, second = session.scalars(select(Job).order_by(Job.id)).all()
    assert (second.revision, second.supersedes) == (2, first.id)
    assert place.count(JobInstance, job=second.id) == 4


# --- Who asks for what is gone is told ---


def test_a_job_whose_instances_are_gone_is_not_tried_again_and_says_why(place: Place) -> None:
    job, _ = a_job(place, a_series(place), "failed", pacs="proved")
    a_round(place, after=timedelta(days=8))

    with pytest.raises(ConfigError, match="retention took 3 of its instances: send the series again"):
        admin.retry_job(place.db, place.queues, job, actor="ann", now=place.now)
    assert stories.show_job(place.db, job).gone == 3


def test_a_job_whose_priors_are_gone_is_not_tried_again_and_says_why(place: Place) -> None:
    job, _ = a_job(place, a_series(place), "failed")
    a_prior(place, prior := a_series(place, seed=1), job)
    with place.db.begin() as session:
        mine = update(Instance).where(Instance.series_instance_uid == prior[0].SeriesInstanceUID)
        session.execute(mine.values(gone_at=place.now))

    with pytest.raises(ConfigError, match="retention took 3 instances of its priors: send them again"):
        admin.retry_job(place.db, place.queues, job, actor="ann", now=place.now)


@pytest.mark.parametrize("whose", ["series", "prior"])
def test_a_job_is_not_tried_again_while_retention_takes_its_instances(place: Place, whose: str) -> None:
    series, prior = a_series(place), a_series(place, seed=1)
    job, _ = a_job(place, series, "failed")
    a_prior(place, prior, job)
    going, said = {"series": series, "prior": prior}[whose][0].SeriesInstanceUID, []

    def retry() -> None:
        try:
            said.append(admin.retry_job(place.db, place.queues, job, actor="ann", now=place.now))
        except ConfigError as error:
            said.extend(error.problems)

    person = threading.Thread(target=retry)
    with place.db.begin() as session:  # as retention does
        lock(session, Series, going)
        session.execute(update(Instance).where(Instance.series_instance_uid == going).values(gone_at=place.now))
        person.start()
        person.join(1)
    person.join()

    assert "retention took 3" in said[0]
    assert place.count(Job, state="failed") == 1


def test_who_reads_a_file_that_is_gone_is_told_that_it_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="not there any more: unless retention took it"):
        Store(tmp_path).check("0" * 64)


def test_what_is_gone_is_not_committed_any_more(place: Place) -> None:
    (ds,) = a_series(place, 1)
    a_round(place, after=timedelta(days=8))
    key = asked_for(place, (ds.SOPClassUID, ds.SOPInstanceUID))
    place.now += timedelta(hours=1)

    assert an_attempt(place, key).failures == [[ds.SOPClassUID, ds.SOPInstanceUID, 0x0112]]


def test_what_went_after_it_was_checked_and_before_the_modality_came_back_is_not_committed(place: Place) -> None:
    (ds,) = series = a_series(place, 1)
    modality = Dimse(name="ct1", host="127.0.0.1", port=free_port(), ae_title="CT1")
    key = asked_for(place, (ds.SOPClassUID, ds.SOPInstanceUID))
    place.now += timedelta(seconds=1)
    checked, not_reported = an_attempt(place, key, modality), an_attempt(place, key, modality)
    assert (checked.state, checked.failures, not_reported.state) == ("checked", [], "checked")
    a_round(place, after=timedelta(days=8))

    with listening(modality.port) as scanner:
        reported = an_attempt(place, key, modality)

    assert held(place, series) == 0
    assert scanner.told("1.2.4") == [(2, {ds.SOPInstanceUID: 0x0112})]
    assert (reported.state, reported.failures) == ("reported", [[ds.SOPClassUID, ds.SOPInstanceUID, 0x0112]])


# --- What a disk does not let go of ---


def digests(place: Place, series: list[Dataset]) -> list[str]:
    with place.db() as session:
        return [session.get_one(Instance, ds.SOPInstanceUID).sha256 for ds in series]


def test_a_file_that_cannot_be_removed_holds_up_nothing_else_and_is_removed_once_it_can(place: Place) -> None:
    first, second = a_series(place), a_series(place, seed=1)
    stuck = place.store.stuck = digests(place, first)[1]

    with capture_logs() as logs:
        a_round(place, after=timedelta(days=8))

    assert [place.store.path(one).exists() for one in digests(place, first)] == [False, True, False]
    assert held(place, second) == 0
    assert place.count(Series, gone_at=None) == 1
    assert [one["path"] for one in logs if one["event"] == "file.not_removed"] == [str(place.store.path(stuck))]
    place.store.stuck = ""
    a_round(place)
    assert held(place, first) == 0
    assert (place.count(Series, gone_at=None), len(removals(place))) == (0, 2)


def test_series_whose_files_cannot_be_removed_take_no_other_its_turn(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_SERIES", 1)
    first, second = a_series(place), a_series(place, seed=1)
    place.store.stuck = digests(place, first)[0]

    a_round(place, after=timedelta(days=8))
    a_round(place)

    assert held(place, second) == 0


def test_a_result_that_cannot_be_removed_is_removed_once_it_can(place: Place) -> None:
    results = [a_job(place, a_series(place, seed=seed), pacs="proved")[1] for seed in range(2)]
    place.store.stuck = results[0]

    a_round(place, after=timedelta(days=8))
    assert [place.store.path(one).exists() for one in results] == [True, False]
    place.store.stuck = ""
    a_round(place)

    assert not place.store.path(results[0]).exists()


# --- The sweep ---


def swept(place: Place, database_url: str, folder: Path) -> None:
    """One sweep of a gateway with a week's retention, eight days later."""
    world = World(folder / "world", database_url, "127.0.0.1:1", settings={"retention": {"sources_days": 7}})
    place.now += timedelta(days=8)
    config = load(world.config)
    stages = Stages(
        plan=plan(config), peers=Roster(config, place.db), clock=lambda: place.now, filed_at=lambda: place.now, filed_by=lambda moment: moment,
        listening_since=lambda: None, store=place.store, models=None, worklist=Worklist(dict, clock=lambda: place.now),
        sources=None, archives=None, rules=None, traces=Traces(place.db, clock=lambda: place.now), db=place.db, queues=place.queues,
    )  # fmt: skip
    next(stage for stage in stages if stage.name == "sweep").act("sweep")


def test_the_sweep_of_a_gateway_does_what_its_configuration_says(place: Place, database_url: str, tmp_path: Path) -> None:
    series = a_series(place)

    swept(place, database_url, tmp_path)

    assert held(place, series) == 0


def test_a_retention_that_breaks_off_keeps_nothing_else_from_being_tidied_away(
    place: Place, database_url: str, tmp_path: Path
) -> None:
    a_series(place)
    long_ago = place.now - timedelta(days=400)
    with place.db.begin() as session:
        session.add(Report(ae_title="CT1", sop_instance_uid="1.2.9", kind=1, state="SCHEDULED", document="", at=long_ago))
        session.add(ProcedureStep(sop_instance_uid="1.2.8", study_instance_uid="1.2", state="COMPLETED", ae_title="CT1", began_at=long_ago, changed_at=long_ago))  # fmt: skip
    place.store.dies = True

    with pytest.raises(KeyboardInterrupt):
        swept(place, database_url, tmp_path)

    assert (place.count(Report), place.count(ProcedureStep)) == (0, 0)
