"""The listener against who means harm or is broken (standards 4.3, 5.4 F24 to F28, 5.5 B52 to B55): each loses its own association only."""

import os
import random
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from tests.gate_fixture import Gate, open_gate, wait
from tests.scanner_fixture import (
    ABORT,
    AC,
    COMMAND,
    CT,
    CT_CONTEXT,
    ECHO_CONTEXT,
    EXPLICIT,
    IMPLICIT,
    LAST,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    TOO_MANY,
    UNKNOWN_CALLED,
    UNKNOWN_CALLING,
    VERIFICATION,
    Scanner,
    associate_rq,
    c_echo,
    c_store,
    c_store_rq,
    encoded,
    message,
    p_data,
    pdu,
    pdv,
)
from tests.synthetic import ct_series

GOOD, OTHER = ct_series(2, 16, 16)
MAXIMUM_PDU = 131_072
A_SECOND = {"association_seconds": 1.0, "pdu_seconds": 1.0, "idle_seconds": 1.0}


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """It has room for one association: whoever does not free its slot is found out by the next."""
    with open_gate(tmp_path, maximum_associations=1) as gate:
        yield gate


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Gate]:
    with open_gate(tmp_path, maximum_associations=1, **A_SECOND) as gate:
        yield gate


def ends(scanner: Scanner) -> list[int]:
    """The types of the PDUs that come until the other side closes."""
    kinds = []
    while (kind := scanner.read().kind) != -1:
        kinds.append(kind)
    return kinds


# --- Who is slow or silent (F24, F25) ---


@pytest.mark.parametrize(
    "beginning", [b"", b"\x01\x00\x00", associate_rq()[:-1]], ids=["nothing", "three bytes of a header", "all but a byte"]
)
def test_who_does_not_associate_in_time_is_cut_off(hasty: Gate, beginning: bytes) -> None:
    with Scanner(hasty.port) as scanner:
        scanner.send(beginning)

        assert ends(scanner) == []
    assert hasty.takes(GOOD)


def test_who_sends_a_byte_now_and_then_gains_no_time_by_it(hasty: Gate) -> None:
    with Scanner(hasty.port) as scanner:
        scanner.socket.settimeout(0.05)
        began, closed = time.monotonic(), False
        while not closed and time.monotonic() - began < 5:
            scanner.send(b"\x01")
            try:
                closed = scanner.socket.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionResetError:
                closed = True

        assert closed
    assert hasty.takes(GOOD)


def test_a_pdu_that_does_not_end_in_time_ends_its_association(hasty: Gate) -> None:
    with hasty.scanner() as scanner:
        scanner.send(c_store(OTHER)[:500])

        assert ends(scanner) == [ABORT]
    assert hasty.takes(GOOD)


def test_an_association_that_is_idle_for_too_long_is_aborted(hasty: Gate) -> None:
    with hasty.scanner() as scanner:
        assert scanner.echo() == 0x0000

        assert ends(scanner) == [ABORT]
    assert hasty.takes(GOOD)
    assert hasty.turned_away() == []  # it is no alarm


def test_who_does_not_read_its_answers_is_cut_off(hasty: Gate) -> None:
    with hasty.scanner() as scanner:
        scanner.socket.settimeout(10)
        echoes = message(ECHO_CONTEXT, c_echo()) * 1000
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                scanner.socket.sendall(echoes)
    assert hasty.takes(GOOD)


# --- Who claims or sends too much ---


@pytest.mark.parametrize("established", [False, True])
def test_a_claim_of_2_gb_is_not_believed(gate: Gate, established: bool) -> None:
    process, swallowed = psutil.Process(), 0
    before = process.memory_info().rss
    with gate.scanner() if established else Scanner(gate.port) as scanner:
        scanner.send(struct.pack(">BxI", P_DATA if established else RQ, 2**31 - 1))
        megabyte = bytes(2**20)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for swallowed in range(300):
                scanner.socket.sendall(megabyte)

    assert swallowed < 50
    assert process.memory_info().rss - before < 64 * 2**20
    assert gate.takes(GOOD)


def test_a_data_set_without_an_end_is_refused_early_and_aborted_later(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_associations=1, maximum_instance_bytes=200_000) as gate:
        with gate.scanner() as scanner:
            scanner.send(message(CT_CONTEXT, c_store_rq(OTHER)))
            scanner.send(*[p_data(pdv(CT_CONTEXT, 0, bytes(100_000)))] * 20)

            assert ends(scanner) == [ABORT]
        assert sum(path.stat().st_size for path in gate.journal.iterdir()) < 500_000
        assert gate.takes(GOOD)


def test_a_data_set_that_is_too_long_is_refused_and_the_next_instance_is_taken(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_instance_bytes=200_000) as gate, gate.scanner() as scanner:
        assert scanner.store(OTHER, data=encoded(OTHER) + bytes(200_000)) == 0xC000
        assert scanner.store(GOOD) == 0x0000

        assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


# --- Who comes with many (F26, F28) ---


def test_half_open_connections_of_one_address_leave_room_for_another(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_half_open=8, maximum_per_address=4) as gate:
        silent = [Scanner(gate.port) for _ in range(4)]
        wait(lambda: len(gate.limits._half_open) == 4)

        with Scanner(gate.port) as fifth:
            assert fifth.read().kind == -1
        with Scanner(gate.port, address="127.0.0.2") as another:
            assert another.associate().kind == AC
            assert another.store(GOOD) == 0x0000

        for scanner in silent:
            scanner.socket.close()
        assert [(one.origin.address, one.reason) for one in gate.turned_away()] == [
            ("127.0.0.1", "expected fewer connections of this address")
        ]


def test_where_half_open_connections_leave_no_room_the_oldest_of_whoever_has_most_makes_it(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_half_open=4) as gate, Scanner(gate.port, address="127.0.0.3") as alone, ExitStack() as stack:
        wait(lambda: len(gate.limits._half_open) == 1)
        silent = []
        for number in range(3):
            silent.append(stack.enter_context(Scanner(gate.port)))
            wait(lambda number=number: len(gate.limits._half_open) == 2 + number)

        with Scanner(gate.port, address="127.0.0.2") as another:
            assert another.associate().kind == AC
            assert another.store(GOOD) == 0x0000

        assert silent[0].read().kind == -1
        assert [scanner.associate().kind for scanner in (*silent[1:], alone)] == [AC] * 3
        assert [(one.origin.address, one.reason) for one in gate.turned_away()] == [
            ("127.0.0.1", "expected an association before more connections came")
        ]
    wait(gate.is_empty)
    assert not gate.limits._addresses


def test_a_modality_comes_in_with_all_its_connections_while_a_stranger_opens_more_and_more(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_associations=32) as gate, ExitStack() as stack:
        silent = [Scanner(gate.port) for _ in range(64)]
        wait(lambda: len(gate.limits._half_open) == 64)
        burst = []
        for number in range(32):
            burst.append(stack.enter_context(Scanner(gate.port, address="127.0.0.2")))
            silent[number].socket.close()
            silent[number] = Scanner(gate.port)

        assert [scanner.associate().kind for scanner in burst] == [AC] * 32
        assert {one.origin.address for one in gate.turned_away()} == {"127.0.0.1"}
        for scanner in silent:
            scanner.socket.close()


def test_of_a_hundred_at_once_as_many_as_may_come_in_and_nothing_of_the_others_is_left(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_associations=8, maximum_half_open=200, maximum_per_address=200) as gate:
        with gate.scanner(), Scanner(gate.port) as stranger:
            stranger.associate(called=b"SOMEBODY")  # the trail has its segment from now on
        wait(gate.is_empty)
        process, threads = psutil.Process(), threading.active_count()
        descriptors = process.num_fds()

        scanners = [Scanner(gate.port) for _ in range(100)]
        for scanner in scanners:
            scanner.send(associate_rq())
        answers = [scanner.read() for scanner in scanners]
        for scanner in scanners:
            scanner.socket.close()
        wait(gate.is_empty)

        assert Counter(answer.kind for answer in answers) == {AC: 8, RJ: 92}
        assert {tuple(answer.data[1:]) for answer in answers if answer.kind == RJ} == {TOO_MANY}
        wait(lambda: threading.active_count() <= threads and process.num_fds() <= descriptors, 30)
        assert gate.takes(GOOD)


def test_a_flood_of_connections_does_not_flood_the_trail(tmp_path: Path) -> None:
    with open_gate(tmp_path, maximum_per_address=0) as gate:
        for _ in range(100):
            with Scanner(gate.port) as scanner:
                assert scanner.read().kind == -1

        assert 1 <= len(gate.turned_away()) <= 60


def test_a_process_that_can_start_no_more_threads_takes_the_next_connection_later(gate: Gate) -> None:
    with Scanner(gate.port) as first:  # its thread is the last for now
        before = threading.stack_size(2**46)  # no machine has room for such a stack
        try:
            with Scanner(gate.port, seconds=5) as scanner:
                assert scanner.read().kind == -1
        finally:
            threading.stack_size(before)
        first.socket.close()

    assert gate.takes(GOOD)


def test_a_process_without_free_file_descriptors_takes_the_next_connection_when_it_has_one(gate: Gate) -> None:
    descriptors, (soft, hard) = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as logs, socket.socket() as first, socket.socket() as waiting:
        waiting.settimeout(0.5)
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 20, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    descriptors.append(os.open(os.devnull, os.O_RDONLY))
            first.connect(("127.0.0.1", gate.port))  # Linux had a descriptor ready for it before it came
            waiting.connect(("127.0.0.1", gate.port))
            waiting.sendall(associate_rq())
            with pytest.raises(TimeoutError):
                waiting.recv(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in descriptors:
                os.close(descriptor)
        waiting.settimeout(10)
        assert waiting.recv(1) == bytes((AC,))

    told = [one["reason"] for one in logs if one["event"] == "association.not_accepted"]
    assert 1 <= len(told) <= 5, "expected one a second"
    assert {*told} == {"too many open files"}
    assert gate.takes(GOOD)


# --- PDUs that PS3.8 does not allow (B52) ---

NOISE = random.Random(1).randbytes
BEFORE = {
    "an unknown type": pdu(9, bytes(4)),
    "type 0": pdu(0, bytes(4)),
    "P-DATA": c_store(OTHER),
    "a release": pdu(RELEASE_RQ, bytes(4)),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE(200),
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no length": pdu(RQ, b""),
    "4 GB": struct.pack(">BxI", RQ, 2**32 - 1),
    "100 KB": pdu(RQ, bytes(100_000)),
    "zeros": pdu(RQ, bytes(200)),
    "noise": pdu(RQ, NOISE(2000)),
    "AE titles and noise": pdu(RQ, struct.pack(">Hxx16s16s32x", 1, b"AIGATEWAY", b"CT1") + NOISE(2000)),
    "an item that is longer than the PDU": pdu(RQ, associate_rq()[6:-8]),
    "no context": associate_rq(contexts=()),
    "an even context ID": associate_rq(contexts=((2, CT, (EXPLICIT,)),)),
    "context ID 0": associate_rq(contexts=((0, CT, (EXPLICIT,)),)),
    "a context ID twice": associate_rq(contexts=((1, CT, (EXPLICIT,)), (1, VERIFICATION, (IMPLICIT,)))),
    "200 contexts": associate_rq(contexts=[(n, CT, (EXPLICIT,)) for n in range(1, 201)]),
    "the same context 200 times": associate_rq(contexts=[(1, CT, (EXPLICIT,))] * 200),
}


@pytest.mark.parametrize("sent", BEFORE.values(), ids=BEFORE.keys())
def test_what_is_no_association_request_is_aborted(gate: Gate, sent: bytes) -> None:
    with Scanner(gate.port) as scanner:
        scanner.send(sent)

        assert ends(scanner) == [ABORT]
    assert gate.takes(GOOD)


def test_a_request_that_is_cut_anywhere_is_answered_or_aborted(gate: Gate) -> None:
    whole = associate_rq()[6:]
    for length in range(0, len(whole), 3):
        with Scanner(gate.port) as scanner:
            scanner.send(pdu(RQ, whole[:length]))
            assert scanner.read().kind in (ABORT, AC, RJ)
        wait(gate.is_empty)

    assert gate.takes(GOOD)


WITHIN = {
    "a second request": associate_rq(),
    "an A-ASSOCIATE-AC": pdu(AC, bytes(68)),
    "an answer to a release": pdu(RELEASE_RP, bytes(4)),
    "a release that is too long": pdu(RELEASE_RQ, bytes(400)),
    "an unknown type": pdu(255, bytes(4)),
    "P-DATA without a length": pdu(P_DATA, b""),
    "P-DATA of 4 GB": struct.pack(">BxI", P_DATA, 2**32 - 1),
    "P-DATA longer than agreed": p_data(pdv(CT_CONTEXT, COMMAND, bytes(MAXIMUM_PDU))),
    "a fragment longer than its PDU": pdu(P_DATA, struct.pack(">IBB", 1000, 1, 3) + bytes(20)),
    "a fragment of 4 GB": pdu(P_DATA, struct.pack(">IBB", 2**32 - 1, 1, 3) + bytes(20)),
    "a fragment of length 0": pdu(P_DATA, struct.pack(">IBB", 0, 1, 3)),
    "a fragment of length 1": pdu(P_DATA, struct.pack(">IBB", 1, 1, 3)),
    "half a fragment": pdu(P_DATA, pdv(ECHO_CONTEXT, COMMAND, c_echo()[:20]) + b"\0\0"),
    "10,000 fragments": p_data(*[pdv(ECHO_CONTEXT, COMMAND, b"")] * 10_000),
    "a context that was not proposed": message(5, c_store_rq(OTHER)),
    "an even context ID": message(2, c_echo()),
    "context ID 0": message(0, c_echo()),
    "context ID 255": message(255, c_echo()),
    "a data set before its command": p_data(pdv(CT_CONTEXT, LAST, encoded(OTHER))),
    "a command where a data set was announced": message(CT_CONTEXT, c_store_rq(OTHER)) * 2,
    "a data set in another context": message(CT_CONTEXT, c_store_rq(OTHER)) + p_data(pdv(ECHO_CONTEXT, LAST, encoded(OTHER))),
    "a release within a command": p_data(pdv(CT_CONTEXT, COMMAND, c_echo()[:20])) + pdu(RELEASE_RQ, bytes(4)),
    "a release within a message": message(CT_CONTEXT, c_store_rq(OTHER)) + pdu(RELEASE_RQ, bytes(4)),
    "a release within a data set": message(CT_CONTEXT, c_store_rq(OTHER))
    + p_data(pdv(CT_CONTEXT, 0, encoded(OTHER)))
    + pdu(RELEASE_RQ, bytes(4)),
    "a command without an end": p_data(*[pdv(ECHO_CONTEXT, COMMAND, bytes(1000))] * 20),
}


@pytest.mark.parametrize("sent", WITHIN.values(), ids=WITHIN.keys())
def test_what_is_not_allowed_within_an_association_aborts_it(gate: Gate, sent: bytes) -> None:
    with gate.scanner() as scanner:
        assert scanner.echo() == 0x0000
        scanner.send(sent)

        assert ends(scanner) == [ABORT]
    assert gate.takes(GOOD)
    assert [one.origin.calling_ae_title for one in gate.turned_away()] == ["CT1"]  # for the trail


def test_an_abort_is_not_answered(gate: Gate) -> None:
    with gate.scanner() as scanner:
        scanner.send(message(CT_CONTEXT, c_store_rq(OTHER)), pdu(ABORT, bytes(4)))

        assert ends(scanner) == []
    assert gate.takes(GOOD)


@pytest.mark.parametrize("context", [CT_CONTEXT, 5])
def test_a_context_that_was_not_accepted_may_not_be_used(gate: Gate, context: int) -> None:
    deflated = "1.2.840.10008.1.2.1.99"
    with gate.scanner(contexts=((1, VERIFICATION, (IMPLICIT,)), (3, CT, (deflated,)), (5, "1.2.3", (EXPLICIT,)))) as scanner:
        scanner.send(c_store(OTHER, context=context))

        assert ends(scanner) == [ABORT]
    assert gate.takes(GOOD)


# --- AE titles (B08, B63) ---


@pytest.mark.parametrize(
    "title", [b"", b" " * 16, b"CT\x001", b"CT\n1", b"\x1b[2J", b"CT\xc4", "СТ1".encode(), "ＣＴ１".encode(), b"../../CT1", b"CT\\1"]
)  # fmt: skip
def test_an_ae_title_that_is_none_is_rejected_and_harmless_in_the_trail(gate: Gate, title: bytes) -> None:
    with Scanner(gate.port) as calling, Scanner(gate.port) as called:
        assert tuple(calling.associate(calling=title).data[1:]) == UNKNOWN_CALLING
        assert tuple(called.associate(called=title).data[1:]) == UNKNOWN_CALLED

    titles = [(one.origin.calling_ae_title, one.origin.called_ae_title) for one in gate.turned_away()]
    assert len(titles) == 2
    assert all(both.isascii() and both.isprintable() for pair in titles for both in pair)
    assert gate.takes(GOOD)
