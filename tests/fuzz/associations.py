"""An association over a real socketpair with a real door: whatever comes, it ends, answers PDUs, and keeps only what is whole."""

import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from gateway.dicom import pdu, scan
from gateway.dicom.command import C_CANCEL, C_ECHO, C_STORE, N_ACTION, RESPONSE, read
from gateway.dicom.instance import Origin, check, part10_header
from gateway.doors.door import Door
from gateway.doors.entry import Kept, promise
from gateway.doors.journal import entries, segments
from gateway.doors.policy import Policy
from gateway.doors.visits import Limits, Visit
from gateway.ingest._association import Association
from gateway.ingest._wire import Wire
from gateway.ingest.dimse import STORAGE, SUPPORTED
from tests.fuzz import corpus

LONGEST = 64 * 1024
MAXIMUM_INSTANCE_BYTES = 20_000
ECHO, CT, COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.20.1"
EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
CONTEXTS = [(ECHO, IMPLICIT), (CT, EXPLICIT), (CT, IMPLICIT), (COMMITMENT, IMPLICIT), (CT, "1.2.840.10008.1.2.4.90")]
TOKENS = [
    b"\1\0\0\0", b"\4\0\0\0", b"\5\0\0\0\0\4\0\0\0\0", b"\7\0\0\0\0\4\0\0\0\0", b"\x20\0", b"\x30\0", b"\x40\0", b"\x50\0", b"\x51\0\0\4",
    b"\x54\0", b"AIGATEWAY       ", *(uid.encode() for context in CONTEXTS for uid in context), b"\0\0\0\1\2\0\0\0", b"\0\0\0\x08\2\0\0\0",
]  # fmt: skip
_SECONDS, _SILENT_SECONDS = 5.0, 0.05
_MOST_PIECES = 1000
"""More take a busy machine so long that a deadline passes, which no data could help."""
_NOW = datetime(2026, 1, 2, tzinfo=UTC)
_SHARED_MEMORY = Path("/dev/shm")
_FOLDER = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
_UNEXPECTED = 0x0110


class _Connection(socket.socket):
    """The end of a socketpair that the association has. It gives bytes out in pieces; what is sent is gathered at once."""

    def __init__(self, ours: socket.socket, peer: socket.socket, piece: int) -> None:
        super().__init__(fileno=ours.detach())
        self._peer, self._piece, self.answers = peer, piece, b""

    def recv_into(self, buffer: memoryview) -> int:
        return super().recv_into(buffer[: self._piece])

    def send(self, data: bytes) -> int:
        sent = super().send(data)
        self.answers += self._peer.recv(256 * 1024, socket.MSG_DONTWAIT)
        return sent

    def setsockopt(self, level: int, *options: int) -> None:
        """A socketpair is no TCP."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *options)


class _Wire(Wire):
    """One that waits no longer than it was told to at first."""

    def allow(self, *, idle_seconds: float, pdu_seconds: float) -> None:
        super().allow(idle_seconds=min(idle_seconds, self._idle), pdu_seconds=min(pdu_seconds, self._allowed))


def fuzz(data: bytes) -> None:
    """`data` is what the other side sends before it closes; with every 64th length it is silent instead."""
    before = len(os.listdir("/proc/self/fd"))
    if len(data) % 64 == 0:
        _hold(data, 2**18, silent=True)
    else:
        whole = _hold(data, 2**18)
        piece = max((5, 61, 509, 4093)[len(data) % 4], len(data) // _MOST_PIECES)
        assert _hold(data, piece) == whole, "expected the same in whatever pieces it comes"
    assert len(os.listdir("/proc/self/fd")) <= before, "expected no descriptor to be left"


def _hold(data: bytes, piece: int, *, silent: bool = False) -> tuple[bytes, list[object]]:
    """The answers to it, and what is in the journal afterwards."""
    policy = Policy("AIGATEWAY")
    limits = Limits(policy, maximum_associations=1, maximum_per_address=1, maximum_half_open=1)
    with TemporaryDirectory(dir=_FOLDER) as name:
        door = Door(Path(name), clock=lambda: _NOW, keep_free_bytes=0)
        try:
            answers, association = _associate(data, piece, silent, door, policy, limits)
        finally:
            door.close()
        assert not limits._half_open and not limits._open(0) and not limits._addresses, "expected the visit to be given back"
        held = promised(Path(name))
    check_answers(answers, association.fragment + 6, Counter(type(one).__name__ for one in held)["Kept"])
    return answers, sorted(held, key=repr)  # segments have names of chance


def _associate(
    data: bytes, piece: int, silent: bool, door: Door, policy: Policy, limits: Limits
) -> tuple[bytes, Association]:  # fmt: skip
    ours, peer = socket.socketpair()
    seconds = _SILENT_SECONDS if silent else _SECONDS
    with peer, _Connection(ours, peer, piece) as connection:
        peer.sendall(data)
        if not silent:
            peer.shutdown(socket.SHUT_WR)
        visit = limits.enter("127.0.0.1")
        assert isinstance(visit, Visit)
        with visit:
            origin = Origin("dimse", "fuzz", address="127.0.0.1")
            wire = _Wire(connection, idle_seconds=seconds, pdu_seconds=seconds)
            association = Association(wire, door, visit, policy, SUPPORTED, STORAGE, MAXIMUM_INSTANCE_BYTES, origin)
            began = time.monotonic()
            association.run()
            assert time.monotonic() - began < 2 * _SECONDS, "expected an end within the deadlines"
            door.end(association.origin)
        return connection.answers, association


def promised(folder: Path) -> list[object]:
    """What is in a journal; of each instance that is kept, whether it is what the door may keep."""
    found: list[object] = []
    for segment in segments(folder):
        whole = segment.read_bytes()
        for entry in entries(segment, 0):
            one = promise(entry.record)
            found.append(one)
            if isinstance(one, Kept):
                file, header = whole[entry.data_at : entry.data_at + entry.data_size], part10_header(one.incoming)
                assert len(file) == one.size and file.startswith(header)
                data = file[len(header) :]
                check(one.incoming, scan.scan(scan.in_memory(data), len(data), one.incoming.transfer_syntax_uid))
    return found


def check_answers(answers: bytes, longest: int, kept: int) -> None:
    """They are PDUs, in an order that PS3.8 9.2 allows, none longer than was negotiated, and as many successes as were kept."""
    pdus = list(_pdus(answers))
    assert b"".join(pdus) == answers, "expected whole PDUs"
    kinds = [one[0] for one in pdus]
    assert kinds[:1] == [pdu.ASSOCIATE_AC] or kinds in ([], [pdu.ASSOCIATE_RJ], [pdu.ABORT])
    assert set(kinds[1:-1]) <= {pdu.P_DATA} and set(kinds[1:]) <= {pdu.P_DATA, pdu.RELEASE_RP, pdu.ABORT}
    command, stored = b"", 0
    for one in pdus:
        if one[0] == pdu.P_DATA:
            assert len(one) - 6 <= max(longest, 8)
            for _, control, part in pdu.fragments(one):
                assert control & pdu.COMMAND, "expected no data set in a response"
                command += part
                if control & pdu.LAST:
                    answer = read(command)
                    field, status = answer.field, answer.status
                    assert status != _UNEXPECTED, "expected no unexpected error"
                    stored, command = stored + ((field, status) == (C_STORE | RESPONSE, 0)), b""
    assert not command, "expected whole command sets"
    assert stored == kept, "expected a promise for each success, and no other"


def _pdus(data: bytes) -> Iterator[bytes]:
    """As far as they are whole."""
    while len(data) >= 6 and len(data) >= (end := 6 + int.from_bytes(data[2:6])):
        yield data[:end]
        data = data[end:]


# What the other side may send


def _command(field: int, sop_class: str, *, data: bool, message_id: int = 1, sop_instance: str = "", action: int = 0) -> bytes:
    ds = Dataset()
    ds.CommandField, ds.CommandDataSetType = field, 1 if data else 0x0101
    if field in (C_STORE, C_ECHO):
        ds.AffectedSOPClassUID = UID(sop_class)
    if field & RESPONSE or field == C_CANCEL:
        ds.MessageIDBeingRespondedTo, ds.Status = message_id, 0
    else:
        ds.MessageID = message_id
    if field == C_STORE:
        ds.Priority, ds.AffectedSOPInstanceUID = 0, UID(sop_instance)
    if field == N_ACTION:
        ds.RequestedSOPClassUID, ds.RequestedSOPInstanceUID, ds.ActionTypeID = UID(sop_class), UID(sop_instance), action
    encoded = encode(ds, is_implicit_vr=True, is_little_endian=True) or b""
    return struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded


def _message(context_id: int, command: bytes, data: bytes = b"", *, fragment: int = 16_000) -> bytes:
    parts = [data[at : at + fragment] for at in range(0, len(data), fragment)]
    sent = [pdu.p_data(context_id, pdu.COMMAND | pdu.LAST, command)]
    sent += [pdu.p_data(context_id, pdu.LAST * (part is parts[-1]), part) for part in parts]
    return b"".join(sent)


def seeds() -> Iterator[bytes]:
    request = pdu.associate_rq(CONTEXTS, called="AIGATEWAY", calling="CT1", maximum_length=16384)
    echo, release = _message(1, _command(C_ECHO, ECHO, data=False)), pdu.release_rq()
    ds = corpus.instance()
    store = _command(C_STORE, CT, data=True, sop_instance=ds.SOPInstanceUID)
    explicit, implicit = (corpus.encoded(ds, implicit=one) for one in (False, True))
    ask = Dataset()
    ask.TransactionUID, item = UID("1.2.3"), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(CT), ds.SOPInstanceUID
    ask.ReferencedSOPSequence = [item]
    action = _command(N_ACTION, COMMITMENT, data=True, sop_instance=f"{COMMITMENT}.1", action=1)
    messages = [
        echo + _message(3, store, explicit), _message(5, store, implicit), _message(3, store, explicit, fragment=100) + echo,
        _message(9, store, explicit), _message(3, store, explicit[:-9]), _message(3, store, explicit * 20), _message(1, store, explicit),
        _message(3, store.replace(b"1.1.2\0", b"1.1.4\0"), explicit), _message(7, action, corpus.encoded(ask, implicit=True)),
        _message(7, action, explicit), _message(3, _command(C_STORE, CT, data=False, sop_instance="1.2")),
        *(_message(1, _command(field, ECHO, data=False)) for field in (C_CANCEL, C_ECHO | RESPONSE, C_STORE | RESPONSE, 0x20)),
    ]  # fmt: skip
    yield request + echo + _message(3, store, explicit) + release
    yield from (request + message + release for message in messages)
    yield from (
        request + pdu.abort(),
        request[:-5],
        request + request,
        echo,
        release,
        b"",
        bytes(64),
        request + b"".join(messages[:5]),
    )
    yield pdu.associate_rq(CONTEXTS[:1], called="OTHER", calling="CT1", maximum_length=0)
    yield pdu.associate_rq(CONTEXTS[:2], called="AIGATEWAY", calling="CT1", maximum_length=7) + echo * 3 + release
    yield pdu.associate_rq(CONTEXTS[3:4], called="AIGATEWAY", calling="PACS", maximum_length=0, scp_of=[COMMITMENT]) + release
    yield pdu.associate_rq([(CT, EXPLICIT)] * 126, called="AIGATEWAY", calling="CT1", maximum_length=16384) + release
    yield _many_roles() + echo + release
    stalled = request + echo + _message(3, store, explicit)[:-7]
    yield stalled[: len(stalled) // 64 * 64]


def _many_roles() -> bytes:
    """As many roles as the longest request has room for: all of them are to be answered."""
    context = b"\x20\0\0\x2e\1\0\0\0\x30\0\0\x11" + ECHO.encode() + b"\x40\0\0\x11" + IMPLICIT.encode()
    uids = [b"1.%05d" % number + b".1" * 28 for number in range(900)]
    roles = b"".join(struct.pack(">BxHH", 0x54, len(uid) + 4, len(uid)) + uid + b"\1\1" for uid in uids)
    items = context + struct.pack(">BxH", 0x50, len(roles)) + roles
    return struct.pack(">BxIHxx16s16s32x", 1, 68 + len(items), 1, b"AIGATEWAY".ljust(16), b"CT1".ljust(16)) + items


def mutate(data: bytes, alter: Callable[[bytes], bytes], chance: Random) -> bytes:
    """Change one PDU, its length field with it, or their order; sometimes any bytes."""
    pdus = list(_pdus(data))
    rest = data[sum(map(len, pdus)) :]
    if not pdus or chance.random() < 0.25:
        return alter(data)
    at = chance.randrange(len(pdus))
    act = chance.randrange(6)
    if act == 0:
        del pdus[at]
    elif act == 1:
        pdus.insert(chance.randrange(len(pdus) + 1), pdus[at])
    else:
        pdus[at] = _altered(pdus[at], alter, chance)
    return b"".join(pdus) + rest


def _altered(one: bytes, alter: Callable[[bytes], bytes], chance: Random) -> bytes:
    """With right lengths; of a P-DATA of one fragment, those of the fragment too."""
    if one[0] == pdu.P_DATA and len(one) >= 12 and chance.random() < 0.8:
        context_id, control = one[10], one[11]
        if chance.random() < 0.1:
            context_id, control = chance.choice((1, 3, 5, 7, 9, 11)), chance.randrange(4)
        return pdu.p_data(context_id, control, alter(one[12:]))
    body = alter(one[6:])
    return one[:2] + len(body).to_bytes(4) + body
