"""A peer reports what became of a storage commitment that we asked for (PS3.4 J.3.3): taken at our door, kept, believed once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select

from gateway.db import Database
from gateway.dicom.commitment import COMMITMENT, WELL_KNOWN, Outcome, read_outcome
from gateway.dicom.instance import Origin
from gateway.doors.door import Door
from gateway.doors.entry import Reported, promise, record
from gateway.doors.policy import Caller, Policy
from gateway.engine import DELIVER, PROVE, Queues, peer_lane
from gateway.errors import InvalidArgument
from gateway.receive import positions
from gateway.rows.tables import Delivery, DeliveryState, OutputInstance
from gateway.rows.trail import AuditEvent
from gateway.store import Store
from tests.door_fixture import NOW, Place
from tests.gate_fixture import Gate, open_gate
from tests.peers_fixture import data_set_sha256, running_orthanc
from tests.ports import free_port
from tests.rows_fixture import OUTPUT, SERIES, STUDY, a_delivery, a_job, a_series
from tests.scanner_fixture import ABORT, CONTEXTS, IMPLICIT, command, item, message, uid, us
from tests.scp_fixture import accepting
from tests.synthetic import ct_series, part10
from tests.world import World

TRANSACTION = "2.25.4711"
COMMITMENT_CONTEXT = 5
ALL, SOME_FAILED = 1, 2
KNOWN = (CTImageStorage, OUTPUT)
GOOD = Outcome(TRANSACTION, [KNOWN], [])
PACS = Origin("dimse", "association of the PACS", "PACS", "AIGATEWAY", "127.0.0.1")


# What is said


def information(
    *, transaction_uid: str | None = TRANSACTION, committed: Sequence[tuple[str, str]] = (), failed: Sequence[Any] = ()
) -> Dataset:
    """An event information, as wrong as a test wants it; a reason of None is left out."""
    ds = Dataset()
    if transaction_uid is not None:
        ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [reference(*one) for one in committed]
    ds.FailedSOPSequence = [reference(*one) for one in failed]
    return ds


def reference(sop_class: str, instance: str, reason: int | None = None) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = sop_class, instance
    if reason is not None:
        ds.FailureReason = reason
    return ds


def encoded(ds: Dataset, *, implicit_vr: bool = True) -> bytes:
    return encode(ds, implicit_vr, is_little_endian=True) or b""


@pytest.mark.parametrize("implicit_vr", [True, False])
@pytest.mark.parametrize(
    "outcome",
    [
        GOOD,
        Outcome(TRANSACTION, [], [(CTImageStorage, OUTPUT, 0x0112)]),
        Outcome(TRANSACTION, [(CTImageStorage, "1.2.3"), (CTImageStorage, "1.2.5")], [(CTImageStorage, OUTPUT, 0x0110)]),
    ],
)
def test_what_we_would_report_ourselves_is_read_as_it_was_meant(outcome: Outcome, implicit_vr: bool) -> None:
    syntax = ImplicitVRLittleEndian if implicit_vr else ExplicitVRLittleEndian

    found = read_outcome(outcome.event_type, outcome.encoded(implicit_vr=implicit_vr), syntax)

    assert (found.transaction_uid, list(found.committed), list(found.failed)) == (
        outcome.transaction_uid, outcome.committed, outcome.failed
    )  # fmt: skip


@pytest.mark.parametrize("outcome", [GOOD, Outcome(TRANSACTION, [], [(CTImageStorage, OUTPUT, 0x0112)])])
def test_a_report_that_is_cut_anywhere_is_refused(outcome: Outcome) -> None:
    whole = outcome.encoded()

    for length in range(len(whole)):
        with pytest.raises(InvalidArgument):
            read_outcome(outcome.event_type, whole[:length], ImplicitVRLittleEndian)


def test_a_report_is_the_same_when_it_comes_back_from_the_journal() -> None:
    said = Reported(NOW, PACS, TRANSACTION, (KNOWN,), ((CTImageStorage, "1.2.3", 0x0112),))

    assert promise(record(said)) == said


# At the door


@pytest.fixture
def gate(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Gate]:
    with open_gate(tmp_path, migrated_sqlite) as gate:
        yield gate


def n_event_report(
    data: bytes | None,
    *,
    event: int = ALL,
    sop_class: str = COMMITMENT,
    instance: str = WELL_KNOWN,
    context: int = COMMITMENT_CONTEXT,
) -> bytes:
    request = command(
        (2, uid(sop_class)), (0x0100, us(0x0100)), (0x0110, us(9)), (0x0800, us(0x0101 if data is None else 0)),
        (0x1000, uid(instance)), (0x1002, us(event)),
    )  # fmt: skip
    return message(context, request, data)


@contextmanager
def peer(gate: Gate, *, with_role: bool = True) -> Iterator[Any]:
    """A PACS that is associated to report, byte by byte."""
    role = item(0x54, len(COMMITMENT).to_bytes(2) + COMMITMENT.encode() + bytes((0, 1))) if with_role else b""
    contexts = (*CONTEXTS, (COMMITMENT_CONTEXT, COMMITMENT, (IMPLICIT,)))
    with gate.scanner(calling=b"PACS", contexts=contexts, information=role) as scanner:
        yield scanner


BOTH = information(committed=[KNOWN], failed=[(*KNOWN, 0x0112)])
GARBAGE = {
    "no data set": (n_event_report(None), 0x0115),
    "noise": (n_event_report(b"CANARY^NAME" * 99), 0x0115),
    "half a data set": (n_event_report(GOOD.encoded()[:-5]), 0x0115),
    "another event type": (n_event_report(GOOD.encoded(), event=3), 0x0113),
    "no event type": (n_event_report(GOOD.encoded(), event=0), 0x0113),
    "another instance": (n_event_report(GOOD.encoded(), instance="1.2.3"), 0x0112),
    "another SOP class": (n_event_report(GOOD.encoded(), sop_class=CTImageStorage), 0x0118),
    "another presentation context": (n_event_report(GOOD.encoded(), context=3), 0x0118),
    "no transaction": (n_event_report(encoded(information(transaction_uid=None, committed=[KNOWN]))), 0x0115),
    "a transaction that is no UID": (n_event_report(encoded(information(committed=[(CTImageStorage, "")]))), 0x0115),
    "nothing": (n_event_report(encoded(information())), 0x0115),
    "nothing at all": (n_event_report(b""), 0x0115),
    "an instance twice": (n_event_report(encoded(information(committed=[KNOWN, KNOWN]))), 0x0115),
    "an instance that is and is not committed": (n_event_report(encoded(BOTH), event=SOME_FAILED), 0x0115),
    "a failure in event type 1": (n_event_report(encoded(information(failed=[(*KNOWN, 0x0112)]))), 0x0115),
    "no failure in event type 2": (n_event_report(GOOD.encoded(), event=SOME_FAILED), 0x0115),
    "a failure without a reason": (n_event_report(encoded(information(failed=[KNOWN])), event=SOME_FAILED), 0x0115),
}


@pytest.mark.parametrize(("sent", "status"), GARBAGE.values(), ids=GARBAGE.keys())
def test_a_report_that_is_none_is_refused_with_a_status_that_says_why_and_the_next_is_taken(
    gate: Gate, sent: bytes, status: int
) -> None:
    with peer(gate) as pacs:
        pacs.send(sent)
        refused = pacs.answer()
        pacs.send(n_event_report(GOOD.encoded()))
        taken = pacs.answer()

    assert (refused.field, refused.message_id, refused.status) == (0x8100, 9, status)
    assert "CANARY" not in refused.comment
    assert (taken.field, taken.message_id, taken.status) == (0x8100, 9, 0x0000)
    assert [one.transaction_uid for one in gate.promised(Reported)] == [TRANSACTION]


def test_a_report_comes_from_one_that_proposes_to_be_the_scp(gate: Gate) -> None:
    assert report(gate.port, information(committed=[KNOWN])) == 0x0000

    (said,) = gate.promised(Reported)
    assert (said.origin.calling_ae_title, said.transaction_uid, said.committed) == ("PACS", TRANSACTION, (KNOWN,))


def test_a_peer_that_proposes_no_role_is_heard_all_the_same(gate: Gate) -> None:
    with peer(gate, with_role=False) as pacs:
        pacs.send(n_event_report(GOOD.encoded()))

        assert pacs.status() == 0x0000
    assert len(gate.promised(Reported)) == 1


def test_instances_and_reports_come_over_one_association(gate: Gate) -> None:
    (ds,) = ct_series(1, 16, 16)
    with peer(gate) as pacs:
        pacs.send(n_event_report(GOOD.encoded()))
        statuses = [pacs.status(), pacs.store(ds), pacs.echo()]

    assert statuses == [0x0000] * 3
    assert list(gate.held()) == [ds.SOPInstanceUID]


def test_a_caller_without_the_service_of_commitment_cannot_report(tmp_path: Path) -> None:
    only_stores = Policy("AIGATEWAY", (Caller("pacs", services=frozenset({"store", "echo"})),))
    with open_gate(tmp_path, policy=only_stores) as gate, peer(gate) as pacs:
        pacs.send(n_event_report(GOOD.encoded()))

        assert pacs.status() == -1
        assert gate.promised(Reported) == []


def test_a_report_that_cannot_be_kept_is_not_acknowledged_and_may_come_again(gate: Gate) -> None:
    with peer(gate) as pacs:
        gate.journal.rename(gate.journal.with_name("away"))
        pacs.send(n_event_report(GOOD.encoded()))
        assert pacs.status() == 0x0213
        gate.journal.with_name("away").rename(gate.journal)

        pacs.send(n_event_report(GOOD.encoded()))

        assert pacs.status() == 0x0000
    assert len(gate.promised(Reported)) == 1


class Failing(Door):
    def report(self, origin: Origin, outcome: Outcome) -> None:
        raise ZeroDivisionError("CANARY^NAME")


def test_a_report_that_fails_for_a_reason_that_nobody_expected_is_answered_0110(tmp_path: Path) -> None:
    with open_gate(tmp_path, door=Failing) as gate, peer(gate) as pacs:
        pacs.send(n_event_report(GOOD.encoded()))

        answer = pacs.answer()

        assert (answer.field, answer.status) == (0x8100, 0x0110)
        assert "CANARY" not in answer.comment
        assert pacs.echo() == 0x0000


def test_a_report_without_end_ends_its_association(gate: Gate) -> None:
    with peer(gate) as pacs:
        pacs.send(n_event_report(bytes(13 * 1024**2)))

        assert pacs.read().kind in (ABORT, -1)
    assert gate.promised(Reported) == []


def report(port: int, ds: Dataset, event_type: int = ALL, *, calling: str = "PACS") -> int:
    """As a PACS does, over an association of its own; the status of our answer."""
    ae = AE(calling)
    ae.add_requested_context(StorageCommitmentPushModel)
    roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
    association = ae.associate("127.0.0.1", port, ae_title="AIGATEWAY", ext_neg=roles)
    assert association.is_established
    answer, _ = association.send_n_event_report(ds, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    association.release()
    return int(answer.Status)


# What becomes of it


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    """Where one delivery waits for the report on TRANSACTION."""
    place = Place(database_url, tmp_path)
    a_series(place.db)
    a_delivery(place.db, a_job(place.db, state="done"), state="sent", sent_at=NOW, looks=1, transaction_uid=TRANSACTION)
    yield place
    place.close()


def delivery(db: Database) -> Delivery:
    with db() as session:
        return session.scalars(select(Delivery)).one()


def acts(db: Database, act: str) -> list[AuditEvent]:
    with db() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.act == act)))


def hear(place: Place, outcome: Outcome) -> None:
    place.door.report(PACS, outcome)
    place.file()


def test_what_a_peer_commits_to_keep_is_proved(place: Place) -> None:
    hear(place, GOOD)

    row = delivery(place.db)
    assert (row.state, row.proof, row.proved_at) == (DeliveryState.PROVED, "commitment", place.now)
    assert len(acts(place.db, "delivery.proved")) == 1


def test_what_a_peer_says_it_does_not_have_is_queued_again(place: Place) -> None:
    hear(place, Outcome(TRANSACTION, [], [(*KNOWN, 0x0112)]))

    row = delivery(place.db)
    assert (row.state, row.refusals) == (DeliveryState.QUEUED, 1)
    assert place.queues.is_alive(DELIVER, str(row.id), row.ticket)
    assert len(acts(place.db, "delivery.lost")) == 1


def test_what_a_peer_does_not_commit_to_for_now_is_asked_for_again(place: Place) -> None:
    hear(place, Outcome(TRANSACTION, [], [(*KNOWN, 0x0110)]))

    row = delivery(place.db)
    assert (row.state, row.transaction_uid) == (DeliveryState.SENT, "")
    assert place.queues.is_alive(PROVE, str(row.id), row.ticket)


def test_a_report_on_a_transaction_that_nobody_waits_for_is_told_of_and_changes_nothing(place: Place) -> None:
    before = vars(delivery(place.db)).copy()

    hear(place, Outcome("2.25.1", [KNOWN], []))

    after = vars(delivery(place.db)).copy()
    assert before.pop("_sa_instance_state") is not after.pop("_sa_instance_state")
    assert before == after
    (event,) = acts(place.db, "proof.unknown")
    assert (event.actor, event.outcome, event.detail["transaction"]) == ("PACS", 4, "2.25.1")


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_a_report_that_comes_twice_is_believed_once(place: Place, in_one_batch: bool) -> None:
    place.door.report(PACS, GOOD)
    if not in_one_batch:
        place.file()
    place.now = place.now.replace(hour=20)
    hear(place, GOOD)

    assert delivery(place.db).state == DeliveryState.PROVED
    assert len(acts(place.db, "delivery.proved")) == 1
    assert acts(place.db, "proof.unknown") == []


def test_a_failure_that_is_reported_after_the_proof_does_not_undo_it(place: Place) -> None:
    hear(place, GOOD)
    hear(place, Outcome(TRANSACTION, [], [(*KNOWN, 0x0112)]))

    assert delivery(place.db).state == DeliveryState.PROVED


def test_a_report_that_was_filed_is_not_filed_again_after_a_death(place: Place) -> None:
    place.door.report(PACS, Outcome(TRANSACTION, [], [(*KNOWN, 0x0112)]))
    place.file(again=True)  # and forget it, as a gateway that is killed then does
    place.positions = positions(db=place.db)

    place.file()

    assert delivery(place.db).refusals == 1
    assert acts(place.db, "proof.unknown") == []


def test_reports_and_instances_are_filed_in_one_batch(place: Place) -> None:
    place.bring(ct_series(1)[0])
    hear(place, GOOD)

    assert delivery(place.db).state == DeliveryState.PROVED
    assert len(acts(place.db, "instance.received")) == 1


# With a whole gateway


NO_TRITON = "127.0.0.1:1"
NO_JOBS = "rules:\n  - {name: none, when: {all: [{attribute: Modality, is: NONE}]}, pipeline: bright, send_to: [PEERS]}\n"


def make_world(folder: Path, database_url: str, peer_port: int, ae_title: str, **more: Any) -> World:
    """A gateway whose one peer proves by storage commitment."""
    pacs = {
        "name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": peer_port, "ae_title": ae_title,
        "timeout_seconds": 5, "proof": "commitment",
    }  # fmt: skip
    return World(folder, database_url, NO_TRITON, (pacs,), rules=NO_JOBS, **more)


def an_output(world: World) -> Path:
    """One object of ours in the store and in the tables, as a job leaves it; its file."""
    (ds,) = ct_series(1, 16, 16, StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=OUTPUT)
    store = Store(world.folder / "var" / "store")
    stored = store.put([part10(ds)])
    with world.database() as db:
        a_series(db)
        job = a_job(db, state="done")
        with db.begin() as session:
            session.add(
                OutputInstance(
                    sop_instance_uid=OUTPUT, job=job, study_instance_uid=STUDY, series_instance_uid=SERIES,
                    sop_class_uid=CTImageStorage, modality="CT", sha256=stored.sha256, size=stored.size, created_at=NOW,
                )
            )  # fmt: skip
    return store.path(stored.sha256)


def a_waiting_delivery(world: World, **values: object) -> None:
    with world.database() as db, db() as session:
        job = session.get_one(OutputInstance, OUTPUT).job
    with world.database() as db:
        a_delivery(db, job, **values)


def enqueue(world: World, stage: str) -> None:
    """The first attempt of the one delivery."""
    url = world.database_url.replace("postgresql://", "postgresql+psycopg://")
    queues = Queues(url)
    with world.database() as db, db.begin() as session:
        row = session.scalars(select(Delivery)).one()
        queues.enqueue(session, stage, str(row.id), attempt=row.ticket, lane=peer_lane(row.peer))
    queues.close()


def wait_proved(world: World) -> Delivery:
    with world.database() as db:
        world.wait_until(lambda: delivery(db).state == DeliveryState.PROVED)
        return delivery(db)


@pytest.mark.parametrize(
    ("crash_at", "state"), [("receive.filed", DeliveryState.SENT), ("receive.committed", DeliveryState.PROVED)]
)
def test_a_report_that_was_acknowledged_is_filed_once_whenever_the_gateway_is_killed(
    database_url: str, tmp_path: Path, crash_at: str, state: str
) -> None:
    with make_world(tmp_path / "world", database_url, free_port(), "PACS") as world:
        an_output(world)
        later = datetime.now(UTC) + timedelta(hours=1)  # nobody asks again meanwhile, under another transaction
        a_waiting_delivery(world, state="sent", sent_at=NOW, due_at=later, transaction_uid=TRANSACTION)
        world.start(crash_at=crash_at)
        assert report(world.port, information(committed=[KNOWN])) == 0x0000
        world.wait_for_death()
        with world.database() as db:
            assert delivery(db).state == state

        world.start()

        wait_proved(world)
        with world.database() as db:
            assert len(acts(db, "delivery.proved")) == 1
            assert acts(db, "proof.unknown") == []


@dataclass
class Pacs:
    """A PACS that commits: it reports over an association of its own; `reasons` are those of its next reports, 0 is success."""

    port: int
    gateway: int
    reasons: list[int] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def on_c_store(self, event: Any) -> int:
        self.received.append(event.request.DataSet.getvalue())
        return 0x0000

    def on_n_action(self, event: Any) -> tuple[int, None]:
        self.asked.append(event.action_information.TransactionUID)
        asked = event.action_information.ReferencedSOPSequence
        self._told = [(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in asked]
        return 0x0000, None

    def tell(self, times: int = 1) -> None:
        """Report on what was asked last."""
        reason = self.reasons.pop(0) if self.reasons else 0
        failed = [(*one, reason) for one in self._told] if reason else []
        ds = information(transaction_uid=self.asked[-1], committed=[] if reason else self._told, failed=failed)
        self.answers += [report(self.gateway, ds, SOME_FAILED if reason else ALL) for _ in range(times)]


@contextmanager
def committing(port: int, gateway: int, *reasons: int) -> Iterator[Pacs]:
    pacs = Pacs(port, gateway, list(reasons))
    ae = AE("PACS")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.add_supported_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_C_STORE, pacs.on_c_store), (evt.EVT_N_ACTION, pacs.on_n_action)]
    with accepting(ae, port, handlers):
        yield pacs


def test_a_pacs_that_lost_an_object_gets_the_same_bytes_again_and_commits(database_url: str, tmp_path: Path) -> None:
    with make_world(tmp_path / "world", database_url, free_port(), "PACS") as world:
        path = an_output(world)
        a_waiting_delivery(world)
        enqueue(world, DELIVER)
        with committing(world.peers[0]["port"], world.port, 0x0112) as pacs:
            world.start()
            for n in (1, 2):
                world.wait_until(lambda n=n: len(pacs.asked) == n)
                pacs.tell(times=n)

            row = wait_proved(world)

        assert (row.proof, row.refusals, row.attempts) == ("commitment", 1, 2)
        assert pacs.answers == [0x0000] * 3
        assert len(set(pacs.asked)) == 2
        assert len(pacs.received) == 2
        assert path.read_bytes().endswith(pacs.received[0])
        assert pacs.received[0] == pacs.received[1]


def test_orthanc_says_what_it_lacks_gets_it_and_commits(tmp_path: Path) -> None:
    port, url = free_port(), f"sqlite:///{tmp_path / 'gateway.db'}"
    (tmp_path / "orthanc").mkdir()
    modalities = {"gateway": ["AIGATEWAY", "127.0.0.1", port]}
    with running_orthanc(tmp_path / "orthanc", DicomModalities=modalities) as orthanc:
        with make_world(tmp_path / "world", url, orthanc.dicom_port, "ORTHANC", port=port) as world:
            world.start()  # makes the tables
            path = an_output(world)
            a_waiting_delivery(world, state="sent", sent_at=NOW)
            enqueue(world, PROVE)

            row = wait_proved(world)

            assert (row.proof, row.refusals) == ("commitment", 1)
            assert data_set_sha256(orthanc.file(OUTPUT)) == data_set_sha256(path)
            with world.database() as db:
                assert len(acts(db, "delivery.lost")) == 1
