"""An association as its requestor (PS3.8 7, PS3.7 9.1), on one socket, in the caller's thread.

pynetdicom encodes and decodes the negotiation; its reactor is left out. That one queues a whole file in memory, counts the time
of sending as time without an answer, waits for ever in a send that the peer does not read, and sleeps 50 ms an association. Here
every PDU has a deadline, memory is a megabyte, and no thread can be left behind.
"""

import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO, FileIO
from itertools import islice
from typing import TypeVar

from pydicom.uid import UID, ImplicitVRLittleEndian

from gateway import command, pdu
from gateway.command import C_ECHO, C_STORE, N_EVENT_REPORT, RESPONSE
from gateway.commitment import COMMITMENT, WELL_KNOWN, Outcome
from gateway.errors import Rejected, Unreachable
from gateway.pdu import Context
from gateway.peers import NOT_SUPPORTED, SOCKET_OPTIONS
from gateway.peers._part10 import Part10, unreadable

T = TypeVar("T")
MOST_CONTEXTS = 128
VERIFICATION: Context = ("1.2.840.10008.1.1", ImplicitVRLittleEndian)
COMMITMENT_REPORTS: Context = (COMMITMENT, ImplicitVRLittleEndian)
_LONGEST_PDU = 128 * 1024
_PARTING_SECONDS = 2
_BATCH, _MOST_PARTS = 1024 * 1024, 512
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
_UNEXPECTED = {
    pdu.ABORT: "the peer aborted the association",
    pdu.RELEASE_RQ: "the peer released the association before its answer",
}


@dataclass
class Association:
    """Established. `accepted` has the ID of each presentation context that the peer took; `fragment` is bytes a PDU."""

    connection: "_Connection"
    accepted: Mapping[Context, int]
    fragment: int
    message_id: int = 0

    def store(self, instance: Part10) -> int:
        """The status of the C-STORE-RSP. Raises Rejected without a context, Unreachable where no answer came."""
        context_id = self._context_id((instance.sop_class_uid, instance.transfer_syntax_uid))
        try:
            self._send(C_STORE, context_id, instance.sop_class_uid, instance.sop_instance_uid, has_data_set=True)
            self._send_data_set(instance, context_id)
            return self._status(C_STORE)
        except Unreachable as error:
            raise Unreachable(f"{error}; the instance may be stored or not") from error

    def echo(self) -> int:
        """The status of the C-ECHO-RSP; raises as `store` does."""
        self._send(C_ECHO, self._context_id(VERIFICATION), VERIFICATION[0], has_data_set=False)
        return self._status(C_ECHO)

    def report(self, outcome: Outcome) -> int:
        """The status of the N-EVENT-REPORT-RSP. Raises Unreachable, also where the peer takes no reports: that can be mended."""
        if COMMITMENT_REPORTS not in self.accepted:
            raise Unreachable(
                "the peer does not accept reports of storage commitment (we as SCP, with Implicit VR Little Endian)"
            )
        context_id = self.accepted[COMMITMENT_REPORTS]
        self._send(N_EVENT_REPORT, context_id, COMMITMENT, WELL_KNOWN, event=outcome.event_type, has_data_set=True)
        self._send_stream(BytesIO(outcome.encoded()), context_id)
        return self._status(N_EVENT_REPORT)

    def _context_id(self, context: Context) -> int:
        if context not in self.accepted:
            sop_class, transfer_syntax = (UID(uid).name for uid in context)
            raise Rejected(NOT_SUPPORTED, f"the peer does not accept {sop_class} with {transfer_syntax}")
        return self.accepted[context]

    def _send(
        self, field: int, context_id: int, sop_class_uid: str, sop_instance_uid: str = "", *, event: int = 0, has_data_set: bool
    ) -> None:
        self.message_id = self.message_id % 0xFFFF + 1
        encoded = command.request(
            field, self.message_id, sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, event=event,
            has_data_set=has_data_set,
        )  # fmt: skip
        self.connection.send(pdu.p_data(context_id, pdu.COMMAND | pdu.LAST, encoded))

    def _send_data_set(self, instance: Part10, context_id: int) -> None:
        """The file's bytes behind its file meta, as they are."""
        try:
            with instance.path.open("rb", buffering=0) as file:
                file.seek(instance.offset)
                self._send_stream(file, context_id)
        except OSError as error:
            raise unreadable(error) from error

    def _send_stream(self, stream: FileIO | BytesIO, context_id: int) -> None:
        """About a megabyte at a time, as many PDUs as that makes, in one call of the system."""
        begin = stream.tell()
        left = stream.seek(0, 2) - begin
        stream.seek(begin)
        batch = memoryview(bytearray(min(max(_BATCH // self.fragment, 1) * self.fragment, max(left, 1))))
        last = False
        while not last:
            count = _fill(stream, batch)
            left -= count
            last = left <= 0 or count == 0
            self.connection.send_parts(list(self._parts(batch[:count], context_id, last=last)))

    def _parts(self, data: memoryview, context_id: int, *, last: bool) -> Iterator[bytes | memoryview]:
        for at in range(0, max(len(data), 1), self.fragment):
            part = data[at : at + self.fragment]
            ends = last and at + self.fragment >= len(data)
            yield pdu.p_data_head(context_id, pdu.LAST if ends else 0, len(part))
            yield part

    def _status(self, field: int) -> int:
        encoded, complete = b"", False
        while not complete:
            kind, body = self.connection.receive()
            if kind != pdu.P_DATA:
                raise Unreachable(_UNEXPECTED.get(kind, "the peer sent a PDU that was not expected"))
            for control, data in _understood(pdu.fragments, body):
                encoded += data
                complete = control & pdu.LAST != 0
        answer = _understood(command.read, encoded)
        if (answer.field, answer.message_id) != (field | RESPONSE, self.message_id):
            raise Unreachable("the peer answered another message than ours")
        if answer.status is None:
            raise Unreachable("the peer's answer is not understood")
        return answer.status


def _fill(stream: FileIO | BytesIO, batch: memoryview) -> int:
    count = 0
    while count < len(batch) and (read := stream.readinto(batch[count:])):
        count += read
    return count


@contextmanager
def associate(
    address: tuple[str, int], contexts: Iterable[Context], *, called: str, calling: str, timeout: float, scp_of: str = ""
) -> Iterator[Association]:
    """Released at the end, aborted on an exception. `timeout` (seconds) is for the connection and for every PDU.

    `scp_of` is a SOP class of which we want to be the SCP (PS3.4 J.3.3).

    Raises Unreachable with the reason, also where the peer rejects the association: its administrator can mend that.
    """
    try:
        opened = socket.create_connection(address, timeout)
    except OSError as error:
        raise Unreachable(f"no connection: {_words(error, timeout)}") from error
    with opened:
        for option in SOCKET_OPTIONS:
            opened.setsockopt(*option)
        connection, parting = _Connection(opened, timeout), _Connection(opened, min(timeout, _PARTING_SECONDS))
        try:
            yield _negotiate(connection, list(contexts), called, calling, scp_of)
        except BaseException:
            with suppress(Unreachable):
                parting.send(pdu.abort())
            raise
        with suppress(Unreachable):  # what was answered stays answered
            parting.send(pdu.release_rq())
            parting.receive()


@dataclass(frozen=True)
class _Connection:
    socket: socket.socket
    timeout: float

    def send(self, data: bytes) -> None:
        try:
            self.socket.settimeout(self.timeout)
            self.socket.sendall(data)
        except OSError as error:
            raise Unreachable(f"the connection broke: {_words(error, self.timeout)}") from error

    def send_parts(self, parts: list[bytes | memoryview]) -> None:
        """Gathered by the system: nothing is put together here."""
        waiting = deque(parts)
        try:
            self.socket.settimeout(self.timeout)
            while waiting:
                sent = self.socket.sendmsg(list(islice(waiting, _MOST_PARTS)))
                while waiting and sent >= len(waiting[0]):
                    sent -= len(waiting.popleft())
                if sent:
                    waiting[0] = memoryview(waiting[0])[sent:]
        except OSError as error:
            raise Unreachable(f"the connection broke: {_words(error, self.timeout)}") from error

    def receive(self) -> tuple[int, bytes]:
        """One PDU: its type, and all its bytes."""
        deadline = time.monotonic() + self.timeout
        header = self._read(6, deadline)
        kind, length = struct.unpack(">BxI", header)
        if length > _LONGEST_PDU:
            raise Unreachable("the peer sent a PDU longer than agreed")
        return kind, header + self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        read = bytearray()
        while len(read) < length:
            try:
                # Peers that write an answer in two pieces (DCMTK, Orthanc) hold the second back until the first is acknowledged.
                if _QUICKACK is not None:
                    self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
                piece = self.socket.recv(length - len(read))
            except OSError as error:
                raise Unreachable(f"the connection broke: {_words(error, self.timeout)}") from error
            if not piece:
                raise Unreachable("the peer closed the connection")
            read += piece
        return bytes(read)


def _negotiate(connection: _Connection, contexts: list[Context], called: str, calling: str, scp_of: str) -> Association:
    request = pdu.associate_rq(contexts, called=called, calling=calling, maximum_length=_LONGEST_PDU, scp_of=scp_of)
    connection.send(request)
    kind, answer = connection.receive()
    if kind == pdu.ASSOCIATE_RJ:
        raise Unreachable(f"the peer rejected the association: {pdu.reason(answer)}")
    if kind != pdu.ASSOCIATE_AC:
        raise Unreachable(_UNEXPECTED.get(kind, "the peer did not answer the association request"))
    accepted, longest = _understood(pdu.accepted, answer, contexts)
    # Six bytes of a PDU are the fragment's own header (PS3.8 9.3.5.1); a fragment is of even length.
    return Association(connection, accepted, max(min(longest or _LONGEST_PDU, _LONGEST_PDU) - 6, 2) & ~1)


def _understood(read: Callable[..., T], *arguments: object) -> T:
    try:
        return read(*arguments)
    except Exception as error:  # a reader of foreign bytes
        raise Unreachable("the peer's answer is not understood") from error


def _words(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    return (error.strerror or type(error).__name__).lower()
