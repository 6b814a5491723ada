"""DIMSE messages at the listener (PS3.7 6.3 and 9; standards 3.2, 5.5 B03, B06, B07, B53 to B55): each is answered once, or aborted."""

import struct
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, Dataset, config

from gateway.dicom.scan import Scan
from gateway.doors.door import Arrival, Door
from gateway.doors.entry import Declined
from tests.gate_fixture import Gate, open_gate
from tests.scanner_fixture import (
    ABORT,
    COMMAND,
    CT,
    CT_CONTEXT,
    ECHO_CONTEXT,
    LAST,
    VERIFICATION,
    Answer,
    c_echo,
    c_store,
    c_store_rq,
    command,
    encoded,
    item,
    message,
    p_data,
    pdv,
    uid,
    us,
)
from tests.synthetic import ct_series
from tests.world import associate

GOOD, OTHER = ct_series(2, 16, 16)
MR = "1.2.840.10008.5.1.4.1.1.4"
C_STORE_RQ, C_STORE_RSP, C_ECHO_RSP = 0x0001, 0x8001, 0x8030
NO_DATA_SET, A_DATA_SET = 0x0101, 0x0000


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with open_gate(tmp_path, maximum_associations=1) as gate:
        yield gate


def changed(**values: str) -> Dataset:
    """A copy of OTHER with other UIDs."""
    ds = deepcopy(OTHER)
    for keyword, value in values.items():
        ds[keyword] = DataElement(keyword, "UI", value, validation_mode=config.IGNORE)
    return ds


# --- What the other side takes (B53) ---


@pytest.mark.parametrize("maximum_length", [0, 1, 7, 8, 12, 100, 2**32 - 1])
def test_answers_come_whatever_length_of_pdu_the_other_side_takes(gate: Gate, maximum_length: int) -> None:
    with gate.scanner(maximum_length=maximum_length) as scanner:
        assert scanner.echo() == 0x0000
        assert scanner.store(OTHER, sop_instance="1.2.3") == 0x0117
        assert scanner.store(GOOD) == 0x0000

        longest = max(maximum_length, 8) if maximum_length else 131_072  # a fragment of 2 bytes is the least there is
        assert max(scanner.lengths) <= longest
    assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


def test_items_that_are_not_negotiated_here_are_passed_over(gate: Gate) -> None:
    window = item(0x53, struct.pack(">HH", 8, 8))
    identity = item(0x58, bytes((1, 1)) + struct.pack(">H4sH", 4, b"user", 0))
    extended = item(0x56, struct.pack(">H", len(CT)) + CT.encode() + bytes(6))
    with gate.scanner(information=window + identity + extended + item(0x7F, b"??")) as scanner:
        assert scanner.store(GOOD) == 0x0000


# --- Order (B55) ---


def test_messages_that_come_in_one_burst_are_answered_one_by_one_in_their_order(gate: Gate) -> None:
    series = ct_series(20, 16, 16)
    burst = [c_store(ds, message_id=2 * n) + message(ECHO_CONTEXT, c_echo(2 * n + 1)) for n, ds in enumerate(series)]
    with gate.scanner() as scanner:
        scanner.send(*burst)
        answers = [scanner.answer() for _ in range(2 * len(series))]

    expected = [
        (Answer(CT_CONTEXT, C_STORE_RSP, 2 * n, 0), Answer(ECHO_CONTEXT, C_ECHO_RSP, 2 * n + 1, 0)) for n in range(len(series))
    ]
    assert answers == [answer for both in expected for answer in both]
    assert gate.held() == {ds.SOPInstanceUID: encoded(ds) for ds in series}


def test_a_command_and_its_data_set_may_share_a_pdu(gate: Gate) -> None:
    with gate.scanner() as scanner:
        scanner.send(p_data(pdv(CT_CONTEXT, COMMAND | LAST, c_store_rq(GOOD)), pdv(CT_CONTEXT, LAST, encoded(GOOD))))

        assert scanner.status() == 0x0000
    assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


def test_a_data_set_in_thousands_of_tiny_fragments_is_kept_byte_for_byte(gate: Gate) -> None:
    (ds,) = ct_series(1, 128, 128)
    data = encoded(ds)
    fragments = [p_data(pdv(CT_CONTEXT, 0, data[at : at + 6])) for at in range(0, len(data), 6)]
    with gate.scanner() as scanner:
        scanner.send(
            p_data(pdv(CT_CONTEXT, COMMAND | LAST, c_store_rq(ds))), b"".join(fragments), p_data(pdv(CT_CONTEXT, LAST, b""))
        )

        assert scanner.status() == 0x0000
        assert scanner.store(GOOD) == 0x0000
    assert len(fragments) > 4000
    assert gate.held() == {ds.SOPInstanceUID: data, GOOD.SOPInstanceUID: encoded(GOOD)}


def test_a_message_id_that_comes_again_is_answered_again(gate: Gate) -> None:
    with gate.scanner() as scanner:
        assert [scanner.store(ds, message_id=7) for ds in (GOOD, OTHER, GOOD)] == [0x0000] * 3


# --- C-STORE requests (B03, B06, B07) ---

REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "a SOP class outside its context": (0x0122, {"sop_class": MR}),
    "no SOP class": (0x0122, {"sop_class": ""}),
    "a SOP class that is no UID": (0x0122, {"sop_class": "../../x"}),
    "no storage": (0x0122, {"context": ECHO_CONTEXT, "sop_class": VERIFICATION}),
    "no data set": (0xC000, {"data_set_type": NO_DATA_SET, "data": None}),
    "an empty data set": (0xC000, {"data": b""}),
    "another SOP instance": (0x0117, {"sop_instance": "1.2.3.4"}),
    "a path": (0x0117, {"sop_instance": "../../../../etc/pwn"}),
    "an absolute path": (0x0117, {"sop_instance": "/etc/passwd"}),
    "a NUL within": (0x0117, {"sop_instance": "1.2\0.3"}),
    "a leading zero": (0x0117, {"sop_instance": "1.02.3"}),
    "65 characters": (0x0117, {"sop_instance": "1." + "2" * 63}),
    "10,000 characters": (0x0117, {"sop_instance": "1" * 10_000}),
    "no SOP instance": (0x0117, {"sop_instance": ""}),
    "letters": (0x0117, {"sop_instance": "1.2.abc"}),
    "a dot at its end": (0x0117, {"sop_instance": "1.2.3."}),
    "a space at its end": (0x0117, {"sop_instance": "1.2.3 "}),
    "a line break": (0x0117, {"sop_instance": "1.2.3\n"}),
    "digits of another script": (0x0117, {"sop_instance": "1.2.٣".encode()}),
}


@pytest.mark.parametrize(("status", "changes"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_in_a_request_is_refused_with_its_status_and_the_next_instance_is_taken(
    gate: Gate, status: int, changes: dict[str, Any]
) -> None:
    named = changes.get("sop_instance")
    ds = changed(SOPInstanceUID=named) if isinstance(named, str) and named != "1.2.3.4" else OTHER  # in both: so it is not that
    with gate.scanner() as scanner:
        assert scanner.store(ds, **changes) == status
        assert scanner.store(GOOD) == 0x0000

    assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}
    assert gate.refusals() == [status]


def test_a_uid_may_end_in_the_one_nul_that_makes_it_even(gate: Gate) -> None:
    ds = changed(SOPInstanceUID="1.2.3")
    with gate.scanner() as scanner:
        assert scanner.store(ds) == 0x0000

    assert list(gate.held()) == ["1.2.3"]


def test_a_uid_that_ends_in_more_nuls_is_refused(gate: Gate) -> None:
    with gate.scanner() as scanner:
        assert scanner.store(changed(SOPInstanceUID="1.2.3"), sop_instance="1.2.3\0\0\0") == 0x0117


def test_who_announces_a_data_set_and_sends_none_frees_its_slot(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_associations=1, idle_seconds=1) as gate:
        with gate.scanner() as scanner:
            scanner.send(message(CT_CONTEXT, c_store_rq(OTHER)))

            assert scanner.read().kind == ABORT
        assert gate.takes(GOOD)


def test_a_refusal_says_in_its_comment_what_was_expected_and_nothing_that_came(gate: Gate) -> None:
    with gate.scanner() as scanner:
        scanner.send(c_store(changed(StudyInstanceUID="CANARY"), message_id=9))

        assert scanner.answer() == Answer(
            CT_CONTEXT, C_STORE_RSP, 9, 0xC000, "expected valid Study and Series Instance UIDs"
        )  # fmt: skip
    (declined,) = gate.promised(Declined)
    assert "CANARY" not in declined.reason


def test_pynetdicom_understands_a_refusal(gate: Gate) -> None:
    association = associate(gate.port, [OTHER])

    answer = association.send_c_store(changed(SeriesInstanceUID=""))
    association.release()

    assert (answer.Status, answer.ErrorComment) == (0xC000, "expected valid Study and Series Instance UIDs")


class Clumsy(Door):
    """Fails in a way that nobody thought of."""

    def kept(self, arrival: Arrival, found: Scan) -> None:
        if arrival.incoming.sop_instance_uid == OTHER.SOPInstanceUID:
            raise RuntimeError("what about CANARY^NAME?")
        super().kept(arrival, found)


def test_what_nobody_expected_is_answered_0110_and_keeps_the_association(tmp_path: Path, capfd) -> None:
    with open_gate(tmp_path, door=Clumsy) as gate, gate.scanner() as scanner:
        scanner.send(c_store(OTHER))
        assert scanner.answer() == Answer(CT_CONTEXT, C_STORE_RSP, 1, 0x0110, "unexpected error, nothing was kept")
        assert scanner.store(GOOD) == 0x0000

        assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}
    assert "CANARY" not in "".join(capfd.readouterr())


# --- Command sets (B54) ---


def without(number: int) -> bytes:
    parts = ((2, uid(VERIFICATION)), (0x0100, us(0x0030)), (0x0110, us(1)), (0x0800, us(NO_DATA_SET)))
    return command(*[part for part in parts if part[0] != number])


NO_COMMAND_SETS = {
    "no command field": without(0x0100),
    "no message ID": without(0x0110),
    "no data set type": without(0x0800),
    "nothing but its group length": command(),
    "half an element": c_echo()[:-3],
    "a length past its end": c_echo()[:-6] + struct.pack("<I", 1000) + us(0x0101),
    "an element of another group": c_echo() + struct.pack("<HHI", 8, 8, 2) + b"CT",
    "a command field of 4 bytes": command((0x0100, struct.pack("<I", 0x0030)), (0x0110, us(1)), (0x0800, us(NO_DATA_SET))),
    "explicit VR": struct.pack("<HH2sHI", 0, 0, b"UL", 4, 10) + struct.pack("<HH2sHH", 0, 0x0100, b"US", 2, 0x0030),
    "noise": bytes(range(1, 200)),
}


@pytest.mark.parametrize("sent", NO_COMMAND_SETS.values(), ids=NO_COMMAND_SETS.keys())
def test_what_is_no_command_set_aborts_the_association(gate: Gate, sent: bytes) -> None:
    with gate.scanner() as scanner:
        scanner.send(message(ECHO_CONTEXT, sent))

        assert scanner.read().kind == ABORT
        assert scanner.read().kind == -1
    assert gate.takes(GOOD)


@pytest.mark.parametrize("group_length", [0, 1, 10_000, 2**32 - 1])
def test_a_wrong_group_length_is_not_believed(gate: Gate, group_length: int) -> None:
    parts = ((2, uid(VERIFICATION)), (0x0100, us(0x0030)), (0x0110, us(5)), (0x0800, us(NO_DATA_SET)))
    with gate.scanner() as scanner:
        scanner.send(message(ECHO_CONTEXT, command(*parts, group_length=group_length)))

        assert scanner.answer() == Answer(ECHO_CONTEXT, C_ECHO_RSP, 5, 0x0000)


@pytest.mark.parametrize("data", [None, encoded(OTHER)], ids=["alone", "with a data set"])
@pytest.mark.parametrize(
    "field", [0x0020, 0x0010, 0x0021, 0x0110, 0x0150, 0x0777],
    ids=["C-FIND", "C-GET", "C-MOVE", "N-GET", "N-DELETE", "what does not exist"],
)  # fmt: skip
def test_an_operation_that_is_not_offered_is_answered_0211(gate: Gate, field: int, data: bytes | None) -> None:
    type_ = NO_DATA_SET if data is None else A_DATA_SET
    request = command((2, uid(CT)), (0x0100, us(field)), (0x0110, us(3)), (0x0700, us(0)), (0x0800, us(type_)))
    with gate.scanner() as scanner:
        scanner.send(message(CT_CONTEXT, request, data))

        assert scanner.answer() == Answer(CT_CONTEXT, field | 0x8000, 3, 0x0211)
        assert scanner.store(GOOD) == 0x0000
    assert list(gate.held()) == [GOOD.SOPInstanceUID]


@pytest.mark.parametrize("data", [None, encoded(OTHER)], ids=["alone", "with a data set"])
@pytest.mark.parametrize(
    "field", [0x0FFF, 0x8001, 0x8030, 0x8777], ids=["C-CANCEL", "C-STORE-RSP", "C-ECHO-RSP", "another answer"]
)
def test_what_answers_or_cancels_nothing_is_passed_over(gate: Gate, field: int, data: bytes | None) -> None:
    type_ = NO_DATA_SET if data is None else A_DATA_SET
    request = command((2, uid(CT)), (0x0100, us(field)), (0x0120, us(3)), (0x0800, us(type_)), (0x0900, us(0)))
    with gate.scanner() as scanner:
        scanner.send(message(CT_CONTEXT, request, data), message(ECHO_CONTEXT, c_echo(4)))

        assert scanner.answer() == Answer(ECHO_CONTEXT, C_ECHO_RSP, 4, 0x0000)
        assert scanner.store(GOOD) == 0x0000
    assert list(gate.held()) == [GOOD.SOPInstanceUID]
