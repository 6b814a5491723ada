"""The messages that a peer sends over our association of its own accord, or while it answers (PS3.7 6.3, 9.1)."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.dicom import command, pdu
from gateway.dicom.command import Command
from gateway.errors import Unreachable
from gateway.peers._connection import Connection

NOT_UNDERSTOOD = "the peer's answer is not understood"
_LONGEST_COMMAND = 16 * 1024


@dataclass
class Messages:
    """As they come; all of this raises Unreachable."""

    connection: Connection
    _fragments: deque[tuple[int, int, bytes]] = field(default_factory=deque, init=False)

    def is_near(self, seconds: float) -> bool:
        """Whether one has begun to come, or does in that time."""
        return bool(self._fragments) or self.connection.is_answered(seconds)

    def command(self) -> tuple[int, Command]:
        """The next one, with the ID of its presentation context."""
        collected, is_last, context_id = bytearray(), False, 0
        while not is_last:
            context_id, control, data = self._next()
            collected += data
            if not control & pdu.COMMAND or len(collected) > _LONGEST_COMMAND:
                raise Unreachable(NOT_UNDERSTOOD)
            is_last = control & pdu.LAST != 0
        try:
            return context_id, command.read(collected)
        except ValueError as error:
            raise Unreachable(NOT_UNDERSTOOD) from error

    def data_set(self, context_id: int) -> Iterator[bytes]:
        """That of the command before, piece by piece: all of it is to be read."""
        is_last = False
        while not is_last:
            number, control, data = self._next()
            if control & pdu.COMMAND or number != context_id:
                raise Unreachable(NOT_UNDERSTOOD)
            is_last = control & pdu.LAST != 0
            yield data

    def _next(self) -> tuple[int, int, bytes]:
        while not self._fragments:
            kind, body = self.connection.receive()
            if kind != pdu.P_DATA:
                raise Unreachable("the peer ended the association before its answer")
            try:
                self._fragments.extend(pdu.fragments(body))
            except ValueError as error:
                raise Unreachable(NOT_UNDERSTOOD) from error
        return self._fragments.popleft()
