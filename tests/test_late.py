"""What comes late, twice, or in pieces, and patients that change meanwhile: every decision is a row (standards.md 5.4, F54 to F60).

The doors' part of F54 and F57 is in test_ingest_content.py, the whole way in test_path.py; here is what is decided, on SQLite and
on PostgreSQL, with a clock that can be moved.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from gateway.acts import admin
from gateway.acts.retract import retract
from gateway.decisions.completeness import Policy
from gateway.decisions.rules import load as load_rules
from gateway.deliver import deliver
from gateway.dicom.instance import Origin
from gateway.engine import SETTLE, settle_attempt
from gateway.errors import ConfigError, ModelUnavailable, Unreachable
from gateway.outputs import Equipment
from gateway.peers import Proof, Sent, Sought
from gateway.pipeline import load_pipelines
from gateway.receive import receive
from gateway.rows.tables import (
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobInstance,
    JobState,
    OutputInstance,
    Series,
    SeriesState,
    Study,
    Version,
)
from gateway.rows.trail import AuditEvent
from gateway.run import CRASHES_AT_MOST, run
from gateway.settle import settle
from gateway.views import lists, stories, wanted
from gateway.work.delivery import Pace
from gateway.work.lent import sent_over
from gateway.work.weigh import came, gather
from tests.door_fixture import NOW, Place, come, scanner
from tests.synthetic import ct_series

RULES = """\
rules:
  - name: chest CT
    when: {all: [{attribute: Modality, is: CT}]}
    pipeline: bright
    send_to: [pacs]
"""
EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
PIPELINES = {"bright": load_pipelines([Path(__file__).parent / "pipelines"])["bright"]}


def look(
    place: Place, series: Sequence[Dataset], *, after: timedelta = timedelta(seconds=30), rules: str = RULES, **more: object
) -> None:
    """Settle, that much later."""
    place.now += after
    settle(
        series[0].SeriesInstanceUID, place.now, policy=Policy(10, 3600), pipelines=PIPELINES, equipment=EQUIPMENT, store=place.store,
        rules=load_rules(rules, pipelines=("bright",), peers=("pacs",)), db=place.db, queues=place.queues, **more,
    )  # fmt: skip


@dataclass
class Models:
    """Triton as run wants it; `meanwhile` happens while the model thinks."""

    meanwhile: Callable[[], object] = lambda: None
    version: str = "1"
    weights: str = "ab" * 32

    def identity(self, _model: str) -> "Models":
        return self

    def infer(self, _model: str) -> Callable:
        def answer(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.meanwhile()
            return {"labels": (arrays["volume"] > -500).astype(np.uint8)}

        return answer


def work(place: Place, job: int, models: Models | None = None, begun: dict[int, int] | None = None) -> None:
    run(
        job, clock=lambda: place.now, pipelines=PIPELINES, models=models or Models(), equipment=EQUIPMENT, store=place.store,
        db=place.db, queues=place.queues, begun={} if begun is None else begun,
    )  # fmt: skip


def jobs(place: Place) -> list[Job]:
    return [row.job for row in lists.jobs(place.db, wanted.Wanted()).rows][::-1]


def acts(place: Place, *which: str) -> list[str]:
    with place.db() as session:
        told = session.scalars(select(AuditEvent.act).order_by(AuditEvent.id)).all()
    return [act for act in told if act in which]


def inputs(place: Place, job: Job) -> int:
    return place.count(JobInstance, job=job.id)


# --- When it is looked at, where other receivers lag ---


def lagging(place: Place, series: Sequence[Dataset], *, now: float, as_of: float) -> Series:
    """Settle, so many seconds after the series came; the row as it is then."""
    settle(
        series[0].SeriesInstanceUID, NOW + timedelta(seconds=now), as_of=NOW + timedelta(seconds=as_of), policy=Policy(10, 3600),
        pipelines=PIPELINES, equipment=EQUIPMENT, store=place.store, db=place.db, queues=place.queues,
        rules=load_rules(RULES, pipelines=("bright",), peers=("pacs",)),
    )  # fmt: skip
    with place.db() as session:
        return session.get_one(Series, series[0].SeriesInstanceUID)


def is_looked_at(place: Place, row: Series) -> bool:
    return place.queues.is_alive(SETTLE, row.series_instance_uid, settle_attempt(row.revision, row.due_at))


def test_a_lag_of_another_receiver_makes_a_series_wait_for_it_and_no_longer(place: Place) -> None:
    series = ct_series(2)
    come(place, series)
    seen = []

    for now, as_of, due in ((4, 1, 10.05), (10.1, 2, 11.1), (11.1, 3, 12.1), (12.1, 9.7, 12.4), (12.4, 9.99, 12.45)):
        row = lagging(place, series, now=now, as_of=as_of)

        assert row.due_at == NOW + timedelta(seconds=due)
        assert row.state == SeriesState.RECEIVING
        assert is_looked_at(place, row)
        seen.append(row.due_at)
    assert sorted(set(seen)) == seen

    row = lagging(place, series, now=12.45, as_of=10)
    assert (row.state, row.complete_at) == (SeriesState.COMPLETE, NOW + timedelta(seconds=12.45))


def test_a_host_whose_clock_is_behind_looks_again_though_that_due_time_had_its_look(place: Place) -> None:
    series = ct_series(2)
    come(place, series)
    first = lagging(place, series, now=4, as_of=4)

    again = lagging(place, series, now=9, as_of=9)

    assert first.due_at < again.due_at < first.due_at + timedelta(seconds=1)
    assert is_looked_at(place, again)


def test_a_series_of_which_every_instance_was_kept_apart_is_not_looked_at_over_and_over(place: Place) -> None:
    series, other = ct_series(1, seed=1), ct_series(1, seed=2)
    other[0].SOPInstanceUID = other[0].file_meta.MediaStorageSOPInstanceUID = series[0].SOPInstanceUID
    come(place, series)
    come(place, other)

    row = lagging(place, other, now=60, as_of=60)

    assert (row.state, row.reason) == (SeriesState.RECEIVING, "no instances")
    assert not is_looked_at(place, row)


# --- The same again (F54, F55) ---


def test_the_same_series_ten_times_at_once_is_one_copy_and_one_job(place: Place) -> None:
    series = ct_series(4)
    for _ in range(10):
        origin = scanner()
        for ds in series:
            place.bring(ds, origin)
        place.door.end(origin)
    found, broke = place.promised(), []

    def file(part: int) -> None:
        try:
            receive(
                found[part::10], place.now, store=place.store, db=place.db, queues=place.queues, quiet=timedelta(seconds=10),
                executor="tests", told=lambda *_: None,
            )  # fmt: skip
        except Exception as error:
            broke.append(error)

    threads = [threading.Thread(target=file, args=(part,)) for part in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    look(place, series, after=timedelta(hours=2))

    assert broke == []
    assert (place.count(Instance), place.count(Version), len(jobs(place))) == (4, 0, 1)
    assert len(acts(place, "instance.received")) == 4
    assert len(acts(place, "instance.repeated")) == 36


def test_a_study_that_is_sent_again_a_week_later_makes_no_job_and_the_trail_says_so(place: Place) -> None:
    series = ct_series(4)
    come(place, series)
    look(place, series)

    place.now += timedelta(days=7)
    come(place, series)
    look(place, series)

    assert len(jobs(place)) == 1
    assert acts(place, "instance.repeated", "series.reopened", "job.created") == ["job.created", *["instance.repeated"] * 4]
    assert place.count(Series, revision=1, state="complete") == 1


# --- In pieces (F56, F57, F58) ---


def test_studies_that_come_mixed_and_out_of_order_over_one_association_are_grouped_by_what_they_are(place: Place) -> None:
    studies = [ct_series(4, seed=seed) for seed in range(3)]
    mixed = [ds for series in studies for ds in series]
    random.Random(1).shuffle(mixed)

    come(place, mixed)
    for series in studies:
        look(place, series)

    with place.db() as session:
        for series, job in zip(studies, jobs(place), strict=True):
            used = set(session.scalars(select(JobInstance.sop_instance_uid).where(JobInstance.job == job.id)))
            assert used == {ds.SOPInstanceUID for ds in series}
            assert session.get_one(Series, job.series_instance_uid).study_instance_uid == series[0].StudyInstanceUID


def test_one_study_over_eight_associations_of_two_ae_titles_is_one_job(place: Place) -> None:
    series = ct_series(16)
    for part in range(8):
        origin = scanner()
        come(place, series[part::8], Origin("dimse", origin.association, f"CT{part % 2}", "AIGATEWAY", "127.0.0.1"))

    look(place, series)

    (job,) = jobs(place)
    assert inputs(place, job) == 16
    with place.db() as session:
        assert session.scalars(select(Series.reason)).one().startswith("8 associations ended")


def test_a_series_is_whose_who_sent_it_whatever_came_of_it_because_we_asked(place: Place) -> None:
    series = ct_series(4)
    come(place, series[:2], scanner())
    come(place, series[2:], replace(scanner(), ingest="move", calling_ae_title="PACS"))
    other = ct_series(2, seed=7)
    come(place, other, replace(scanner(), ingest="move", calling_ae_title="PACS"))

    with place.db() as session:
        rows = [session.get_one(Series, one[0].SeriesInstanceUID) for one in (series, other)]
        assert [came(session, row).calling_ae_titles for row in rows] == [{"CT1"}, {"PACS"}]
        last = session.get_one(Instance, series[-1].SOPInstanceUID)
        assert sent_over(session, last).calling_ae_title == "CT1"


def test_what_only_says_that_we_asked_for_it_is_for_rules_as_anything_that_is_sent(place: Place) -> None:
    series, half, origin = ct_series(4), ct_series(2, seed=7), replace(scanner(), ingest="move")
    come(place, series, replace(scanner(), ingest="move"))
    place.take(half[0], origin)
    place.door.end(origin, broken=True)
    place.file()

    look(place, series, rules=RULES.replace("is: CT}", "is: CT}, {fact: ingest, is: dimse}"))

    assert len(jobs(place)) == 1
    with place.db() as session:
        assert gather(session, session.get_one(Series, half[0].SeriesInstanceUID)).broken_off  # whoever sends it may come back


def test_what_is_sent_while_the_headers_of_what_we_asked_for_are_read_is_looked_at_again(place: Place) -> None:
    series, rules = ct_series(4), RULES.replace("is: CT}", "is: CT}, {fact: calling_ae_title, is: CT1}")
    come(place, series, replace(scanner(), ingest="move", calling_ae_title="PACS"))

    look(place, series, rules=rules, arrival=lambda *_: come(place, series) or {})
    look(place, series, rules=rules)

    assert len(jobs(place)) == 1


def test_half_a_series_is_worked_on_and_the_rest_two_hours_later_makes_a_revision(place: Place) -> None:
    series = ct_series(8)
    come(place, series[:4])
    look(place, series)
    work(place, jobs(place)[0].id)

    place.now += timedelta(hours=2)
    come(place, series[4:])
    look(place, series)

    first, second = jobs(place)
    assert (first.state, inputs(place, first)) == (JobState.DONE, 4)
    assert (second.revision, second.supersedes, inputs(place, second)) == (2, first.id, 8)
    assert acts(place, "series.complete", "series.reopened") == ["series.complete", "series.reopened", "series.complete"]
    assert list(stories.show_job(place.db, first.id).superseded_by) == [second.id]


def made(place: Place, job: int) -> tuple[Dataset, Dataset]:
    """The segmentation and the report of a job."""
    with place.db() as session:
        found = session.scalars(select(OutputInstance).where(OutputInstance.job == job, OutputInstance.retracts == "")).all()
    read = {one.modality: dcmread(place.store.path(one.sha256)) for one in found}
    return read["SEG"], read["SR"]


def test_results_of_a_later_revision_say_so_and_its_report_names_the_one_whose_place_it_takes(place: Place) -> None:
    """A PACS shows both, and nothing else would tell them apart."""
    series = ct_series(8)
    for count in (4, 6, 8):
        come(place, series[count - 4 if count == 4 else count - 2 : count])
        look(place, series)
        work(place, jobs(place)[-1].id)
        place.now += timedelta(hours=2)

    (seg, sr), (second_seg, second_sr), (_, third_sr) = (made(place, job.id) for job in jobs(place))
    assert [seg.SeriesDescription[:4], sr.get("PredecessorDocumentsSequence")] == ["Not ", None]
    assert [one.SeriesDescription for one in (second_seg, second_sr)] == [
        f"REVISION 2 - {one.SeriesDescription}"[:64] for one in (seg, sr)
    ]
    assert predecessors(second_sr) == [(sr.StudyInstanceUID, sr.SeriesInstanceUID, sr.SOPClassUID, sr.SOPInstanceUID)]
    assert [uid for *_, uid in predecessors(third_sr)] == [second_sr.SOPInstanceUID]


def predecessors(report: Dataset) -> list[tuple[str, str, str, str]]:
    return [
        (study.StudyInstanceUID, one.SeriesInstanceUID, sop.ReferencedSOPClassUID, sop.ReferencedSOPInstanceUID)
        for study in report.PredecessorDocumentsSequence
        for one in study.ReferencedSeriesSequence
        for sop in one.ReferencedSOPSequence
    ]


@pytest.mark.parametrize("state", [DeliveryState.CANCELLED, DeliveryState.UNWANTED])
def test_results_that_nobody_has_or_that_were_taken_back_have_no_successor(place: Place, state: DeliveryState) -> None:
    series = ct_series(8)
    come(place, series[:4])
    look(place, series)
    (first,) = jobs(place)
    work(place, first.id)
    with place.db.begin() as session:
        session.execute(update(Delivery).values(state=state))
    come(place, series[4:6])
    look(place, series)
    work(place, jobs(place)[1].id)
    unsent, _ = made(place, jobs(place)[1].id)
    retract(
        place.db, place.queues, job=jobs(place)[1].id, reason="quality", actor="ann", now=place.now, equipment=EQUIPMENT,
        store=place.store,
    )  # fmt: skip
    come(place, series[6:])
    look(place, series)
    work(place, jobs(place)[2].id)

    seg, sr = made(place, jobs(place)[2].id)
    assert [one.SeriesDescription[:4] for one in (unsent, seg, sr)] == ["Not "] * 3
    assert "PredecessorDocumentsSequence" not in sr


def test_half_a_series_whose_association_never_ends_is_taken_as_it_is_at_the_deadline(place: Place) -> None:
    series = ct_series(8)
    for ds in series[:4]:
        place.take(ds, scanner("open"))
    look(place, series, after=timedelta(minutes=59))
    assert jobs(place) == []

    look(place, series, after=timedelta(minutes=2))

    (job,) = jobs(place)
    assert inputs(place, job) == 4
    with place.db() as session:
        assert "1 of 1 association not ended" in session.scalars(select(Series.reason)).one()


class Beside(Models):
    """The database goes away while a job has it say which weights it has."""

    def identity(self, _model: str) -> "Models":
        raise OperationalError("UPDATE", {}, ConnectionError())


def test_a_database_that_is_away_while_a_job_runs_is_no_end_of_its_process(place: Place) -> None:
    series, begun = ct_series(8), {}
    come(place, series)
    look(place, series)
    (job,) = jobs(place)

    for _ in range(CRASHES_AT_MOST):
        with pytest.raises(OperationalError):
            work(place, job.id, Beside(), begun)
    work(place, job.id, begun=begun)

    assert (jobs(place)[0].state, begun) == (JobState.DONE, {})


def test_the_rest_of_a_series_cancels_the_job_on_its_half_that_has_not_begun(place: Place) -> None:
    series = ct_series(8)
    come(place, series[:4])
    look(place, series)
    come(place, series[4:])
    look(place, series)

    first, second = jobs(place)
    assert (first.state, first.reason) == (JobState.CANCELLED, "superseded by revision 2 of the series")
    assert (second.state, second.supersedes) == (JobState.QUEUED, first.id)
    with pytest.raises(ConfigError, match=f"superseded by revision 2 of the series, which is job {second.id}"):
        admin.retry_job(place.db, place.queues, first.id, actor="ann", now=place.now)


# --- While the model thinks (F59) ---


def test_a_late_slice_during_inference_makes_a_revision_and_the_result_without_it_is_known_to_be_superseded(place: Place) -> None:
    series = ct_series(8)
    come(place, series[:7])
    look(place, series)
    (first,) = jobs(place)

    def late() -> None:
        come(place, series[7:])
        look(place, series)

    work(place, first.id, Models(meanwhile=late))
    work(place, jobs(place)[1].id)

    first, second = jobs(place)
    assert (first.state, second.state) == (JobState.DONE, JobState.DONE)
    assert (inputs(place, first), inputs(place, second)) == (7, 8)
    assert (second.revision, second.supersedes) == (2, first.id)
    assert list(stories.show_job(place.db, first.id).superseded_by) == [second.id]
    assert place.count(OutputInstance) == 4
    with place.db() as session:
        made = [event.detail["supersedes"] for event in session.scalars(select(AuditEvent).where(AuditEvent.act == "job.created").order_by(AuditEvent.id))]  # fmt: skip
    assert made == [None, first.id]


@pytest.mark.parametrize("left", [JobState.QUEUED, JobState.RUNNING])
def test_a_job_whose_series_has_grown_while_it_ran_has_no_further_attempt(place: Place, left: JobState) -> None:
    """Nor where its process died."""
    series = ct_series(8)
    come(place, series[:4])
    look(place, series)
    (first,) = jobs(place)

    def late() -> None:
        come(place, series[4:])
        look(place, series)
        raise ModelUnavailable("no answer")

    work(place, first.id, Models(meanwhile=late))
    with place.db.begin() as session:
        session.execute(update(Job).where(Job.id == first.id).values(state=left))
    work(place, jobs(place)[1].id)
    work(place, first.id)

    first, second = jobs(place)
    assert (first.state, first.reason) == (JobState.CANCELLED, "superseded by revision 2 of the series")
    assert (second.state, place.count(Delivery)) == (JobState.DONE, 2)


def test_results_of_half_a_series_that_come_behind_those_of_the_whole_are_kept_and_not_sent(place: Place) -> None:
    """A PACS would show them as the newer ones."""
    series = ct_series(8)
    come(place, series[:4])
    look(place, series)

    def late() -> None:
        come(place, series[4:])
        look(place, series)
        work(place, jobs(place)[1].id)

    work(place, jobs(place)[0].id, Models(meanwhile=late))

    first, second = jobs(place)
    assert (first.state, place.count(OutputInstance, job=first.id)) == (JobState.DONE, 2)
    assert first.reason == f"job {second.id} of a later revision was done before: its results are kept, and nothing is sent"
    assert (place.count(Delivery, job=first.id), place.count(Delivery, job=second.id)) == (0, 2)


def test_a_revision_is_made_anew_where_the_results_before_it_come_while_it_runs(place: Place) -> None:
    """It would not say that it is a later one."""
    series = ct_series(8)
    come(place, series[:4])
    look(place, series)
    begun, ends = threading.Event(), threading.Event()
    first = threading.Thread(target=work, args=(place, jobs(place)[0].id, Models(lambda: (begun.set(), ends.wait(30)))))
    first.start()
    assert begun.wait(30)
    come(place, series[4:])
    look(place, series)
    work(place, jobs(place)[1].id, Models(lambda: (ends.set(), first.join())))
    between = jobs(place)[1]
    work(place, between.id)

    (seg, sr), (second_seg, second_sr) = (made(place, job.id) for job in jobs(place))
    assert (between.state, between.code) == (JobState.QUEUED, "REVISION")
    assert [one.SeriesDescription[:10] for one in (seg, second_seg, second_sr)] == ["Not for di", "REVISION 2", "REVISION 2"]
    assert [uid for *_, uid in predecessors(second_sr)] == [sr.SOPInstanceUID]


# --- Another patient (F60) ---


@dataclass
class Pacs:
    """A peer whose patients can be merged."""

    patient_id: str | None
    is_away: bool = False
    proof: Proof = Proof.QUERY
    concurrency: int = 1
    per_minute: int | None = None
    received: list[Path] = field(default_factory=list)

    def send(self, path: Path) -> Sent:
        if self.is_away:
            raise Unreachable("no connection")
        self.received.append(path)
        return Sent(0x0000, "stored")

    def patient_of(self, _study_instance_uid: str) -> str | None:
        if self.is_away:
            raise Unreachable("no connection")
        return self.patient_id

    def holds(self, _sought: Sought) -> bool:
        return bool(self.received)

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None: ...

    def echo(self) -> str:
        return "here"


def a_result(place: Place) -> tuple[int, str]:
    """A delivery of a result, and the ID of its patient."""
    series = ct_series(4)
    come(place, series)
    look(place, series)
    work(place, jobs(place)[0].id)
    with place.db() as session:
        return session.scalars(select(Delivery.id).order_by(Delivery.id)).all()[0], session.scalars(
            select(Study.patient_id)
        ).one()


def attempt(place: Place, delivery: int, pacs: Pacs) -> Delivery:
    place.now += timedelta(hours=1)
    deliver(
        delivery, clock=lambda: place.now, peers={"pacs": pacs}, store=place.store, db=place.db, queues=place.queues, pace=Pace()
    )  # fmt: skip
    with place.db() as session:
        return session.get_one(Delivery, delivery)


def test_a_patient_that_was_merged_before_the_result_is_sent_holds_it_until_a_person_lets_it_go(place: Place) -> None:
    delivery, patient = a_result(place)
    pacs = Pacs("MERGED")

    row = attempt(place, delivery, pacs)

    assert (row.state, pacs.received) == (DeliveryState.HELD, [])
    assert "another Patient ID" in row.reason
    assert patient not in row.reason
    assert acts(place, "delivery.held", "delivery.sent") == ["delivery.held"]
    admin.retry_delivery(place.db, place.queues, delivery, actor="ann", now=place.now)
    pacs.is_away = True
    assert attempt(place, delivery, pacs).state == DeliveryState.QUEUED
    pacs.is_away = False
    assert attempt(place, delivery, pacs).state == DeliveryState.SENT


def test_a_patient_that_was_merged_while_the_pacs_was_away_is_seen_at_the_later_attempt(place: Place) -> None:
    delivery, patient = a_result(place)
    pacs = Pacs(patient, is_away=True)
    assert attempt(place, delivery, pacs).state == DeliveryState.QUEUED

    pacs.is_away, pacs.patient_id = False, "MERGED"

    assert attempt(place, delivery, pacs).state == DeliveryState.HELD
    assert pacs.received == []


@pytest.mark.parametrize("theirs", ["the same", None])
def test_a_patient_that_is_the_same_or_not_known_there_holds_nothing(place: Place, theirs: str | None) -> None:
    delivery, patient = a_result(place)

    assert attempt(place, delivery, Pacs(theirs and patient)).state == DeliveryState.SENT
