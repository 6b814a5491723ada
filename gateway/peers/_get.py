"""C-GET, Study Root (PS3.4 C.4.3): the peer stores into our own association, so that nobody has to be let in there or here.

An instance is answered 0x0000 when the door has made it durable, like one that comes by itself.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pydicom.uid import ImplicitVRLittleEndian

from gateway.dicom import command, pdu
from gateway.dicom.command import C_GET, C_STORE, PENDING, RESPONSE, SUCCESS, UNRECOGNIZED_OPERATION, Command
from gateway.dicom.instance import Incoming
from gateway.dicom.pdu import Context
from gateway.errors import Refused, Rejected, Unreachable
from gateway.peers import NOT_SUPPORTED
from gateway.peers._association import Association
from gateway.peers._messages import NOT_UNDERSTOOD, Messages

if TYPE_CHECKING:  # who only sends has no door, and does not wait for one
    from gateway.doors.door import Arrival

GET: Context = ("1.2.840.10008.5.1.4.1.2.2.3", ImplicitVRLittleEndian)
CLASSES = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"),
    "MR": ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"),
    "PT": ("1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"),
}
"""Classic, enhanced and legacy converted images, by modality: what volumes are made of."""
_NOT_TAKEN = (
    'the peer does not let us get (Study Root C-GET): allow it there, or set fetch = "move" for this peer,'
    " as most know C-MOVE only"
)
_FAILURES = 0xB000  # of some sub-operations

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
    if GET not in association.accepted or len(association.accepted) == 1:
        raise Unreachable(_NOT_TAKEN)
    association.request(C_GET, GET, identifier)
    return _Getting(association, open_, refuse).run(is_stopping)


class _Getting:
    def __init__(self, association: Association, open_: Open, refuse: Refuse) -> None:
        self._messages, self._open, self._refuse = Messages(association.connection), open_, refuse
        self._contexts = {number: context for context, number in association.accepted.items()}
        self._refused = 0

    def run(self, is_stopping: Callable[[], bool]) -> int:
        while not is_stopping():
            context_id, message = self._messages.command()
            if message.field == C_STORE and message.has_data_set:
                self._store(context_id, message)
            elif message.field != C_GET | RESPONSE or message.status is None:
                raise Unreachable(NOT_UNDERSTOOD)
            elif message.status >> 8 != PENDING:
                return self._ended(message.status)
        raise Unreachable("its deadline came before all of it")

    def _ended(self, status: int) -> int:
        if status in (SUCCESS, _FAILURES):  # the second: what failed there may be more than was refused here
            return max(self._refused, int(status == _FAILURES))
        if status in (NOT_SUPPORTED, UNRECOGNIZED_OPERATION):
            raise Unreachable(f"{_NOT_TAKEN} (0x{status:04X})")
        if status >> 8 in (0xA7, 0x01):
            raise Unreachable(f"the peer cannot give it now (0x{status:04X})")
        raise Rejected(status, f"the peer does not give it (0x{status:04X})")

    def _store(self, context_id: int, message: Command) -> None:
        _, transfer_syntax = self._contexts.get(context_id, GET)
        incoming, refused = Incoming(message.sop_class_uid, message.sop_instance_uid, transfer_syntax), None
        with ExitStack() as stack:
            arrival: Arrival | None = None
            try:
                arrival = stack.enter_context(self._open(incoming))
            except Refused as error:
                refused = error
            for data in self._messages.data_set(context_id):
                if arrival is not None and refused is None:
                    refused = _tried(arrival.write, data)
            if arrival is not None and refused is None:
                refused = _tried(arrival.keep)
        if refused is not None:
            self._refused += 1
            self._refuse(refused)
        status = SUCCESS if refused is None else refused.dimse_status
        self._messages.connection.send(pdu.p_data(context_id, pdu.COMMAND | pdu.LAST, command.respond(message, status)))


def _tried(act: Callable[..., None], *arguments: bytes) -> Refused | None:
    try:
        act(*arguments)
    except Refused as error:
        return error
    return None
