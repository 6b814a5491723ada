"""Deliver and prove, attempt by attempt on an injected clock: what a peer does decides what becomes of a delivery."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage
from sqlalchemy import event
from structlog.testing import capture_logs

from gateway import app
from gateway.acts import admin
from gateway.acts.resend import resend
from gateway.acts.retract import retract
from gateway.attempt import Stage, guarded
from gateway.auditing import audit, events
from gateway.auditing.audit import Act
from gateway.db import Database, open_database
from gateway.deliver import deliver, deliver_failed
from gateway.dicom.commitment import Outcome
from gateway.engine import DELIVER, PROVE, Queues
from gateway.errors import DeliveryError, Rejected, Unanswered, Unreachable
from gateway.outputs import Equipment
from gateway.outputs.rejection import note_uid
from gateway.peers import Proof, Sent, Sought
from gateway.prove import prove, tell_late_ones, told
from gateway.rows.tables import Delivery, DeliveryState, Job, OutputInstance
from gateway.store import Store
from gateway.sweep import sweep
from gateway.telling.happening import TOLD, happening
from gateway.views import lists, stories, wanted
from gateway.views.overview import overview
from gateway.work.delivery import Pace, again, make
from tests.rows_fixture import NOW, SERIES, STUDY, a_job, a_series
from tests.synthetic import ct_series, part10

OTHER_STUDY = "2.25.77"
EQUIPMENT = Equipment("Clinical AI gateway", "Gateway", "0.1.0", "gateway-1")
AWAY = Unreachable("no connection")
STORED = Sent(0x0000, "stored")


@dataclass
class Pacs:
    """A peer that does as it is told: `answers` are to its next sends, STORED when there are no more."""

    proof: Proof = Proof.QUERY
    answers: list[Sent | BaseException] = field(default_factory=list)
    away_until: datetime | None = None
    keeps: bool = True
    is_mute: bool = False
    hides: bool = False
    """As IHE IOCM has it: what a note takes back is not to be found any more."""
    patient_id: str | None = None
    concurrency: int = 2
    per_minute: int | None = None
    objects: Sequence[str] | None = None
    clock: "Clock" = field(default_factory=lambda: Clock())
    received: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def send(self, path: Path) -> Sent:
        if self.away_until and self.clock() < self.away_until:
            raise AWAY
        uid = str(dcmread(path).SOPInstanceUID)
        answer = self.answers.pop(0) if self.answers else STORED
        if isinstance(answer, Unanswered) or not isinstance(answer, DeliveryError):
            self.received.append(uid)
            if self.keeps:
                self.held.add(uid)
            if self.hides:
                self.held = {one for one in self.held if note_uid(one) not in self.received}
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def echo(self) -> str:
        return "here"

    def holds(self, sought: Sought) -> bool:
        if self.is_mute:
            raise AWAY
        return sought.sop_instance_uid in self.held

    def patient_of(self, study_instance_uid: str) -> str | None:
        return self.patient_id

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:
        if self.away_until and self.clock() < self.away_until:
            raise AWAY
        self.asked.append(transaction_uid)


class Killed(BaseException):
    """The process dies."""


@dataclass
class Clock:
    at: datetime = NOW

    def __call__(self) -> datetime:
        return self.at


def a_result(uid: str, patient_id: str) -> bytes:
    """The file of one that says whose it is."""
    ds = ct_series(1, 8, 8, PatientID=patient_id)[0]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    return part10(ds)


class Lane:
    """One peer and what goes there, without an engine: the attempt that is due next is made next."""

    def __init__(self, db: Database, queues: Queues, store: Store, peer: Pacs) -> None:
        self.db, self.queues, self.store, self.peer, self.clock = db, queues, store, peer, peer.clock
        self.pace = Pace()
        self.job = a_job(db, state="done")

    def add(self, uid: str, study: str = STUDY, patient_id: str = "CANARY-ID", sop_class_uid: str = "1.2") -> int:
        stored = self.store.put([a_result(uid, patient_id)])
        with self.db.begin() as session:
            output = OutputInstance(
                sop_instance_uid=uid, job=self.job, study_instance_uid=study, series_instance_uid=SERIES, sop_class_uid=sop_class_uid,
                modality="SR", sha256=stored.sha256, size=stored.size, created_at=self.clock(),
            )  # fmt: skip
            session.add(output)
            session.flush()
            make(session, output, "pacs", self.clock(), job=session.get_one(Job, self.job), queues=self.queues)
        return next(row.id for row in self.rows if row.sop_instance_uid == uid)

    @property
    def rows(self) -> list[Delivery]:
        return [row.delivery for row in lists.deliveries(self.db, wanted.Wanted()).rows][::-1]

    def row(self, delivery: int) -> Delivery:
        return stories.show_delivery(self.db, delivery).delivery

    def step(self) -> bool:
        """Make the next attempt that the engine has; False when it has none."""
        waiting = [row for row in self.rows if self._stage(row)]
        if not waiting:
            return False
        row = min(waiting, key=lambda one: (one.due_at, one.id))
        self.clock.at = max(self.clock.at, row.due_at) + timedelta(milliseconds=5)
        act = deliver if self._stage(row) == DELIVER else prove
        act(row.id, clock=self.clock, peers={"pacs": self.peer}, store=self.store, db=self.db, queues=self.queues, pace=self.pace)
        return True

    def attempt(self, delivery: int, peers: dict[str, Pacs]) -> None:
        """As a worker makes it, whatever is raised."""
        rows = {"db": self.db, "queues": self.queues}
        act = partial(deliver, clock=self.clock, peers=peers, store=self.store, pace=self.pace, **rows)
        failed = partial(deliver_failed, now=self.clock(), **rows)
        guarded(Stage(DELIVER, lambda key: act(int(key)), lambda key, error: failed(int(key), error)), str(delivery))

    def retract(self, uid: str) -> str:
        (said,) = retract(
            self.db, self.queues, sop_instance_uid=uid, reason="safety", actor="ann", now=self.clock(), equipment=EQUIPMENT,
            store=self.store,
        )  # fmt: skip
        return said

    def run(self, most: int = 1000) -> None:
        for _ in range(most):
            if not self.step():
                return
        pytest.fail("it never ends")

    def _stage(self, row: Delivery) -> str:
        stage = {"queued": DELIVER, "sending": DELIVER, "sent": PROVE}.get(row.state, "")
        return stage if stage and row.ticket and self.queues.is_alive(stage, str(row.id), row.ticket) else ""

    def acts(self) -> list[str]:
        return [event.act for event in events.latest(self.db, limit=1000)]


@pytest.fixture
def lane(database_url: str, tmp_path: Path) -> Iterator[Lane]:
    db, queues = open_database(database_url), Queues(database_url)
    app.upgrade(database_url, db)
    a_series(db)
    yield Lane(db, queues, Store(tmp_path / "store"), Pacs(patient_id="CANARY-ID"))
    queues.close()
    db.kw["bind"].dispose()


def test_what_the_peer_took_and_finds_is_proved(lane: Lane) -> None:
    delivery = lane.add("2.25.1")

    lane.step()
    assert lane.row(delivery).state == DeliveryState.SENT
    lane.run()

    row = lane.row(delivery)
    assert (row.state, row.proof, lane.peer.received) == (DeliveryState.PROVED, "query", ["2.25.1"])
    assert row.proved_at is not None


def test_what_a_peer_that_proves_nothing_took_stays_sent(lane: Lane) -> None:
    lane.peer.proof = Proof.NONE
    delivery = lane.add("2.25.1")

    lane.run()

    assert (lane.row(delivery).state, lane.row(delivery).proved_at) == (DeliveryState.SENT, None)
    assert "delivery.proved" not in lane.acts()


def test_what_the_peer_took_and_lost_is_sent_again_and_fails_at_the_third_time(lane: Lane) -> None:
    lane.peer.keeps = False
    delivery = lane.add("2.25.1")

    lane.run()

    row = lane.row(delivery)
    assert (row.state, row.refusals) == (DeliveryState.FAILED, 3)
    assert "does not find it" in row.reason
    assert lane.peer.received == ["2.25.1"] * 3
    assert lane.acts().count("delivery.lost") == 2


def test_what_the_peer_lost_once_is_proved_in_the_end(lane: Lane) -> None:
    lane.peer.keeps = False
    delivery = lane.add("2.25.1")
    while lane.row(delivery).refusals == 0:
        lane.step()
    lane.peer.keeps = True

    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED
    assert lane.peer.received == ["2.25.1"] * 2


def test_what_a_peer_hides_because_it_was_retracted_is_not_sent_again(lane: Lane) -> None:
    lane.peer.hides = True
    delivery = lane.add("2.25.1")
    lane.step()
    lane.peer.is_mute = True
    lane.step()
    lane.peer.is_mute = False
    lane.retract("2.25.1")

    lane.run()

    row = lane.row(delivery)
    assert lane.peer.received == ["2.25.1", note_uid("2.25.1")]
    assert (row.state, row.reason) == (DeliveryState.CANCELLED, "retracted")


def send_again(lane: Lane, uid: str) -> list[str]:
    return resend(lane.db, lane.queues, sop_instance_uid=uid, peers={"pacs": lane.peer}, actor="ann", now=lane.clock())


def test_what_a_peer_is_not_to_get_is_unwanted_before_an_attempt_and_holds_up_nothing(lane: Lane) -> None:
    lane.peer.objects = ["reports", "pictures"]
    seg, report = (
        lane.add("2.25.1", sop_class_uid=SegmentationStorage),
        lane.add("2.25.2", sop_class_uid=Comprehensive3DSRStorage),
    )

    lane.run()

    row = lane.row(seg)
    assert (row.state, row.attempts, row.sent_at, row.late_at) == (DeliveryState.UNWANTED, 0, None, None)
    assert row.reason == 'its peer takes reports, pictures only (objects = ["reports", "pictures"])'
    assert (lane.row(report).state, lane.peer.received) == (DeliveryState.PROVED, ["2.25.2"])
    assert lane.acts().count(Act.DELIVERY_STARTED) == lane.acts().count(Act.DELIVERY_UNWANTED) == 1
    assert Act.DELIVERY_UNWANTED not in TOLD


def test_what_was_unwanted_goes_out_when_its_peer_is_to_get_it_and_a_person_says_so(lane: Lane) -> None:
    lane.peer.objects = ["pictures"]
    delivery = lane.add("2.25.1", sop_class_uid=SegmentationStorage)
    lane.run()
    assert send_again(lane, "2.25.1")[0].startswith(
        f"delivery {delivery} to pacs is unwanted: left as it is: its peer takes pictures"
    )

    lane.peer.objects = None
    assert send_again(lane, "2.25.1") == [f"delivery {delivery} to pacs is queued again"]
    lane.run()

    assert (lane.row(delivery).state, lane.row(delivery).reason) == (DeliveryState.PROVED, "")


def test_what_failed_before_its_peer_was_not_to_get_it_is_unwanted_when_it_is_retried(lane: Lane) -> None:
    lane.peer.answers = [Rejected(0x0122, "the peer does not accept Segmentation Storage")] * 3
    delivery = lane.add("2.25.1", sop_class_uid=SegmentationStorage)
    lane.run()
    assert lane.row(delivery).state == DeliveryState.FAILED
    assert lane.row(delivery).reason.endswith(
        '; where it never takes segmentations: objects = ["reports", "pictures", "structures", "images", "maps"] in its table'
    )

    lane.peer.objects = ["reports", "pictures"]
    admin.retry_delivery(lane.db, lane.queues, delivery, actor="ann", now=lane.clock())
    lane.run()

    assert (lane.row(delivery).state, lane.peer.received) == (DeliveryState.UNWANTED, [])


@pytest.mark.parametrize(
    ("status", "sop_class_uid"), [(0xA900, SegmentationStorage), (0x0122, "1.2"), (0x0122, Comprehensive3DSRStorage)]
)
def test_a_table_is_named_only_where_it_would_help(lane: Lane, status: int, sop_class_uid: str) -> None:
    lane.peer.answers = [Rejected(status, "the peer does not take it")] * 3
    lane.peer.objects = ["reports"] if sop_class_uid == Comprehensive3DSRStorage else None
    delivery = lane.add("2.25.1", sop_class_uid=sop_class_uid)

    lane.run()

    assert lane.row(delivery).reason == "the peer does not take it"


def test_what_was_proved_stays_so_where_its_peer_is_not_to_get_such_objects_any_more(lane: Lane) -> None:
    delivery = lane.add("2.25.1", sop_class_uid=SegmentationStorage)
    lane.run()

    lane.peer.objects = ["reports"]
    send_again(lane, "2.25.1")
    lane.run()

    assert (lane.row(delivery).state, lane.peer.received) == (DeliveryState.PROVED, ["2.25.1"])


def test_a_note_goes_to_who_may_have_its_result_whatever_else_it_is_to_get(lane: Lane) -> None:
    sent, died, never = (lane.add(f"2.25.{n}", study=f"2.25.7{n}", sop_class_uid=SegmentationStorage) for n in (1, 2, 3))
    for delivery, answer in ((sent, STORED), (died, Killed())):
        lane.peer.answers = [answer]
        with suppress(Killed):
            lane.attempt(delivery, {"pacs": lane.peer})
    lane.peer.objects = ["reports"]
    lane.run()
    assert [lane.row(one).state for one in (sent, died, never)] == [DeliveryState.PROVED] + [DeliveryState.UNWANTED] * 2

    said = [lane.retract(f"2.25.{n}") for n in (1, 2, 3)]
    lane.run()

    assert [one.endswith("the note goes to pacs") for one in said] == [True, True, False]
    assert lane.peer.received[-2:] == [note_uid("2.25.1"), note_uid("2.25.2")]


def test_what_was_retracted_while_it_waited_to_be_sent_again_is_not_sent(lane: Lane) -> None:
    delivery = lane.add("2.25.1")
    lane.step()
    lane.retract("2.25.1")
    with lane.db.begin() as session:  # as prove writes it that had looked for a note just before
        again(session, session.get_one(Delivery, delivery), lane.clock(), lane.queues, delay=timedelta(0))

    lane.run()

    assert lane.peer.received == ["2.25.1", note_uid("2.25.1")]
    assert lane.row(delivery).state == DeliveryState.CANCELLED


def test_an_answer_that_was_lost_is_asked_for_before_anything_is_sent_again(lane: Lane) -> None:
    lane.peer.answers = [Unanswered("no answer within 60 s")]
    delivery = lane.add("2.25.1")

    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED
    assert lane.peer.received == ["2.25.1"]


def test_an_answer_that_was_lost_is_asked_for_also_when_the_peer_was_away_after_it(lane: Lane) -> None:
    lane.peer.answers = [Unanswered("no answer within 60 s")]
    delivery = lane.add("2.25.1")
    lane.step()
    lane.peer.is_mute, lane.peer.answers = True, [AWAY]
    lane.step()
    assert lane.row(delivery).unanswered
    lane.peer.is_mute = False

    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED
    assert lane.peer.received == ["2.25.1"]


def test_an_answer_that_was_lost_with_the_instance_is_sent_again(lane: Lane) -> None:
    lane.peer.answers, lane.peer.keeps = [Unanswered("no answer within 60 s")], False
    delivery = lane.add("2.25.1")
    lane.step()
    lane.peer.keeps = True

    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED
    assert lane.peer.received == ["2.25.1"] * 2


def test_a_peer_that_says_no_is_asked_three_times_and_then_a_person(lane: Lane) -> None:
    lane.peer.answers = [Rejected(0xA900, "the peer does not take it")] * 3
    delivery = lane.add("2.25.1")

    lane.run()

    row = lane.row(delivery)
    assert (row.state, row.attempts, row.status) == (DeliveryState.FAILED, 3, 0xA900)
    admin.retry_delivery(lane.db, lane.queues, delivery, actor="ann", now=lane.clock())
    lane.run()
    assert lane.row(delivery).state == DeliveryState.PROVED


def test_a_pacs_that_is_away_for_three_days_gets_everything_in_order_and_once(lane: Lane) -> None:
    lane.peer.away_until = NOW + timedelta(days=3)
    sent = [lane.add(f"2.25.{n}") for n in range(1, 13)]

    lane.run()

    assert [lane.row(delivery).state for delivery in sent] == [DeliveryState.PROVED] * 12
    assert lane.peer.received == [f"2.25.{n}" for n in range(1, 13)]
    assert lane.acts().count("delivery.late") == 1
    assert lane.clock() < lane.peer.away_until + timedelta(hours=2)


def test_a_peer_that_asks_us_to_wait_is_left_alone_for_so_long(lane: Lane) -> None:
    lane.peer.answers = [Unreachable("HTTP 503", after=timedelta(minutes=20))]
    delivery = lane.add("2.25.1")

    lane.step()

    assert lane.row(delivery).due_at >= NOW + timedelta(minutes=20)


def test_nothing_is_sent_by_a_clock_that_is_years_behind(lane: Lane) -> None:
    delivery = lane.add("2.25.1")
    lane.clock.at = datetime(1970, 1, 1, tzinfo=UTC)
    deliver(
        delivery, clock=lane.clock, peers={"pacs": lane.peer}, store=lane.store, db=lane.db, queues=lane.queues, pace=lane.pace
    )
    assert "clock" in lane.row(delivery).reason
    assert lane.peer.received == []

    lane.clock.at = NOW
    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED


def test_an_attempt_that_died_is_asked_for_before_anything_is_sent_again(lane: Lane) -> None:
    delivery = lane.add("2.25.1")
    with lane.db.begin() as session:
        row = session.get_one(Delivery, delivery)
        row.state, row.attempts = DeliveryState.SENDING, 1
    lane.peer.held.add("2.25.1")

    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED
    assert lane.peer.received == []


@pytest.mark.parametrize("proof", [Proof.QUERY, Proof.NONE])
def test_a_peer_that_was_away_after_an_attempt_that_died_may_have_it_and_gets_the_note(lane: Lane, proof: Proof) -> None:
    lane.peer.proof, lane.peer.answers = proof, [Killed()]
    lane.add("2.25.1")
    with pytest.raises(Killed):
        lane.step()
    lane.peer.is_mute, lane.peer.away_until = True, lane.clock() + timedelta(days=1)
    lane.step()

    assert lane.retract("2.25.1").endswith("the note goes to pacs")


def test_a_peer_that_is_taken_away_while_it_is_sent_to_took_it_all_the_same(lane: Lane) -> None:
    class Leaving(Pacs):
        def send(self, path: Path) -> Sent:
            peers.clear()
            return super().send(path)

    peers: dict[str, Pacs] = {"pacs": Leaving()}
    delivery = lane.add("2.25.1")

    lane.attempt(delivery, peers)

    assert lane.row(delivery).state == DeliveryState.SENT


def test_a_peer_whose_answer_nobody_expected_may_have_it_and_gets_the_note(lane: Lane) -> None:
    lane.peer.answers = [ValueError("nobody expected it")]
    delivery = lane.add("2.25.1")

    lane.attempt(delivery, {"pacs": lane.peer})

    assert lane.row(delivery).state == DeliveryState.FAILED
    assert lane.retract("2.25.1").endswith("the note goes to pacs")


def test_what_is_held_after_an_answer_that_was_lost_may_be_there_and_the_note_goes_there(lane: Lane) -> None:
    lane.peer.answers = [Unanswered("no answer within 60 s")]
    delivery = lane.add("2.25.1")
    lane.step()
    lane.peer.is_mute, lane.peer.patient_id = True, "OTHER"
    lane.step()

    assert lane.row(delivery).state == DeliveryState.HELD
    assert lane.retract("2.25.1").endswith("the note goes to pacs")


@pytest.mark.parametrize("is_sent_again", [False, True])
def test_a_no_to_what_was_sent_again_does_not_tell_that_the_first_is_not_there(lane: Lane, is_sent_again: bool) -> None:
    lane.peer.proof = Proof.NONE
    lane.peer.answers = [Unanswered("no answer within 60 s"), *[Rejected(0xC000, "cannot understand")] * 3]
    delivery = lane.add("2.25.1")
    lane.run()
    assert lane.row(delivery).state == DeliveryState.FAILED

    if is_sent_again:
        resend(lane.db, lane.queues, sop_instance_uid="2.25.1", peers={"pacs": lane.peer}, actor="ann", now=lane.clock())

    assert lane.retract("2.25.1").endswith("the note goes to pacs")


def test_a_peer_that_says_that_it_has_it_not_gets_no_note(lane: Lane) -> None:
    lane.peer.keeps = False
    lane.peer.answers = [Unanswered("no answer within 60 s"), *[Rejected(0xC000, "cannot understand")] * 3]
    lane.add("2.25.1")
    lane.run()

    assert lane.retract("2.25.1").endswith("it went to nobody, and nobody gets the note")


def test_after_a_restored_backup_what_the_peer_has_is_not_sent_again(lane: Lane) -> None:
    with lane.db.begin() as session:
        audit.record(session, Act.DATABASE_RESTORED, at=NOW)
    lane.peer.held.add("2.25.1")
    there, missing = lane.add("2.25.1"), lane.add("2.25.2")

    lane.run()

    assert {lane.row(there).state, lane.row(missing).state} == {DeliveryState.PROVED}
    assert lane.peer.received == ["2.25.2"]


def test_after_a_restored_backup_a_person_may_still_send_again(lane: Lane) -> None:
    with lane.db.begin() as session:
        audit.record(session, Act.DATABASE_RESTORED, at=NOW)
    lane.add("2.25.1")
    lane.run()

    resend(lane.db, lane.queues, sop_instance_uid="2.25.1", peers={"pacs": lane.peer}, actor="ann", now=lane.clock())
    lane.run()

    assert lane.peer.received == ["2.25.1"] * 2


def test_a_look_for_a_proof_that_the_engine_forgot_is_made_in_the_end(lane: Lane) -> None:
    delivery = lane.add("2.25.1")
    lane.step()
    with lane.db.begin() as session:
        session.get_one(Delivery, delivery).ticket = "forgotten"

    sweep(lane.clock() + timedelta(minutes=10), db=lane.db, queues=lane.queues)
    lane.run()

    assert lane.row(delivery).state == DeliveryState.PROVED


def test_nothing_is_looked_for_where_a_peer_has_come_to_prove_nothing(lane: Lane) -> None:
    delivery = lane.add("2.25.1")
    lane.step()
    lane.peer.proof = Proof.NONE
    lane.run()

    sweep(lane.clock() + timedelta(minutes=10), db=lane.db, queues=lane.queues)

    assert (lane.row(delivery).state, lane.row(delivery).ticket) == (DeliveryState.SENT, "")


def test_a_warning_is_remembered(lane: Lane) -> None:
    lane.peer.answers = [Sent(0xB000, "stored with a warning")]
    delivery = lane.add("2.25.1")

    lane.run()

    assert (lane.row(delivery).state, lane.row(delivery).status) == (DeliveryState.PROVED, 0xB000)
    assert "0xB000" in lane.row(delivery).reason


def test_an_object_that_fails_lets_the_next_of_its_study_go_on(lane: Lane) -> None:
    lane.peer.answers = [Rejected(0xC000, "the peer does not take it")] * 3
    first, second = lane.add("2.25.1"), lane.add("2.25.2")

    lane.run()

    assert (lane.row(first).state, lane.row(second).state) == (DeliveryState.FAILED, DeliveryState.PROVED)


def test_another_study_waits_for_nobody(lane: Lane) -> None:
    lane.peer.answers = [AWAY, AWAY]
    first, behind, other = lane.add("2.25.1"), lane.add("2.25.2"), lane.add("2.25.3", study=OTHER_STUDY)

    lane.step()
    lane.step()

    assert lane.row(behind).attempts == 0
    assert (lane.row(first).attempts, lane.row(other).attempts) == (1, 1)
    lane.run()
    assert {row.state for row in lane.rows} == {DeliveryState.PROVED}


def test_who_joins_a_long_line_looks_at_one_of_it(lane: Lane) -> None:
    for n in range(20):
        lane.add(f"2.25.{n + 1}")

    seen: list[Delivery] = []

    def see(row: Delivery, _context: object) -> None:
        seen.append(row)

    event.listen(Delivery, "load", see)
    lane.add("2.25.21")
    event.remove(Delivery, "load", see)

    assert len(seen) <= 22  # that it lists them all afterwards is the test's doing
    lane.run()
    assert {row.state for row in lane.rows if row.peer == "pacs"} == {DeliveryState.PROVED}
    assert lane.peer.received == [f"2.25.{n + 1}" for n in range(21)]


def test_what_waits_behind_one_that_is_cancelled_goes_on(lane: Lane) -> None:
    lane.peer.answers = [AWAY]
    first, second = lane.add("2.25.1"), lane.add("2.25.2")
    lane.step()

    admin.cancel_delivery(lane.db, lane.queues, first, actor="ann", now=lane.clock())
    lane.run()

    assert (lane.row(first).state, lane.row(second).state) == (DeliveryState.CANCELLED, DeliveryState.PROVED)
    assert lane.peer.received == ["2.25.2"]


def test_a_study_that_the_peer_has_under_another_patient_is_held_until_a_person_decides(lane: Lane) -> None:
    lane.peer.patient_id = "SOMEBODY ELSE"
    delivery = lane.add("2.25.1")

    lane.run()

    row = lane.row(delivery)
    assert (row.state, lane.peer.received) == (DeliveryState.HELD, [])
    assert "another Patient ID" in row.reason
    assert "SOMEBODY" not in row.reason
    admin.retry_delivery(lane.db, lane.queues, delivery, actor="ann", now=lane.clock())
    lane.run()
    assert lane.row(delivery).state == DeliveryState.PROVED


@pytest.mark.parametrize(("proof", "is_held"), [(Proof.COMMITMENT, True), (Proof.READ_BACK, True), (Proof.NONE, False)])
def test_whose_study_it_is_is_asked_of_every_peer_that_proves_something(lane: Lane, proof: Proof, is_held: bool) -> None:
    lane.peer.proof, lane.peer.patient_id = proof, "SOMEBODY ELSE"
    delivery = lane.add("2.25.1")

    lane.step()

    assert (lane.row(delivery).state == DeliveryState.HELD, lane.peer.received == []) == (is_held, is_held)


def test_a_result_of_another_patient_than_the_study_first_had_is_held_though_the_peer_knows_that_one(lane: Lane) -> None:
    lane.peer.patient_id = "CANARY-ID"  # of the study's row
    delivery = lane.add("2.25.1", patient_id="OTHER")

    lane.step()

    assert (lane.row(delivery).state, lane.peer.received) == (DeliveryState.HELD, [])


def report(lane: Lane, transaction: str, *, committed: Sequence[str] = (), failed: Sequence[tuple[str, int]] = ()) -> None:
    outcome = Outcome(transaction, [("1.2", uid) for uid in committed], [("1.2", uid, why) for uid, why in failed])
    with lane.db.begin() as session:
        told(session, outcome, "PACS", lane.clock(), queues=lane.queues, pace=lane.pace)


@pytest.fixture
def committing(lane: Lane) -> Lane:
    lane.peer.proof = Proof.COMMITMENT
    return lane


def test_a_peer_that_commits_proves(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    committing.step()
    committing.step()
    assert committing.row(delivery).state == DeliveryState.SENT

    report(committing, committing.peer.asked[0], committed=["2.25.1"])

    row = committing.row(delivery)
    assert (row.state, row.proof) == (DeliveryState.PROVED, "commitment")


def test_a_peer_that_says_that_it_does_not_have_it_gets_it_again(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    committing.step()
    committing.step()

    report(committing, committing.peer.asked[0], failed=[("2.25.1", 0x0112)])
    committing.step()
    committing.step()

    assert committing.peer.received == ["2.25.1"] * 2
    report(committing, committing.peer.asked[1], committed=["2.25.1"])
    assert committing.row(delivery).state == DeliveryState.PROVED


def test_a_peer_that_does_not_have_what_was_retracted_does_not_get_it_again(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    committing.step()
    committing.step()
    committing.retract("2.25.1")

    report(committing, committing.peer.asked[0], failed=[("2.25.1", 0x0112)])
    committing.step()

    assert committing.peer.received == ["2.25.1", note_uid("2.25.1")]
    assert committing.row(delivery).state == DeliveryState.CANCELLED


def test_a_peer_that_does_not_report_is_asked_again_and_its_late_report_counts(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    while len(committing.peer.asked) < 3:
        committing.step()
    first, second, third = committing.peer.asked
    assert committing.clock() >= NOW + timedelta(hours=48)
    assert len({first, second, third}) == 3

    report(committing, first, committed=["2.25.1"])
    report(committing, third, committed=["2.25.1"])

    assert committing.row(delivery).state == DeliveryState.PROVED
    assert committing.acts().count("delivery.proved") == 1
    assert committing.acts().count("proof.unknown") == 0


def test_a_late_report_of_before_it_was_sent_again_changes_nothing(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    while len(committing.peer.asked) < 2:
        committing.step()
    first, second = committing.peer.asked
    report(committing, second, failed=[("2.25.1", 0x0112)])
    while len(committing.peer.asked) < 3:
        committing.step()

    report(committing, first, failed=[("2.25.1", 0x0112)])

    assert committing.row(delivery).state == DeliveryState.SENT
    assert (committing.row(delivery).refusals, committing.peer.received) == (1, ["2.25.1"] * 2)
    assert committing.acts().count("proof.unknown") == 1


def test_a_peer_that_cannot_be_asked_to_commit_is_asked_again_soon(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    committing.step()
    committing.peer.away_until = committing.clock() + timedelta(minutes=5)

    while not committing.peer.asked:
        committing.step()

    assert committing.clock() < committing.peer.away_until + timedelta(minutes=10)
    report(committing, committing.peer.asked[0], committed=["2.25.1"])
    assert committing.row(delivery).state == DeliveryState.PROVED


def test_a_peer_that_cannot_commit_now_is_asked_again(committing: Lane) -> None:
    delivery = committing.add("2.25.1")
    committing.step()
    committing.step()

    report(committing, committing.peer.asked[0], failed=[("2.25.1", 0x0213)])
    assert "0x0213" in committing.row(delivery).reason
    committing.step()

    assert len(committing.peer.asked) == 2
    assert committing.peer.received == ["2.25.1"]


def logged(lane: Lane) -> list[tuple[object, ...]]:
    """What the log says while it goes on until the end."""
    with capture_logs() as logs:
        lane.run()
    return [(one["event"], one["log_level"], one["peer"], one["reason"]) for one in logs if one["event"] != "delivery.lost"]


def test_a_delivery_that_fails_stands_in_the_log_once(lane: Lane) -> None:
    lane.peer.answers = [Rejected(0xA900, "the peer does not take it")] * 3
    lane.add("2.25.1")

    assert logged(lane) == [("delivery.failed", "error", "pacs", "the peer does not take it")]


def test_a_delivery_that_is_lost_for_good_stands_in_the_log(lane: Lane) -> None:
    lane.peer.keeps = False
    lane.add("2.25.1")

    ((event, level, *_),) = logged(lane)
    assert (event, level) == ("delivery.failed", "error")


def test_a_delivery_that_is_held_stands_in_the_log_without_whose_it_is(lane: Lane) -> None:
    lane.peer.patient_id = "SOMEBODY ELSE"
    lane.add("2.25.1")

    ((event, level, _, reason),) = logged(lane)
    assert (event, level) == ("delivery.held", "warning")
    assert "SOMEBODY" not in str(reason)


def look_whether_late(lane: Lane, hours: float) -> None:
    lane.clock.at += timedelta(hours=hours)
    tell_late_ones(lane.clock(), late=lane.pace.late, db=lane.db)


def test_what_was_sent_and_is_never_proved_is_told_once_it_is_late_and_in_the_overview(lane: Lane) -> None:
    lane.peer.is_mute = True
    lane.add("2.25.1")
    for _ in range(3):
        lane.step()
    look_whether_late(lane, 3)
    assert (lane.acts().count("delivery.late"), overview(lane.db, lane.clock()).unproved) == (0, [])

    look_whether_late(lane, 1.1)
    look_whether_late(lane, 1)

    (late,) = (event for event in events.latest(lane.db, limit=1000) if event.act == "delivery.late")
    assert (late.detail["reason"], late.outcome) == ("no connection", audit.MINOR)
    told = overview(lane.db, lane.clock())
    assert [(one.peer, one.waiting, one.reason) for one in told.unproved] == [("pacs", 1, "not proved yet: no connection")]
    lane.peer.is_mute = False
    lane.run()
    assert not overview(lane.db, lane.clock()).unproved


def test_a_commitment_that_is_not_reported_is_late_before_it_is_asked_for_again(committing: Lane) -> None:
    committing.add("2.25.1")
    committing.step()
    committing.step()

    look_whether_late(committing, 4.1)

    assert len(committing.peer.asked) == 1
    assert overview(committing.db, committing.clock()).unproved[0].reason.endswith("was asked to commit, and has not reported")


def test_what_was_late_to_be_sent_is_not_late_to_be_proved(lane: Lane) -> None:
    lane.peer.away_until = NOW + timedelta(hours=6)
    delivery = lane.add("2.25.1")
    while lane.row(delivery).state != DeliveryState.SENT:
        lane.step()
    assert lane.acts().count("delivery.late") == 1

    look_whether_late(lane, 0)

    assert (lane.acts().count("delivery.late"), overview(lane.db, lane.clock()).unproved) == (1, [])
    lane.peer.is_mute = True
    look_whether_late(lane, 4.1)
    assert lane.acts().count("delivery.late") == 2


def test_an_attempt_that_does_not_end_is_told_once_it_is_late(lane: Lane) -> None:
    lane.peer.answers = [Killed()]  # as far as the row knows, it goes on
    delivery = lane.add("2.25.1")
    with pytest.raises(Killed):
        lane.step()
    assert lane.row(delivery).state == DeliveryState.SENDING
    look_whether_late(lane, 3)
    assert "delivery.late" not in lane.acts()

    look_whether_late(lane, 1.1)
    look_whether_late(lane, 1)

    (late,) = (event for event in events.latest(lane.db, limit=1000) if event.act == "delivery.late")
    assert (late.detail["reason"], late.detail["hours"]) == ("the attempt that is under way does not end", 4.1)


def test_what_waits_for_a_peer_that_nothing_goes_to_is_told_once_it_is_late(lane: Lane) -> None:
    """As one that was disabled and forgotten: there is no attempt that could tell."""
    delivery = lane.add("2.25.1")
    lane.clock.at += timedelta(hours=3)
    tell_late_ones(lane.clock(), late=lane.pace.late, db=lane.db)
    assert "delivery.late" not in lane.acts()

    for _ in range(2):
        lane.clock.at += timedelta(hours=1.1)
        tell_late_ones(lane.clock(), late=lane.pace.late, db=lane.db, obstacle=lambda _peer: "is disabled")

    (late,) = (event for event in events.latest(lane.db, limit=1000) if event.act == "delivery.late")
    told = happening(late.id, late.at, late.act, late.outcome, late.job, late.detail)
    assert told is not None
    assert told.text.endswith("not delivered after 4.1 hours: peer pacs is disabled")
    assert lane.row(delivery).state == DeliveryState.QUEUED


def test_a_peer_that_proves_nothing_is_not_late(lane: Lane) -> None:
    lane.peer.proof = Proof.NONE
    lane.add("2.25.1")
    lane.step()

    look_whether_late(lane, 5)

    assert "delivery.late" not in lane.acts()


def test_a_person_may_end_the_looking_for_what_was_sent_and_the_row_says_that_it_is_not_proved(lane: Lane) -> None:
    lane.peer.is_mute = True
    delivery = lane.add("2.25.1")
    lane.step()

    said = admin.cancel_delivery(lane.db, lane.queues, delivery, actor="ann", now=lane.clock())
    lane.peer.is_mute = False
    lane.run()

    fate = "it was sent, it is not proved, and nobody looks for it any more"
    assert said == f"delivery {delivery} is cancelled: {fate}"
    row = lane.row(delivery)
    assert (row.state, row.reason, row.proved_at) == (DeliveryState.CANCELLED, f"cancelled by ann: {fate}", None)
    assert row.sent_at is not None


def test_what_is_already_ended_or_unknown_is_left_alone(lane: Lane) -> None:
    delivery = lane.add("2.25.1")
    lane.run()
    before = lane.acts()

    for act in (deliver, prove):
        act(
            delivery,
            clock=lane.clock,
            peers={"pacs": lane.peer},
            store=lane.store,
            db=lane.db,
            queues=lane.queues,
            pace=lane.pace,
        )

    assert lane.acts() == before
    assert lane.peer.received == ["2.25.1"]
