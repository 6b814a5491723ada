"""Storage commitment (PS3.4 J.3): who asks is told what is really there, once, whatever happens in between."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select
from sqlalchemy.orm import undefer

from gateway.commit import commit, commit_failed, resume
from gateway.db import Database
from gateway.dicom import pdu
from gateway.dicom.commitment import COMMITMENT, Outcome, read_request
from gateway.dicom.instance import Origin
from gateway.doors.entry import Asked
from gateway.engine import COMMIT
from gateway.errors import InvalidArgument, Unreachable
from gateway.peers._association import COMMITMENT_REPORTS
from gateway.peers.dimse import Dimse
from gateway.rows.tables import Commitment, CommitmentState, Instance
from gateway.rows.trail import AuditEvent
from gateway.sweep import sweep
from gateway.telling.happening import TOLD, happening
from gateway.work.ask import ask
from tests.door_fixture import NOW, Place
from tests.peers_fixture import Orthanc, running_orthanc
from tests.ports import free_port
from tests.scp_fixture import accepting
from tests.synthetic import ct_series
from tests.world import World, let_go_on, store

NO_JOBS = "rules:\n  - {name: none, when: {all: [{attribute: Modality, is: NONE}]}, pipeline: bright, send_to: [PEERS]}\n"
References = Sequence[tuple[str, str]]


@dataclass
class Scanner:
    """A modality: what it was told, in its order; `statuses` are its next answers, 0x0000 when there are no more."""

    port: int
    statuses: list[int] = field(default_factory=list)
    reports: list[tuple[int, Dataset]] = field(default_factory=list)

    def on_n_event_report(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return (self.statuses.pop(0) if self.statuses else 0x0000), None

    def told(self, transaction_uid: str) -> list[tuple[int, dict[str, int]]]:
        """Event types of the reports of one transaction, and the failure reasons by SOP Instance UID; 0 is success."""
        return [(kind, results(ds)) for kind, ds in self.reports if ds.TransactionUID == transaction_uid]


def results(ds: Dataset) -> dict[str, int]:
    committed = {one.ReferencedSOPInstanceUID: 0 for one in ds.get("ReferencedSOPSequence", ())}
    return committed | {one.ReferencedSOPInstanceUID: one.FailureReason for one in ds.get("FailedSOPSequence", ())}


@contextmanager
def listening(port: int, *statuses: int, takes_reports: bool = True) -> Iterator[Scanner]:
    scanner = Scanner(port, list(statuses))
    ae = AE("CT1")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=not takes_reports, scp_role=takes_reports)
    handlers = [(evt.EVT_N_EVENT_REPORT, scanner.on_n_event_report)]
    with accepting(ae, port, handlers):
        yield scanner


def references(series: Sequence[Dataset]) -> list[tuple[str, str]]:
    return [(ds.SOPClassUID, ds.SOPInstanceUID) for ds in series]


def information(instances: References, transaction_uid: str) -> Dataset:
    ds = Dataset()
    ds.TransactionUID, ds.ReferencedSOPSequence = transaction_uid, []
    for sop_class, uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        ds.ReferencedSOPSequence.append(item)
    return ds


@contextmanager
def associated(port: int, calling: str = "CT1", syntax: str = ImplicitVRLittleEndian) -> Iterator[Any]:
    ae = AE(calling)
    ae.add_requested_context(StorageCommitmentPushModel, syntax)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="AIGATEWAY")
    assert association.is_established
    yield association
    association.release()


def request(
    world: World, instances: References, transaction_uid: str = "", *, calling: str = "CT1", syntax: str = ImplicitVRLittleEndian
) -> str:
    """Ask for commitment, and be promised it; the Transaction UID."""
    transaction_uid = transaction_uid or generate_uid()
    with associated(world.port, calling, syntax) as association:
        assert ask_over(association, instances, transaction_uid) == 0x0000
    return transaction_uid


def ask_over(association: Any, instances: References, transaction_uid: str) -> int:
    asked = information(instances, transaction_uid)
    answer, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    let_go_on(association)
    return int(answer.Status)


def send(world: World, series: Sequence[Dataset]) -> list[tuple[str, str]]:
    assert world.send(series) == [0x0000] * len(series)
    return references(series)


def held(world: World, instances: References) -> dict[str, str]:
    """SHA-256 of those that are indexed."""
    with world.database() as db, db() as session:
        found = select(Instance.sop_instance_uid, Instance.sha256).where(
            Instance.sop_instance_uid.in_([uid for _, uid in instances])
        )
        return dict(session.execute(found).all())


def rows(world: World) -> list[Commitment]:
    with world.database() as db, db() as session:
        return list(session.scalars(select(Commitment)))


def acts(db: Database, act: str) -> list[AuditEvent]:
    with db() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.act == act)))


def make_world(folder: Path, database_url: str, peer_port: int, ae_title: str = "CT1", **more: Any) -> World:
    """A gateway that makes no jobs; whoever calls itself `ae_title` is told of its commitments at `peer_port`."""
    peer = {
        "name": "ct1",
        "protocol": "dimse",
        "host": "127.0.0.1",
        "port": peer_port,
        "ae_title": ae_title,
        "timeout_seconds": 5,
    }
    return World(folder, database_url, "127.0.0.1:1", (peer,), rules=NO_JOBS, **more)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Scanner]]:
    """A gateway, and a scanner that waits for its reports."""
    folder, port = tmp_path_factory.mktemp("commit"), free_port()
    with listening(port) as scanner, make_world(folder / "world", f"sqlite:///{folder / 'gateway.db'}", port) as world:
        yield world.start(), scanner


def wait_told(world: World, scanner: Scanner, transaction_uid: str, times: int = 1) -> tuple[int, dict[str, int]]:
    world.wait_until(lambda: len(scanner.told(transaction_uid)) >= times)
    return scanner.told(transaction_uid)[-1]


def test_what_was_stored_is_committed(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with listening(port) as scanner, make_world(tmp_path / "world", database_url, port) as world:
        instances = send(world.start(), ct_series(4))

        transaction = request(world, instances)

        assert wait_told(world, scanner, transaction) == (1, {uid: 0 for _, uid in instances})
        world.wait_until(lambda: [row.state for row in rows(world)] == [CommitmentState.REPORTED])
        with world.database() as db:
            assert [event.detail["instances"] for event in acts(db, "commitment.asked")] == [4]
            assert [(event.outcome, event.detail["committed"]) for event in acts(db, "commitment.reported")] == [(0, 4)]


def test_instances_and_the_request_for_them_may_come_over_one_association(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    series = ct_series(3, seed=1)
    transaction = generate_uid()

    with associated(world.port) as association:
        assert [store(association, ds) for ds in series] == [0x0000] * 3
        assert ask_over(association, references(series), transaction) == 0x0000

    assert wait_told(world, scanner, transaction) == (1, {ds.SOPInstanceUID: 0 for ds in series})


def test_a_request_in_explicit_vr_is_understood(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    instances = send(world, ct_series(2, seed=2))

    transaction = request(world, instances, syntax=ExplicitVRLittleEndian)

    assert wait_told(world, scanner, transaction) == (1, {uid: 0 for _, uid in instances})


def test_an_instance_that_never_came_is_said_to_be_missing_and_the_others_are_committed(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    instances = send(world, ct_series(2, seed=3))

    transaction = request(world, [*instances, (CTImageStorage, "1.2.3.999")])

    assert wait_told(world, scanner, transaction) == (2, {uid: 0 for _, uid in instances} | {"1.2.3.999": 0x0112})


def test_an_instance_that_the_disk_has_damaged_or_lost_is_not_committed(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    instances = send(world, ct_series(3, seed=4))
    world.wait_until(lambda: len(held(world, instances)) == 3)
    uids = [uid for _, uid in instances]
    damaged, lost = (world.store.path(held(world, instances)[uid]) for uid in uids[:2])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    lost.unlink()

    transaction = request(world, instances)

    assert wait_told(world, scanner, transaction) == (2, dict(zip(uids, (0x0110, 0x0110, 0), strict=True)))
    with world.database() as db:
        world.wait_until(lambda: max((event.outcome for event in acts(db, "commitment.reported")), default=0) == 8)


def test_an_instance_under_another_sop_class_is_a_conflict(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    ((_, uid),) = send(world, ct_series(1, seed=5))

    transaction = request(world, [(MRImageStorage, uid)])

    assert wait_told(world, scanner, transaction) == (2, {uid: 0x0119})


def test_an_instance_of_which_there_are_two_versions_is_not_committed(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    ((_, uid),) = send(world, ct_series(1, seed=6))
    send(world, ct_series(1, seed=6, PatientComments="another"))

    transaction = request(world, [(CTImageStorage, uid)])

    assert wait_told(world, scanner, transaction) == (2, {uid: 0x0110})


def test_a_transaction_uid_that_was_used_for_something_else_fails_as_a_whole(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    first, second = send(world, ct_series(2, seed=7))
    transaction = request(world, [first])
    wait_told(world, scanner, transaction)

    request(world, [second], transaction)

    assert wait_told(world, scanner, transaction, 2) == (2, {second[1]: 0x0131})
    assert scanner.told(transaction)[0] == (1, {first[1]: 0})


def test_a_request_that_is_repeated_after_its_report_is_answered_again(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    instances = send(world, ct_series(2, seed=8))
    transaction = request(world, instances)
    wait_told(world, scanner, transaction)
    world.wait_until(lambda: [row.state for row in rows(world) if row.transaction_uid == transaction] == ["reported"])

    request(world, instances, transaction)

    assert wait_told(world, scanner, transaction, 2) == (1, {uid: 0 for _, uid in instances})


def test_a_request_that_is_repeated_before_its_report_is_answered_once(running: tuple[World, Scanner]) -> None:
    world, scanner = running
    instances, transaction = send(world, ct_series(2, seed=9)), generate_uid()

    with associated(world.port) as association:  # both within the second before it is looked at
        assert [ask_over(association, instances, transaction) for _ in range(2)] == [0x0000] * 2

    world.wait_until(lambda: [row.state for row in rows(world) if row.transaction_uid == transaction] == ["reported"])
    time.sleep(2)  # a second one would come after a second
    assert len(scanner.told(transaction)) == 1


def refused(world: World, **changes: Any) -> int:
    """The status of an N-ACTION as broken as `changes` make it: the fields of the request, and `data`."""
    values = {
        "RequestedSOPClassUID": StorageCommitmentPushModel,
        "RequestedSOPInstanceUID": StorageCommitmentPushModelInstance,
        "ActionTypeID": 1,
        "data": information([(CTImageStorage, "1.2.3")], "1.2.4"),
    } | changes
    data = values.pop("data")
    action = N_ACTION()
    action.MessageID = 1
    for name, value in values.items():
        setattr(action, name, value)
    encoded = encode(data, is_implicit_vr=True, is_little_endian=True) if isinstance(data, Dataset) else data
    action.ActionInformation = None if encoded is None else BytesIO(encoded)
    with associated(world.port) as association:
        context = next(one for one in association.accepted_contexts if one.abstract_syntax == StorageCommitmentPushModel)
        association._reactor_checkpoint.clear()  # as send_n_action does: the answer is for us
        while not association._is_paused:
            time.sleep(0.001)
        association.dimse.send_msg(action, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
    return int(answer.Status)


CT = (CTImageStorage, "1.2.3")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"ActionTypeID": 2}, 0x0123),
        ({"RequestedSOPInstanceUID": "1.2.3"}, 0x0112),
        ({"RequestedSOPClassUID": CTImageStorage}, 0x0118),
        ({"data": None}, 0x0115),
        ({"data": b"CANARY^NAME" * 99}, 0x0115),
        ({"data": information([CT, CT], "1.2.4")}, 0x0115),
        ({"data": information([], "1.2.4")}, 0x0115),
        ({"data": information([CT], "")}, 0x0115),
        ({"data": information([(CTImageStorage, "")], "1.2.4")}, 0x0115),
    ],
)
def test_a_request_that_is_none_is_refused_with_a_status_that_says_why(
    running: tuple[World, Scanner], changes: dict[str, Any], status: int
) -> None:
    world, _ = running
    asked = len(rows(world))

    assert refused(world, **changes) == status

    time.sleep(0.5)
    assert len(rows(world)) == asked


def test_a_request_that_is_cut_anywhere_is_refused_or_names_its_instances() -> None:
    whole = encode(information([CT, (CTImageStorage, "1.2.5")], "1.2.4"), is_implicit_vr=True, is_little_endian=True)
    assert whole is not None
    assert read_request(whole, ImplicitVRLittleEndian) == ("1.2.4", (CT, (CTImageStorage, "1.2.5")))

    for length in range(len(whole)):
        with pytest.raises(InvalidArgument):
            read_request(whole[:length], ImplicitVRLittleEndian)


def test_a_peer_that_is_down_is_told_when_it_is_back(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with make_world(tmp_path / "world", database_url, port) as world:
        instances = send(world.start(), ct_series(2))
        transaction = request(world, instances)
        world.wait_until(lambda: [row.attempts > 1 and "no connection" in row.reason for row in rows(world)] == [True])

        with listening(port) as scanner:
            assert wait_told(world, scanner, transaction) == (1, {uid: 0 for _, uid in instances})
            world.wait_until(lambda: [row.state for row in rows(world)] == [CommitmentState.REPORTED])

    assert len(scanner.reports) == 1


def test_a_peer_that_asks_again_is_back_and_is_told_at_once(tmp_path: Path) -> None:
    port, url = free_port(), f"sqlite:///{tmp_path / 'gateway.db'}"
    delivery = {"retry_seconds": 600, "retry_at_most_seconds": 600}
    with make_world(tmp_path / "world", url, port, settings={"delivery": delivery}) as world:
        instances = send(world.start(), ct_series(2))
        transaction = request(world, instances)
        world.wait_until(lambda: ["no connection" in row.reason for row in rows(world)] == [True])

        with listening(port) as scanner:
            request(world, instances, transaction)

            assert wait_told(world, scanner, transaction) == (1, {uid: 0 for _, uid in instances})


@pytest.mark.parametrize(
    ("status", "state", "reports"), [(0x0110, "reported", 2), (0x0213, "reported", 2), (0x0115, "failed", 1)]
)
def test_a_peer_that_does_not_take_the_report_is_asked_again_where_that_can_help(
    tmp_path: Path, status: int, state: str, reports: int
) -> None:
    port = free_port()
    with (
        listening(port, status) as scanner,
        make_world(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", port) as world,
    ):
        request(world, send(world.start(), ct_series(1)))

        world.wait_until(lambda: [row.state for row in rows(world)] == [state])

        assert len(scanner.reports) == reports
        assert [row.status for row in rows(world)] == [0 if state == "reported" else status]


def test_a_gateway_that_dies_between_the_promise_and_the_report_reports_after_its_start(
    database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    with listening(port) as scanner, make_world(tmp_path / "world", database_url, port) as world:
        instances = send(world.start(), ct_series(2))
        transaction = request(world, instances)
        world.kill()
        assert scanner.reports == []

        world.start()

        assert wait_told(world, scanner, transaction) == (1, {uid: 0 for _, uid in instances})
        world.wait_until(lambda: [row.state for row in rows(world)] == [CommitmentState.REPORTED])
        with world.database() as db:
            assert len(acts(db, "commitment.reported")) == 1
        assert len(scanner.reports) == 1


def test_a_report_that_was_taken_before_a_death_is_sent_again_and_written_down_once(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with listening(port) as scanner, make_world(tmp_path / "world", database_url, port) as world:
        world.start(crash_at="commit.reported")
        transaction = request(world, send(world, ct_series(2)))
        world.wait_for_death()

        world.start()

        world.wait_until(lambda: [row.state for row in rows(world)] == [CommitmentState.REPORTED])
        assert [kind for kind, _ in scanner.told(transaction)] == [1, 1]
        with world.database() as db:
            assert len(acts(db, "commitment.reported")) == 1


def test_without_a_peer_of_that_ae_title_a_report_waits_until_the_configuration_has_one(
    database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    with make_world(tmp_path / "world", database_url, port, ae_title="OTHER") as world:
        instances = send(world.start(), ct_series(2))
        transaction = request(world, instances)
        world.wait_until(lambda: [row.state for row in rows(world)] == [CommitmentState.WAITING])
        assert rows(world)[0].reason == 'expected a [[peers]] table with protocol = "dimse" and ae_title = "CT1"'
        world.stop()
    with listening(port) as scanner, make_world(tmp_path / "world", database_url, port) as world:
        world.start()

        assert wait_told(world, scanner, transaction) == (1, {uid: 0 for _, uid in instances})


def report_to(port: int) -> int:
    peer = Dimse(name="ct1", host="127.0.0.1", port=port, ae_title="CT1", calling_ae_title="AIGATEWAY", timeout_seconds=5)
    return peer.report_commitment(Outcome("1.2.4", [CT], []))


def test_the_report_comes_from_one_that_proposes_to_be_the_scp() -> None:
    port = free_port()
    with listening(port) as scanner:
        assert report_to(port) == 0x0000

    assert [(kind, results(ds)) for kind, ds in scanner.reports] == [(1, {"1.2.3": 0})]


def test_a_peer_that_refuses_the_role_can_be_mended_and_is_tried_again() -> None:
    port = free_port()
    with listening(port, takes_reports=False) as scanner, pytest.raises(Unreachable, match="does not accept reports"):
        report_to(port)
    assert scanner.reports == []


@pytest.mark.parametrize(("as_scp", "is_taken"), [(None, True), (True, True), (False, False)])
def test_a_context_counts_as_accepted_unless_its_role_is_refused(as_scp: bool | None, is_taken: bool) -> None:
    context = build_context(COMMITMENT, ImplicitVRLittleEndian)
    context.context_id, context.result = 1, 0
    answer = A_ASSOCIATE()
    answer.application_context_name = UID("1.2.840.10008.3.1.1.1")
    answer.calling_ae_title, answer.called_ae_title, answer.result = "AIGATEWAY", "CT1", 0
    answer.presentation_context_definition_results_list = [context]
    length = MaximumLengthNotification()
    length.maximum_length_received = 0
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3")
    answer.user_information = [length, implementation]
    if as_scp is not None:
        answer.user_information.append(build_role(COMMITMENT, scu_role=not as_scp, scp_role=as_scp))
    encoded = A_ASSOCIATE_AC(answer).encode()

    taken, _ = pdu.accepted(encoded, [COMMITMENT_REPORTS])

    assert taken == ({COMMITMENT_REPORTS: 1} if is_taken else {})


def asked_for(place: Place, *instances: tuple[str, str]) -> int:
    """The ID of the row that a request becomes."""
    asked = Asked(place.now, Origin("dimse", "a", "CT1", "AIGATEWAY", "127.0.0.1"), "1.2.4", instances)
    with place.db.begin() as session:
        ask(session, asked, place.now, queues=place.queues)
    with place.db() as session:
        return session.scalars(select(Commitment.id)).one()


def look(place: Place, commitment_id: int, *peers: Dimse, filed_at: datetime | None = None) -> Commitment:
    """One attempt; the row after it."""
    commit(
        commitment_id, clock=lambda: place.now, filed=lambda: filed_at or place.now, peers={one.name: one for one in peers},
        store=place.store, db=place.db,
        queues=place.queues, retry=timedelta(seconds=10), retry_at_most=timedelta(hours=1),
    )  # fmt: skip
    with place.db() as session:
        return session.get_one(Commitment, commitment_id, options=[undefer(Commitment.failures)])


def noticed(place: Place) -> list[str]:
    """What notices tell of what has happened."""
    columns = (AuditEvent.id, AuditEvent.at, AuditEvent.act, AuditEvent.outcome, AuditEvent.job, AuditEvent.detail)
    with place.db() as session:
        told = session.execute(select(*columns).where(AuditEvent.act.in_(TOLD)).order_by(AuditEvent.id)).all()
    return [one.text for row in told if (one := happening(*row))]


def test_a_report_that_is_tried_again_is_no_news(place: Place) -> None:
    commitment_id = asked_for(place, CT)
    place.now += timedelta(seconds=1)
    peer = Dimse(name="ct1", host="127.0.0.1", port=free_port(), ae_title="CT1")

    look(place, commitment_id, peer)
    found = look(place, commitment_id, peer)

    assert (found.state, found.reason, noticed(place)) == (CommitmentState.CHECKED, "no connection: connection refused", [])


def test_what_is_missing_is_looked_for_as_long_as_doors_hold_what_was_promised_before(place: Place) -> None:
    commitment_id = asked_for(place, CT)
    place.now += timedelta(minutes=10)

    assert look(place, commitment_id, filed_at=NOW).state == CommitmentState.ASKED

    found = look(place, commitment_id, filed_at=NOW + timedelta(seconds=1))
    assert (found.state, found.failures) == (CommitmentState.WAITING, [[*CT, 0x0112]])


def test_what_was_lost_while_there_was_no_peer_to_tell_is_not_committed(place: Place) -> None:
    (ds,) = ct_series(1)
    place.take(ds)
    (reference,) = references([ds])
    commitment_id = asked_for(place, reference)
    place.now += timedelta(seconds=1)
    found = look(place, commitment_id)
    assert (found.state, found.failures) == (CommitmentState.WAITING, [])
    assert noticed(place) == [f"a storage commitment has nobody to be reported to: {found.reason}"]
    with place.db() as session:
        place.store.discard(session.scalars(select(Instance.sha256)).one())
    peer = Dimse(name="ct1", host="127.0.0.1", port=free_port(), ae_title="CT1")

    resume(place.now, peers={"ct1": peer}, db=place.db, queues=place.queues)
    look(place, commitment_id, peer)
    with listening(peer.port) as scanner:
        found = look(place, commitment_id, peer)

    assert scanner.told("1.2.4") == [(2, {ds.SOPInstanceUID: 0x0110})]
    assert found.state == CommitmentState.REPORTED


def test_a_commitment_that_the_engine_has_forgotten_is_enqueued_again(place: Place) -> None:
    commitment_id = asked_for(place, CT)
    with place.db.begin() as session:
        session.get_one(Commitment, commitment_id).ticket = "lost"

    sweep(place.now + timedelta(minutes=10), db=place.db, queues=place.queues)

    with place.db() as session:
        found = session.get_one(Commitment, commitment_id)
        assert found.ticket != "lost"
        assert place.queues.is_alive(COMMIT, str(commitment_id), found.ticket)


def test_what_nobody_expected_is_tried_again_and_says_so(place: Place) -> None:
    commitment_id = asked_for(place, CT)

    commit_failed(
        commitment_id, ZeroDivisionError("CANARY"), place.now, db=place.db, queues=place.queues, retry=timedelta(seconds=10)
    )

    with place.db() as session:
        found = session.get_one(Commitment, commitment_id)
        assert (found.state, found.due_at) == (CommitmentState.ASKED, place.now + timedelta(seconds=10))
        assert "ZeroDivisionError" in found.reason
        assert "CANARY" not in found.reason
        assert place.queues.is_alive(COMMIT, str(commitment_id), found.ticket)


def orthanc_asks(orthanc: Orthanc, instances: References) -> str:
    """Orthanc's name of the transaction."""
    references = {"DicomInstances": [{"SOPClassUID": one, "SOPInstanceUID": uid} for one, uid in instances]}
    return dict(orthanc.post("/modalities/gateway/storage-commitment", references))["ID"]


def orthanc_was_told(orthanc: Orthanc, name: str) -> dict[str, Any]:
    return dict(json.loads(orthanc.get(f"/storage-commitment/{name}")))


def test_orthanc_asks_and_is_told_what_is_committed_and_what_is_not(tmp_path: Path) -> None:
    port, url = free_port(), f"sqlite:///{tmp_path / 'gateway.db'}"
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc", DicomModalities={"gateway": ["AIGATEWAY", "127.0.0.1", port]}) as orthanc:
        with make_world(tmp_path / "world", url, orthanc.dicom_port, ae_title="ORTHANC", port=port) as world:
            instances = send(world.start(), ct_series(3))

            good, bad = orthanc_asks(orthanc, instances), orthanc_asks(orthanc, [*instances, (CTImageStorage, "1.2.3.999")])

            world.wait_until(lambda: {row.state for row in rows(world)} == {"reported"} and len(rows(world)) == 2)
            assert [orthanc_was_told(orthanc, name)["Status"] for name in (good, bad)] == ["Success", "Failure"]
            told = orthanc_was_told(orthanc, bad)
            assert {one["SOPInstanceUID"] for one in told["Success"]} == {uid for _, uid in instances}
            assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in told["Failures"]] == [("1.2.3.999", 0x0112)]
