"""C-MOVE, Study Root (PS3.4 C.4.2): the peer sends a series to our door, as to any Storage SCP that it knows by its AE title."""

import time
from collections.abc import Callable
from contextlib import suppress

from pydicom.uid import ImplicitVRLittleEndian

from gateway.dicom import command, pdu
from gateway.dicom.command import C_MOVE, PENDING, RESPONSE, UNRECOGNIZED_OPERATION, Command
from gateway.dicom.pdu import Context
from gateway.errors import Rejected, Unreachable
from gateway.peers import NOT_SUPPORTED, STORED
from gateway.peers._association import Association
from gateway.peers._messages import NOT_UNDERSTOOD, Messages

MOVE: Context = ("1.2.840.10008.5.1.4.1.2.2.2", ImplicitVRLittleEndian)
_FAILURES, _NONE_SENT, _UNKNOWN_THERE = 0xB000, 0xA702, 0xA801
_NOT_TAKEN = "the peer does not let us move (Study Root C-MOVE): allow it there, or name another source of priors"
_LOOK_SECONDS, _CANCEL_SECONDS = 1.0, 5.0


def move(
    association: Association, identifier: bytes, ae_title: str, arrived: Callable[[], int], is_stopping: Callable[[], bool]
) -> int:  # fmt: skip
    """Have what the identifier names sent to `ae_title`; how many instances the peer says it has sent, 0: it does not say.

    It need not tell how far it is: `arrived`, which counts what has come, is a sign of life too. Raises Unreachable or Rejected.
    """
    if MOVE not in association.accepted:
        raise Unreachable(_NOT_TAKEN)
    association.request(C_MOVE, MOVE, identifier, ae_title)
    connection = association.connection
    messages, came, deadline = Messages(connection), arrived(), connection.deadline
    while not is_stopping():
        if messages.is_near(_LOOK_SECONDS):
            answer, deadline = _answer(messages), connection.deadline
            if answer.status is not None and answer.status >> 8 != PENDING:
                return _ended(answer, answer.status, ae_title)
        elif (now := arrived()) != came:
            came, deadline = now, connection.deadline
        elif time.monotonic() > deadline:
            raise Unreachable(f"the peer neither sends more nor says that it has ended, for {connection.timeout:g} s")
    _cancel(association, messages)
    raise Unreachable("its deadline came before all of it")


def _answer(messages: Messages) -> Command:
    """With what did not come the last one has a list, which is passed over."""
    context_id, answer = messages.command()
    if answer.field != C_MOVE | RESPONSE or answer.status is None:
        raise Unreachable(NOT_UNDERSTOOD)
    if answer.has_data_set:
        for _ in messages.data_set(context_id):
            pass
    return answer


def _ended(answer: Command, status: int, ae_title: str) -> int:
    """Raises Unreachable also where only an administrator there can mend it: then it goes on by itself."""
    code = f"(0x{status:04X})"
    expected = f"{code}: expected it to know our AE title {ae_title} with host and port of our listener, which lets it in"
    if status in (NOT_SUPPORTED, UNRECOGNIZED_OPERATION):
        raise Unreachable(f"{_NOT_TAKEN} {code}")
    if status == _UNKNOWN_THERE:
        raise Unreachable(f"the peer knows no Move Destination of that name {expected}")
    if status == _NONE_SENT or (status == _FAILURES and (answer.failed or not answer.completed)):
        raise Unreachable(f"the peer could not send {answer.failed or 'all'} of its instances {expected}")
    if status in (STORED, _FAILURES):  # the second: with warnings only
        return answer.completed
    if status >> 8 in (0xA7, 0x01, 0xFE):
        raise Unreachable(f"the peer cannot send it now {code}")
    raise Rejected(status, f"the peer does not send it {expected}")


def _cancel(association: Association, messages: Messages) -> None:
    """Until the peer says that it has ended, or a few seconds."""
    asked = command.cancel(association.message_id)
    end = time.monotonic() + _CANCEL_SECONDS
    with suppress(Unreachable):
        messages.connection.send(pdu.p_data(association.accepted[MOVE], pdu.COMMAND | pdu.LAST, asked))
        while time.monotonic() < end:
            if messages.is_near(_LOOK_SECONDS) and (_answer(messages).status or 0) >> 8 != PENDING:
                return
