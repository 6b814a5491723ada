"""C-GET, Study Root (PS3.4 C.4.3): the peer stores into our own association, so that nobody has to be let in there or here.

An instance is answered 0x0000 when the door has made it durable, like one that comes by itself.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pydicom.uid import ImplicitVRLittleEndian

from gateway.dicom import command, pdu
from gateway.dicom.command import C_GET, C_STORE, RESPONSE, SUCCESS, Command
from gateway.dicom.instance import Incoming
from gateway.dicom.pdu import Context
from gateway.errors import Refused, Rejected, Unreachable
from gateway.peers._association import Association

if TYPE_CHECKING:  # who only sends has no door, and does not wait for one
    from gateway.doors.door import Arrival

GET: Context = ("1.2.840.10008.5.1.4.1.2.2.3", ImplicitVRLittleEndian)
CLASSES = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"),
    "MR": ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"),
    "PT": ("1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"),
}
"""Classic, enhanced and legacy converted images, by modality: what volumes are made of."""
_NOT_TAKEN = "the peer does not let us get (Study Root C-GET): allow it there, or name another source of priors"
_NOT_UNDERSTOOD = "the peer's answer is not understood"
_PENDING, _FAILURES = 0xFF, 0xB000  # the first byte of a status; some sub-operations failed
_LONGEST_COMMAND = 16 * 1024

Open = Callable[[Incoming], "Arrival"]
Refuse = Callable[[Refused], None]


def contexts(modality: str, transfer_syntaxes: Iterable[str]) -> list[Context]:
    """Of the modality where it is known, else of all; the first is that of the request itself."""
    classes = CLASSES.get(modality) or [one for of_modality in CLASSES.values() for one in of_modality]
    return [GET, *((sop_class, syntax) for sop_class in classes for syntax in transfer_syntaxes)]


def get(
    association: Association, identifier: bytes, open_: Open, refuse: Refuse, is_stopping: Callable[[], bool] = lambda: False
) -> int:  # fmt: skip
    """Take what the identifier names; how many instances did not come, as far as it is known. Raises Unreachable or Rejected."""
    if GET not in association.accepted:
        raise Unreachable(_NOT_TAKEN)
    association.request(C_GET, GET, identifier)
    return _Getting(association, open_, refuse).run(is_stopping)


class _Getting:
    def __init__(self, association: Association, open_: Open, refuse: Refuse) -> None:
        self._connection, self._open, self._refuse = association.connection, open_, refuse
        self._contexts = {number: context for context, number in association.accepted.items()}
        self._fragments: deque[tuple[int, int, bytes]] = deque()
        self._refused = 0

    def run(self, is_stopping: Callable[[], bool]) -> int:
        while not is_stopping():
            context_id, message = self._command()
            if message.field == C_STORE and message.has_data_set:
                self._store(context_id, message)
            elif message.field != C_GET | RESPONSE or message.status is None:
                raise Unreachable(_NOT_UNDERSTOOD)
            elif message.status >> 8 != _PENDING:
                return self._ended(message.status)
        raise Unreachable("its deadline came before all of it")

    def _ended(self, status: int) -> int:
        if status in (SUCCESS, _FAILURES):  # the second: what failed there may be more than was refused here
            return max(self._refused, int(status == _FAILURES))
        if status >> 8 in (0xA7, 0x01):
            raise Unreachable(f"the peer cannot give it now (0x{status:04X})")
        raise Rejected(status, f"the peer does not give it (0x{status:04X})")

    def _command(self) -> tuple[int, Command]:
        collected, is_last, context_id = bytearray(), False, 0
        while not is_last:
            context_id, control, data = self._next()
            collected += data
            if not control & pdu.COMMAND or len(collected) > _LONGEST_COMMAND:
                raise Unreachable(_NOT_UNDERSTOOD)
            is_last = control & pdu.LAST != 0
        try:
            return context_id, command.read(collected)
        except ValueError as error:
            raise Unreachable(_NOT_UNDERSTOOD) from error

    def _store(self, context_id: int, message: Command) -> None:
        _, transfer_syntax = self._contexts.get(context_id, GET)
        incoming, refused = Incoming(message.sop_class_uid, message.sop_instance_uid, transfer_syntax), None
        with ExitStack() as stack:
            arrival: Arrival | None = None
            try:
                arrival = stack.enter_context(self._open(incoming))
            except Refused as error:
                refused = error
            for data in self._data_set(context_id):
                if arrival is not None and refused is None:
                    refused = _tried(arrival.write, data)
            if arrival is not None and refused is None:
                refused = _tried(arrival.keep)
        if refused is not None:
            self._refused += 1
            self._refuse(refused)
        status = SUCCESS if refused is None else refused.dimse_status
        self._connection.send(pdu.p_data(context_id, pdu.COMMAND | pdu.LAST, command.respond(message, status)))

    def _data_set(self, context_id: int) -> Iterable[bytes]:
        is_last = False
        while not is_last:
            number, control, data = self._next()
            if control & pdu.COMMAND or number != context_id:
                raise Unreachable(_NOT_UNDERSTOOD)
            is_last = control & pdu.LAST != 0
            yield data

    def _next(self) -> tuple[int, int, bytes]:
        while not self._fragments:
            kind, body = self._connection.receive()
            if kind != pdu.P_DATA:
                raise Unreachable("the peer ended the association before its answer")
            try:
                self._fragments.extend(pdu.presented(body))
            except ValueError as error:
                raise Unreachable(_NOT_UNDERSTOOD) from error
        return self._fragments.popleft()


def _tried(act: Callable[..., None], *arguments: bytes) -> Refused | None:
    try:
        act(*arguments)
    except Refused as error:
        return error
    return None
