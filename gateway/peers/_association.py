"""An association as its requestor (PS3.8 7, PS3.7 9.1), on one socket, in the caller's thread.

pynetdicom encodes and decodes the negotiation; its reactor is left out. That one queues a whole file in memory, counts the time
of sending as time without an answer, waits for ever in a send that the peer does not read, and sleeps 50 ms an association. Here
every PDU has a deadline, memory is a megabyte, and no thread can be left behind.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from typing import TypeVar

from pydicom.uid import UID, ImplicitVRLittleEndian

from gateway.dicom import command, pdu
from gateway.dicom.command import C_ECHO, C_FIND, C_STORE, N_ACTION, N_EVENT_REPORT, PENDING, RESPONSE, Command
from gateway.dicom.commitment import COMMITMENT, REQUEST, WELL_KNOWN, Outcome
from gateway.dicom.pdu import Context
from gateway.errors import NotAdmitted, Rejected, Unanswered, Unreachable
from gateway.peers import NOT_SUPPORTED, SOCKET_OPTIONS
from gateway.peers._connection import LONGEST_PDU, Connection, words
from gateway.peers._find import NO_QUERIES, NO_WORKLIST
from gateway.peers._part10 import Part10, unreadable

T = TypeVar("T")
Secured = Callable[[socket.socket], socket.socket]
MOST_CONTEXTS = 128
VERIFICATION: Context = ("1.2.840.10008.1.1", ImplicitVRLittleEndian)
COMMITMENT_REPORTS: Context = (COMMITMENT, ImplicitVRLittleEndian)
QUERY: Context = ("1.2.840.10008.5.1.4.1.2.2.1", ImplicitVRLittleEndian)
WORKLIST: Context = ("1.2.840.10008.5.1.4.31", ImplicitVRLittleEndian)
NO_COMMITMENT = (
    "the peer does not accept our requests for storage commitment:"
    ' allow them there, or set proof = "query" or "none" for this peer'
)
_PARTING_SECONDS = 2
_BATCH = 1024 * 1024
_LONGEST_COMMAND, _LONGEST_MATCHES = 16 * 1024, 1024 * 1024
_MOST_MATCHES, _MOST_INTERRUPTIONS = 1000, 10
_UNEXPECTED = {
    pdu.ABORT: "the peer aborted the association",
    pdu.RELEASE_RQ: "the peer released the association before its answer",
}


@dataclass
class Association:
    """Established. `accepted` has the ID of each presentation context that the peer took; `fragment` is bytes a PDU.

    `was_interrupted`: the peer has sent a request of its own, which was not answered. `is_released`: it has agreed to the end.
    """

    connection: Connection
    accepted: Mapping[Context, int]
    fragment: int
    message_id: int = 0
    was_interrupted: bool = False
    is_released: bool = False
    _fragments: deque[tuple[int, int, bytes]] = field(default_factory=deque, init=False)

    def store(self, instance: Part10) -> int:
        """The status of the C-STORE-RSP.

        Raises Rejected without a context; Unreachable where the peer cannot have it, as its last fragment never went out;
        Unanswered where that did, and no answer came that says what became of it.
        """
        context_id = self._context_id((instance.sop_class_uid, instance.transfer_syntax_uid))
        self._send(C_STORE, context_id, instance.sop_class_uid, instance.sop_instance_uid, has_data_set=True)
        self._send_data_set(instance, context_id)
        try:
            return self._status(C_STORE)
        except Unreachable as error:
            raise Unanswered(f"{error}; the instance may be stored or not") from error

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
        self._send(N_EVENT_REPORT, context_id, COMMITMENT, WELL_KNOWN, type_id=outcome.event_type, has_data_set=True)
        self._send_stream(BytesIO(outcome.encoded()), context_id)
        return self._status(N_EVENT_REPORT)

    def find(self, identifier: bytes, model: Context = QUERY) -> tuple[int, list[bytes]]:
        """The last status of the C-FIND-RSP, and the identifiers of the matches (PS3.4 C.4.1, K.4.1). Raises Unreachable."""
        if model not in self.accepted:
            raise Unreachable(NO_QUERIES if model == QUERY else NO_WORKLIST)
        self.request(C_FIND, model, identifier)
        matches: list[bytes] = []
        while len(matches) <= _MOST_MATCHES and sum(map(len, matches)) <= _LONGEST_MATCHES:
            status, match = self._answer(C_FIND)
            if status >> 8 != PENDING:
                return status, matches
            matches.append(match)
        raise Unreachable("the peer answers a query for one with more than a thousand matches, or a megabyte")

    def request(self, kind: int, model: Context, identifier: bytes, move_to: str = "") -> None:
        """Ask for what the identifier says (PS3.4 C.4), in an accepted context."""
        self._send(kind, self.accepted[model], model[0], has_data_set=True, move_to=move_to)
        self._send_stream(BytesIO(identifier), self.accepted[model])

    def request_commitment(self, action_information: bytes) -> int:
        """The status of the N-ACTION-RSP (PS3.4 J.3.2). Raises Unreachable.

        The peer may report over this very association (PS3.4 J.3.3). Such a report is not answered, and the association is
        aborted once the request is: for the peer it is not delivered then, and it comes again over an association to our
        listener. A failure as the answer would be truer to the letter, and some would take it for the end of the matter.
        """
        if COMMITMENT_REPORTS not in self.accepted:
            raise Unreachable(NO_COMMITMENT)
        context_id = self.accepted[COMMITMENT_REPORTS]
        self._send(N_ACTION, context_id, COMMITMENT, WELL_KNOWN, type_id=REQUEST, has_data_set=True)
        self._send_stream(BytesIO(action_information), context_id)
        return self._status(N_ACTION)

    def _context_id(self, context: Context) -> int:
        if context not in self.accepted:
            sop_class, transfer_syntax = (UID(uid).name for uid in context)
            raise Rejected(NOT_SUPPORTED, f"the peer does not accept {sop_class} with {transfer_syntax}")
        return self.accepted[context]

    def _send(
        self, kind: int, context_id: int, sop_class_uid: str, sop_instance_uid: str = "", *, type_id: int = 0,
        move_to: str = "", has_data_set: bool,
    ) -> None:  # fmt: skip
        self.message_id = self.message_id % 0xFFFF + 1
        encoded = command.request(
            kind, self.message_id, sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, type_id=type_id,
            move_to=move_to, has_data_set=has_data_set,
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

    def _status(self, kind: int) -> int:
        return self._answer(kind)[0]

    def _answer(self, kind: int) -> tuple[int, bytes]:
        """Status, and the data set of a match; what the peer reports in between is passed over."""
        for _ in range(_MOST_INTERRUPTIONS):
            answer, data = self._message()
            if answer.field == N_EVENT_REPORT:
                self.was_interrupted = True
                continue
            if (answer.field, answer.message_id) != (kind | RESPONSE, self.message_id):
                raise Unreachable("the peer answered another message than ours")
            if answer.status is None:
                raise Unreachable("the peer's answer is not understood")
            return answer.status, data
        raise Unreachable("the peer sends its own requests and no answer")

    def _message(self) -> tuple[Command, bytes]:
        """The data set of a match only: no other answer that we wait for has one."""
        deadline = self.connection.deadline
        message = _understood(command.read, self._collect(pdu.COMMAND, _LONGEST_COMMAND, deadline))
        is_match = message.field == C_FIND | RESPONSE and message.has_data_set
        return message, self._collect(0, _LONGEST_MATCHES, deadline) if is_match else b""

    def _collect(self, kind: int, most: int, deadline: float) -> bytes:
        """All fragments of a command set or a data set; a data set that nobody reads is stepped over."""
        collected, is_complete = bytearray(), False
        while not is_complete:
            _, control, data = self._fragment(deadline)
            if control & pdu.COMMAND == kind:
                collected += data
                is_complete = control & pdu.LAST != 0
            elif kind != pdu.COMMAND:
                raise Unreachable("the peer's answer is not understood")
            if len(collected) > most:
                raise Unreachable("the peer's answer is longer than one can be")
        return bytes(collected)

    def _fragment(self, deadline: float) -> tuple[int, int, bytes]:
        while not self._fragments:
            kind, body = self.connection.receive(deadline)
            if kind != pdu.P_DATA:
                raise Unreachable(_UNEXPECTED.get(kind, "the peer sent a PDU that was not expected"))
            self._fragments.extend(_understood(pdu.fragments, body))
        return self._fragments.popleft()


def _fill(stream: FileIO | BytesIO, batch: memoryview) -> int:
    count = 0
    while count < len(batch) and (read := stream.readinto(batch[count:])):
        count += read
    return count


@contextmanager
def associate(
    address: tuple[str, int],
    contexts: Iterable[Context],
    *,
    called: str,
    calling: str,
    timeout: float,
    scp_of: Sequence[str] = (),
    secured: Secured | None = None,
) -> Iterator[Association]:
    """Released at the end, aborted on an exception. `timeout` (seconds) is for the connection, every send, every answer.

    `scp_of` are SOP classes of which we want to be the SCP (PS3.4 J.3.3, C.4.3). `secured` makes the connection one of TLS.

    Raises Unreachable with the reason, also where the peer rejects the association: its administrator can mend that.
    """
    with _connected(address, timeout, secured) as opened:
        is_secured = secured is not None
        connection = Connection(opened, timeout, is_secured)
        parting = Connection(opened, min(timeout, _PARTING_SECONDS), is_secured)
        try:
            association = _negotiate(connection, list(contexts), called, calling, scp_of)
            yield association
        except BaseException:
            with suppress(Unreachable):
                parting.send(pdu.abort())
            raise
        with suppress(Unreachable):  # what was answered stays answered
            _part(parting, association)


def _connected(address: tuple[str, int], timeout: float, secured: Secured | None) -> socket.socket:
    """With TLS, behind its handshake."""
    try:
        opened = socket.create_connection(address, timeout)
        for option in SOCKET_OPTIONS:
            opened.setsockopt(*option)
    except OSError as error:
        raise Unreachable(f"no connection: {words(error, timeout)}") from error
    try:
        return opened if secured is None else secured(opened)
    except OSError as error:
        raise Unreachable(f"no TLS with the peer: {words(error, timeout)}") from error


def _part(parting: Connection, association: Association) -> None:
    if not association.was_interrupted:
        parting.send(pdu.release_rq())
        kind, _ = parting.receive()
        association.is_released = kind == pdu.RELEASE_RP
        if kind != pdu.P_DATA:  # a report that has crossed our release
            return
    parting.send(pdu.abort())


def _negotiate(connection: Connection, contexts: list[Context], called: str, calling: str, scp_of: Sequence[str]) -> Association:
    request = pdu.associate_rq(contexts, called=called, calling=calling, maximum_length=LONGEST_PDU, scp_of=scp_of)
    connection.send(request)
    kind, answer = connection.receive()
    if kind == pdu.ASSOCIATE_RJ:
        raise NotAdmitted(f"the peer rejected the association: {pdu.reason(answer)}")
    if kind != pdu.ASSOCIATE_AC:
        raise Unreachable(_UNEXPECTED.get(kind, "the peer did not answer the association request"))
    accepted, longest = _understood(pdu.accepted, answer, contexts)
    # Six bytes of a PDU are the fragment's own header (PS3.8 9.3.5.1); a fragment is of even length.
    return Association(connection, accepted, max(min(longest or LONGEST_PDU, LONGEST_PDU) - 6, 2) & ~1)


def _understood(read: Callable[..., T], *arguments: object) -> T:
    try:
        return read(*arguments)
    except Exception as error:  # a reader of foreign bytes
        raise Unreachable("the peer's answer is not understood") from error
