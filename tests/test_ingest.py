"""The listener (PS3.4 A, B) by real associations: who may come in, what is taken as it is, and how an association ends."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification
from structlog.testing import capture_logs

from gateway.doors.entry import Ended
from gateway.doors.policy import Caller, Policy
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES
from gateway.rows.tables import Association, Instance, Series
from tests.gate_fixture import Gate, open_gate, wait
from tests.peers_fixture import data_set
from tests.scanner_fixture import (
    AC,
    CONGESTED,
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RP,
    RJ,
    TOO_MANY,
    UNKNOWN_CALLED,
    UNKNOWN_CALLING,
    Scanner,
    c_store,
    encoded,
)
from tests.synthetic import ct_series, part10
from tests.world import associate, send, store

CT1_ONLY = Policy("AIGATEWAY", (Caller("ct", calling_ae_title=frozenset({"CT1"})),))


@pytest.fixture
def gate(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Gate]:
    with open_gate(tmp_path, migrated_sqlite, policy=CT1_ONLY) as gate:
        yield gate


def rejection(port: int, *, calling: bytes = b"CT1", called: bytes = b"AIGATEWAY") -> tuple[int, ...]:
    """Result, source and reason of the A-ASSOCIATE-RJ (PS3.8 9.3.4).

    Not by pynetdicom, which takes one that comes before its own thread has looked for a connection that was not made.
    """
    with Scanner(port) as scanner:
        answer = scanner.associate(calling=calling, called=called)
    assert answer.kind == RJ
    return tuple(answer.data[1:])


# --- Who may come in (standards 3.1, 4.2) ---


def test_an_echo_is_answered(gate: Gate) -> None:
    association = associate(gate.port, [])

    assert association.send_c_echo().Status == 0x0000

    association.release()


def test_an_unknown_calling_ae_title_is_rejected_and_audited(gate: Gate) -> None:
    assert rejection(gate.port, calling=b"STRANGER") == UNKNOWN_CALLING

    (event,) = gate.events("association.rejected")
    assert (event.actor, event.outcome, event.detail["address"]) == ("STRANGER", 4, "127.0.0.1")


def test_a_wrong_called_ae_title_is_rejected_audited_and_logged_with_who_called_whom(gate: Gate) -> None:
    with capture_logs() as logs:
        assert rejection(gate.port, calling=b"CT1", called=b"SOMEBODY") == UNKNOWN_CALLED

    (event,) = gate.events("association.rejected")
    assert event.detail["called_ae_title"] == "SOMEBODY"
    (logged,) = [one for one in logs if one["event"] == "association.rejected"]
    assert (logged["calling_ae_title"], logged["called_ae_title"]) == ("CT1", "SOMEBODY")


def test_one_association_too_many_is_rejected_for_now_and_accepted_later(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_associations=1) as gate:
        first = associate(gate.port, [])

        assert rejection(gate.port) == TOO_MANY

        first.release()
        wait(gate.is_empty)
        associate(gate.port, []).release()


def test_a_caller_is_offered_no_more_than_its_services_and_sop_classes(tmp_path: Path) -> None:
    narrow = Caller("ct", sop_classes=frozenset({CT}), services=frozenset({"store"}))
    (ds,) = ct_series(1)
    with open_gate(tmp_path, policy=Policy("AIGATEWAY", (narrow,))) as gate:
        association = associate(gate.port, [ds])

        assert [str(one.abstract_syntax) for one in association.accepted_contexts] == [CT]

        association.release()


def test_a_callers_own_limit_holds_for_each_of_its_instances(tmp_path: Path) -> None:
    small = Caller("ct", maximum_instance_bytes=5_000)
    (ds,) = ct_series(1)
    with open_gate(tmp_path, policy=Policy("AIGATEWAY", (small,))) as gate:
        assert send([ds], gate.port) == [0xC000]
        assert gate.held() == {}


# --- What is taken ---


def test_what_a_known_scanner_sends_is_kept_byte_for_byte(gate: Gate) -> None:
    series = ct_series(3)

    assert send(series, gate.port) == [0x0000] * 3

    assert gate.held() == {ds.SOPInstanceUID: data_set(part10(ds)) for ds in series}
    assert gate.stored() == {data_set(part10(ds)) for ds in series}


def test_a_row_tells_from_whom_an_instance_came(gate: Gate) -> None:
    assert send(ct_series(1), gate.port) == [0x0000]

    (association,) = gate.rows(Association)
    assert (association.ingest, association.calling_ae_title, association.called_ae_title, association.address) == (
        "dimse", "CT1", "AIGATEWAY", "127.0.0.1",
    )  # fmt: skip
    assert [one.association for one in gate.rows(Instance)] == [association.id]


def test_what_says_that_we_asked_for_it_counts_as_an_association_of_its_own(gate: Gate) -> None:
    """The title of who sends is what archives with pynetdicom's C-MOVE say in place of ours."""
    series, said = ct_series(4), {"": "dimse", "AIGATEWAY": "move", "OTHERS": "dimse", "CT1": "move"}
    association = associate(gate.port, series)
    for ds, originator in zip(series, said, strict=True):
        asked = {"MoveOriginatorApplicationEntityTitle": originator} if originator else {}
        assert store(association, ds, **asked) == 0x0000
    association.release()

    ingests = {one.id: one.ingest for one in gate.rows(Association) if one.ended_at}
    assert len(ingests) == len(series)
    came = {one.sop_instance_uid: ingests[one.association] for one in gate.rows(Instance)}
    assert [came[ds.SOPInstanceUID] for ds in series] == list(said.values())


@pytest.mark.parametrize("fragment", [2, 1000, 131_066])
def test_fragments_of_any_size_make_the_same_instance(gate: Gate, fragment: int) -> None:
    (ds,) = ct_series(1, 16, 16)
    with gate.scanner() as scanner:
        assert scanner.store(ds, fragment=fragment) == 0x0000

    assert gate.held() == {ds.SOPInstanceUID: encoded(ds)}


def test_interleaved_studies_of_one_association_are_told_apart(gate: Gate) -> None:
    one, other = ct_series(3, seed=1), ct_series(3, seed=2)
    mixed = [ds for pair in zip(reversed(one), other, strict=True) for ds in pair]

    assert send(mixed, gate.port) == [0x0000] * 6

    held = {row.sop_instance_uid: row.series_instance_uid for row in gate.rows(Instance)}
    assert held == {ds.SOPInstanceUID: ds.SeriesInstanceUID for ds in mixed}
    assert {row.study_instance_uid for row in gate.rows(Series)} == {one[0].StudyInstanceUID, other[0].StudyInstanceUID}


# --- How it ends ---


@pytest.mark.parametrize("leave", ["release", "abort"])
def test_an_association_has_ended_when_the_other_side_releases_or_aborts_it(gate: Gate, leave: str) -> None:
    association = associate(gate.port, ct_series(1))
    association.send_c_store(ct_series(1)[0])
    assert [one.ended_at for one in gate.rows(Association)] == [None]

    getattr(association, leave)()

    wait(lambda: gate.promised(Ended))
    (ended,) = gate.promised(Ended)
    assert (ended.whole, ended.broken) == (leave == "release", leave == "abort")
    assert [one.ended_at for one in gate.rows(Association) if one.ended_at]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_that_breaks_in_the_middle_of_an_instance_leaves_nothing_behind(gate: Gate, end: str) -> None:
    one, other = ct_series(2)
    with gate.scanner() as scanner:
        assert scanner.store(one) == 0x0000
        half = c_store(other)
        scanner.send(half[: len(half) // 2])
        getattr(scanner if end == "reset" else scanner.socket, end)()
    wait(lambda: gate.promised(Ended))
    (ended,) = gate.promised(Ended)

    assert (ended.whole, ended.broken) == (False, True)
    assert set(gate.held()) == {one.SOPInstanceUID}
    assert send([other], gate.port) == [0x0000]
    assert gate.stored() == {encoded(one), encoded(other)}


def test_a_release_is_written_down_then_answered_and_who_does_not_close_after_it_is_cut_off(gate: Gate) -> None:
    with gate.scanner() as scanner:
        assert scanner.store(ct_series(1)[0]) == 0x0000
        assert gate.promised(Ended) == []

        assert scanner.release() == RELEASE_RP

        assert [(ended.whole, ended.broken) for ended in gate.promised(Ended)] == [(True, False)]
        assert scanner.read().kind == -1
    assert len(gate.promised(Ended)) == 1


def test_who_was_put_off_and_let_go_may_come_back_with_the_rest(gate: Gate) -> None:
    one, other = ct_series(2)
    with gate.scanner() as scanner:
        assert scanner.store(one) == 0x0000
        gate.door.closed = "what was taken before has not reached the database yet"
        assert scanner.store(other) == 0xA700
        gate.door.closed = ""
        assert scanner.release() == RELEASE_RP

    assert [(ended.whole, ended.broken) for ended in gate.promised(Ended)] == [(False, True)]


def test_who_was_put_off_and_brings_it_again_at_once_is_not_waited_for(gate: Gate) -> None:
    one, other = ct_series(2)
    with gate.scanner() as scanner:
        assert scanner.store(one) == 0x0000
        gate.door.closed = "what was taken before has not reached the database yet"
        assert scanner.store(other) == 0xA700
        gate.door.closed = ""
        assert scanner.store(other) == 0x0000
        assert scanner.release() == RELEASE_RP

    assert [(ended.whole, ended.broken) for ended in gate.promised(Ended)] == [(False, False)]


def test_who_was_refused_for_good_is_not_waited_for(gate: Gate) -> None:
    one, other = ct_series(2)
    with gate.scanner() as scanner:
        assert scanner.store(one) == 0x0000
        assert scanner.store(other, data=b"no data set") == 0xC000
        assert scanner.release() == RELEASE_RP

    assert [(ended.whole, ended.broken) for ended in gate.promised(Ended)] == [(False, False)]


def test_who_only_looks_whether_the_port_answers_is_no_broken_association(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    socket.create_connection(("127.0.0.1", gate.port)).close()

    seen: list[str] = []
    wait(lambda: seen.append(capsys.readouterr().out) or "connection.closed" in "".join(seen))
    assert "association.broken" not in "".join(seen)


def test_a_listener_that_closes_lets_an_instance_in_that_is_on_its_way(tmp_path: Path) -> None:
    """Whoever is in the middle has a moment to end; a new association is rejected meanwhile."""
    (ds,) = ct_series(1)
    with open_gate(tmp_path) as gate, gate.scanner() as scanner:
        half = c_store(ds)
        scanner.send(half[:1000])
        closing = threading.Thread(target=gate.listener.close)
        closing.start()
        wait(lambda: gate.limits.draining)

        assert rejection(gate.port) == CONGESTED
        scanner.send(half[1000:])
        assert scanner.status() == 0x0000
        assert scanner.release() == RELEASE_RP
        scanner.socket.close()
        closing.join()

        assert gate.held() == {ds.SOPInstanceUID: encoded(ds)}


def test_a_listener_that_closes_while_somebody_is_just_coming_in_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coming, may_begin = threading.Event(), threading.Event()

    class Late(threading.Thread):
        def start(self) -> None:
            if self.name == "association":
                coming.set()
                may_begin.wait(20)
            super().start()

    monkeypatch.setattr(threading, "Thread", Late)
    with open_gate(tmp_path) as gate, Scanner(gate.port) as scanner:
        assert coming.wait(20)

        gate.listener.close()

        may_begin.set()
        assert scanner.associate().kind != AC
        wait(gate.is_empty)


# --- Transfer syntaxes ---


def agreed(port: int, *syntaxes: UID) -> dict[UID, int]:
    """The result of each transfer syntax, proposed in a context of its own (PS3.8 9.3.3.2): 0 accepted, 4 not supported."""
    ae = AE("CT1")
    for syntax in syntaxes:
        ae.add_requested_context(CTImageStorage, syntax)
    association = ae.associate("127.0.0.1", port, ae_title="AIGATEWAY")
    contexts = association.accepted_contexts + association.rejected_contexts
    proposed = {
        context.context_id: context.transfer_syntax[0]
        for context in association.requestor.primitive.presentation_context_definition_list
    }
    association.release()
    return {proposed[context.context_id]: context.result for context in contexts}


def test_what_the_gateway_can_decode_is_accepted(gate: Gate) -> None:
    assert agreed(gate.port, *map(UID, TRANSFER_SYNTAXES)) == dict.fromkeys(TRANSFER_SYNTAXES, 0)


def test_big_endian_and_deflate_are_not_negotiated(gate: Gate) -> None:
    found = agreed(gate.port, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian)

    assert found == {ExplicitVRBigEndian: 4, DeflatedExplicitVRLittleEndian: 4, ExplicitVRLittleEndian: 0}


def test_of_several_transfer_syntaxes_in_one_context_ours_is_chosen(gate: Gate) -> None:
    ae = AE("CT1")
    ae.add_requested_context(CTImageStorage, [ImplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian])
    association = ae.associate("127.0.0.1", gate.port, ae_title="AIGATEWAY")

    assert association.accepted_contexts[0].transfer_syntax == [EXPLICIT]

    association.release()


def test_a_sop_class_that_is_no_storage_is_not_supported_and_the_others_are(gate: Gate) -> None:
    study_root_find = "1.2.840.10008.5.1.4.1.2.2.1"
    ae = AE("CT1")
    ae.add_requested_context(study_root_find, IMPLICIT)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", gate.port, ae_title="AIGATEWAY")

    assert [(one.abstract_syntax, one.result) for one in association.rejected_contexts] == [(study_root_find, 3)]
    assert [one.abstract_syntax for one in association.accepted_contexts] == [Verification]

    association.release()


def test_every_sop_class_of_storage_is_taken(gate: Gate) -> None:
    classes = sorted(STORAGE)
    for some in (classes[:128], classes[128:]):
        ae = AE("CT1")
        for sop_class in some:
            ae.add_requested_context(sop_class, EXPLICIT)
        association = ae.associate("127.0.0.1", gate.port, ae_title="AIGATEWAY")

        assert [str(one.abstract_syntax) for one in association.accepted_contexts] == some

        association.release()
