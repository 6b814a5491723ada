"""One association as its acceptor (PS3.8 9.2), in a thread of its own, from its first byte to its last.

The reading is ours, because pynetdicom's reactor copies every fragment four times, believes every length and polls. Here the
fragments of a data set go from the one buffer to the file as they are.

    Sta2 awaiting A-ASSOCIATE-RQ --RQ--> Sta3 deciding --AC--> Sta6 established --RELEASE-RQ/RP--> Sta13 awaiting close --> Sta1
      |                                   |                     |  ^
      | anything else, too late           | RJ                  |  +-- P-DATA: a command, the data set it announced, its answer
      v                                   v                     v
    A-ABORT -> Sta13                    Sta13                 A-ABORT either way, a PDU or message that is not allowed: Sta13
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import structlog

from gateway import log
from gateway.crash import crash_point
from gateway.dicom import command as commands
from gateway.dicom import pdu
from gateway.dicom.command import C_CANCEL, C_ECHO, C_STORE, Command
from gateway.dicom.commitment import COMMITMENT
from gateway.dicom.instance import Incoming, Origin
from gateway.dicom.uids import is_uid
from gateway.doors.door import Arrival, Door
from gateway.doors.policy import Caller, Policy, Rejection
from gateway.doors.visits import Visit
from gateway.errors import GatewayError, InvalidUid, NotSupported, NotUnderstood
from gateway.ingest import _acse
from gateway.ingest._notices import NOTICES, take
from gateway.ingest._wire import NOT_SPECIFIED, UNEXPECTED_PDU, Abort, Closed, Late, Wire
from gateway.ingest.move import turned

MAXIMUM_PDU = 131_072
_LONGEST_REQUEST = 64 * 1024  # an A-ASSOCIATE-RQ with 128 contexts and every option stays far below
_LONGEST_COMMAND = 16 * 1024
_LONGEST_NOTICE = 12 * 1024 * 1024  # the data set of a storage commitment request or report: 100,000 instances
_MOST_FRAGMENTS = 64  # of one PDU
_MOST_PIECES = 1000  # that gather, for each takes a hundred times the memory of the least that may be in it
_PARTING_SECONDS = 2

_logger = structlog.get_logger()


@dataclass
class Association:
    """`run` returns when the connection may be closed. `names` are those of the TLS certificate, None without TLS."""

    wire: Wire
    door: Door
    visit: Visit
    policy: Policy
    supported: Mapping[str, Sequence[str]]
    storage: frozenset[str]
    maximum_instance_bytes: int
    origin: Origin
    names: frozenset[str] | None = None
    contexts: Mapping[int, _acse.Context] = field(default_factory=dict)
    fragment: int = 16_376
    """Bytes of data in one P-DATA of ours: what the other side takes, less the headers."""
    has_refused: bool = False

    def run(self, established: Callable[["Association"], None] = lambda _: None) -> None:
        try:
            if self._negotiate():
                established(self)
                self._serve()
        except Closed as ended:
            event = "association.broken" if self.contexts else "connection.closed"  # who only looks whether the port answers
            _logger.info(event, association=self.origin.association, reason=str(ended))
        except Abort as abort:
            _logger.warning("association.aborted", association=self.origin.association, reason=str(abort))
            if abort.reason != NOT_SPECIFIED:
                self.door.turn_away(self.origin, str(abort))
            with suppress(Closed):
                self.wire.send(pdu.abort(source=2, reason=abort.reason))

    # Sta2, Sta3

    def _negotiate(self) -> bool:
        kind, length = self.wire.header()
        if kind != pdu.ASSOCIATE_RQ:
            raise Abort("expected an A-ASSOCIATE-RQ", UNEXPECTED_PDU)
        if length > _LONGEST_REQUEST:
            raise Abort("expected a shorter A-ASSOCIATE-RQ")
        try:
            proposed = _acse.proposal(bytes((kind, 0)) + length.to_bytes(4) + self.wire.take(length))
        except ValueError as error:
            raise Abort(str(error)) from error
        calling, called = _acse.shown(proposed.calling), _acse.shown(proposed.called)
        self.origin = replace(self.origin, calling_ae_title=calling, called_ae_title=called)
        admitted = self.policy.admit(proposed.calling, proposed.called, self.origin.address, self.names)
        if isinstance(admitted, Caller):
            admitted = self.visit.begin(admitted, time.monotonic()) or admitted
        if isinstance(admitted, Rejection):
            self.door.turn_away(self.origin, admitted.words)
            self.wire.send(pdu.associate_rj(admitted.result, admitted.source, admitted.reason))
            self._await_close()
            return False
        supported = {uid: syntaxes for uid, syntaxes in self.supported.items() if admitted.allows(uid)}
        self.contexts, answer = _acse.agree(proposed, supported, maximum_length=MAXIMUM_PDU, both_roles=COMMITMENT)
        if admitted.maximum_instance_bytes is not None:
            self.maximum_instance_bytes = min(self.maximum_instance_bytes, admitted.maximum_instance_bytes)
        self.fragment = max(min(proposed.maximum_length or MAXIMUM_PDU, MAXIMUM_PDU) - 6, 2) & ~1
        self.wire.send(answer)
        self.door.tally.add("associations")
        return True

    # Sta6

    def _serve(self) -> None:
        with closing(Message(self)) as message:
            self.wire.before_filling = message.flush
            try:
                while self._next(message):
                    pass
            except Late as late:
                raise Abort(str(late), NOT_SPECIFIED) from late
        self._await_close()

    def _next(self, message: "Message") -> bool:
        """One PDU; False when it was a release."""
        kind, length = self.wire.header()
        if kind == pdu.P_DATA:
            self._p_data(message, length)
            return True
        if kind == pdu.ABORT:
            raise Closed("the other side aborted the association")
        if kind != pdu.RELEASE_RQ or length != 4 or not message.is_between:
            raise Abort("expected P-DATA or a release", UNEXPECTED_PDU)
        self.wire.take(length)
        self.door.end(self.origin, whole=not self.has_refused)  # who was let go does not come back: it is written down before
        crash_point("association.ended")
        self.wire.send(pdu.release_rp())
        return False

    def _p_data(self, message: "Message", length: int) -> None:
        if not 6 <= length <= MAXIMUM_PDU:
            raise Abort("expected a P-DATA of the length that was negotiated")
        fragments = 0
        while length:
            if length < 6:
                raise Abort("expected a presentation data value")
            size, context_id, control = self.wire.fragment()
            fragments += 1
            if size < 2 or size + 4 > length or fragments > _MOST_FRAGMENTS:
                raise Abort("expected presentation data values that fill their PDU")
            message.begin_fragment(context_id, control)
            self.wire.pour(size - 2, message.write)
            length -= size + 4
            if control & pdu.LAST:
                message.end_part()

    def send(self, context_id: int, control: int, data: bytes) -> None:
        """A command set or a data set, in PDUs that are no longer than the other side takes."""
        last = len(data) - self.fragment
        for at in range(0, len(data), self.fragment):
            self.wire.send(pdu.p_data(context_id, control | pdu.LAST * (at >= last), data[at : at + self.fragment]))

    def _await_close(self) -> None:
        """Sta13: the other side closes; one that does not is cut off."""
        self.wire.allow(idle_seconds=_PARTING_SECONDS, pdu_seconds=_PARTING_SECONDS)
        with suppress(Closed):
            self.wire.header()


class Message:
    """The DIMSE message on its way in: a command set, then the data set that it announces (PS3.7 6.3)."""

    def __init__(self, association: Association) -> None:
        self._association, self._door = association, association.door
        self._encoded, self._pieces = bytearray(), list[memoryview]()
        self._command: Command | None = None
        self._context_id = self._received = 0
        self._arrival: Arrival | None = None
        self._refusal: GatewayError | None = None
        self.write: Callable[[memoryview], object] = self._collect

    @property
    def is_between(self) -> bool:
        """No message has begun."""
        return self._command is None and not self._encoded

    def begin_fragment(self, context_id: int, control: int) -> None:
        if context_id not in self._association.contexts or (not self.is_between and context_id != self._context_id):
            raise Abort("expected an accepted presentation context, and one for a whole message")
        if (control & pdu.COMMAND == 0) != (self._command is not None):
            raise Abort("expected a command before a data set, and the data set that a command announces")
        self._context_id = context_id
        if len(self._pieces) >= _MOST_PIECES:
            self.flush()

    def end_part(self) -> None:
        if self._command is None:
            try:
                self._command = commands.read(self._encoded)
            except ValueError as error:
                raise Abort(str(error)) from error
            self._begin(self._command)
            if self._command.has_data_set:
                return
        self._answer(self._command)

    def _begin(self, command: Command) -> None:
        """A data set may follow: decide where its bytes go, before the first of them comes."""
        self._received, self.write = 0, self._drain
        if command.field == C_STORE:
            self._attempt(self._open, command)
        elif command.field in NOTICES:
            self._encoded, self.write = bytearray(), self._collect

    def _open(self, command: Command) -> None:
        association = self._association
        context = association.contexts[self._context_id]
        if command.sop_class_uid != context.abstract_syntax:
            raise NotSupported("expected the SOP class of the presentation context")
        if context.abstract_syntax not in association.storage:
            raise NotSupported("expected a SOP class of Storage")
        if not command.has_data_set:
            raise NotUnderstood("expected a data set")
        if not is_uid(command.sop_instance_uid):
            raise InvalidUid("expected a SOP Instance UID as in PS3.5 9.1 in the request")
        if (origin := turned(association.origin, command.move_originator, association.policy.ae_title)) is not association.origin:
            self._door.end(association.origin)
            association.origin = origin
        incoming = Incoming(command.sop_class_uid, command.sop_instance_uid, context.transfer_syntax)
        self._arrival = self._door.open(incoming, association.origin, maximum_bytes=association.maximum_instance_bytes)
        self.write = self._pieces.append

    def _collect(self, piece: memoryview) -> None:
        """Of a command set, or of the data set of a notice."""
        longest = _LONGEST_COMMAND if self._command is None else _LONGEST_NOTICE
        if len(self._encoded) + len(piece) > longest:
            raise Abort(f"expected at most {longest} bytes here")
        self._encoded += piece

    def flush(self) -> None:
        """To the door with the pieces of a data set that have gathered in the wire's buffer."""
        if self._pieces and self._arrival is not None and self._refusal is None:
            self._attempt(self._arrival.write, *self._pieces)
        if self._refusal is not None:
            self.write = self._drain
        self._pieces.clear()

    def _drain(self, piece: memoryview) -> None:
        """What was refused is read to its end, so that the answer reaches who sends it; not for ever."""
        self._received += len(piece)
        if self._received > 2 * self._association.maximum_instance_bytes:
            raise Abort("expected a shorter data set")

    def _answer(self, command: Command) -> None:
        field_, association = command.field, self._association
        if field_ == C_STORE:
            self._keep(command)
        elif field_ in NOTICES:
            context = association.contexts[self._context_id]
            self._attempt(take, command, bytes(self._encoded), context, self._door, association.origin)
        status, comment, error_id = commands.SUCCESS, "", 0
        if self._refusal is not None:
            status, comment, error_id = self._refusal.dimse_status, str(self._refusal), self._refusal.error_id
        elif field_ not in (C_STORE, C_ECHO, *NOTICES):
            status = commands.UNRECOGNIZED_OPERATION
        self._reset()
        if field_ != C_CANCEL and not command.is_response:
            association.send(self._context_id, pdu.COMMAND, commands.respond(command, status, comment, error_id))
        if pause := association.visit.pause(self._received, time.monotonic()):
            time.sleep(pause)

    def _keep(self, command: Command) -> None:
        self.flush()
        if self._arrival is not None:
            self._received += self._arrival.size
            if self._refusal is None:
                self._attempt(self._arrival.keep)
        if self._refusal is not None:
            self.close()  # before the journal's next entry, so that it does not hold what was refused
            self._association.has_refused = True
            self._door.refuse(self._association.origin, self._refusal, command.sop_instance_uid)

    def _attempt(self, act: Callable[..., object], *arguments: object) -> None:
        """What is raised becomes the answer, and the association goes on (habit 25)."""
        try:
            act(*arguments)
        except GatewayError as error:
            self._refusal = error
        except Exception as error:  # noqa: BLE001 - boundary: the other side is told, the association goes on
            _logger.error("instance.failed", error=type(error).__name__, stack=log.stack_without_values(error))
            self._refusal = GatewayError("unexpected error, nothing was kept")

    def close(self) -> None:
        if self._arrival is not None:
            self._arrival.__exit__()
            self._arrival = None

    def _reset(self) -> None:
        self.close()
        self._command, self._refusal, self._encoded, self.write = None, None, bytearray(), self._collect
