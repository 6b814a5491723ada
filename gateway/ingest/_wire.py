"""Bytes of one connection, read in place into one buffer. Every wait has a deadline; nobody can make it grow."""

import socket
import struct
import time
from collections.abc import Callable
from mmap import mmap
from ssl import SSLSocket

_BUFFER = 640 * 1024  # a slice of 512 x 512 gathers whole in it, and goes to the disk in one call
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
_TICK_SECONDS = 1.0
_LEAST_SECONDS = 0.001  # zero would be for ever
_TIMEVAL = struct.Struct("@ll")  # of SO_RCVTIMEO
_HEADER = struct.Struct(">BxI")
_FRAGMENT = struct.Struct(">IBB")


NOT_SPECIFIED, UNEXPECTED_PDU, INVALID_PDU = 0, 2, 6
"""Reasons of an A-ABORT from the provider (PS3.8 9.3.8)."""


class Abort(Exception):
    """What came is not allowed here; the association ends with an A-ABORT."""

    def __init__(self, words: str, reason: int = INVALID_PDU) -> None:
        super().__init__(words)
        self.reason = reason


class Closed(Exception):
    """The connection has ended, or stayed silent past a deadline; the text says which."""


class Late(Closed):
    """A deadline has passed; the connection itself may stand."""


class Wire:
    """`idle_seconds` is how long nothing may come, `pdu_seconds` how long a PDU may take that has begun."""

    def __init__(self, connection: socket.socket, *, idle_seconds: float, pdu_seconds: float) -> None:
        self._socket, self._idle, self._allowed = connection, idle_seconds, pdu_seconds
        self._buffer = mmap(-1, _BUFFER)  # goes back to the system whole; so many of its size leave malloc's heap full of holes
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._deadline = 0.0
        self.before_filling: Callable[[], object] = lambda: None
        """Called while the pieces that were poured are still valid."""
        self._wait_in_ticks()

    def allow(self, *, idle_seconds: float, pdu_seconds: float) -> None:
        self._idle, self._allowed = idle_seconds, pdu_seconds
        self._wait_in_ticks()

    def _wait_in_ticks(self) -> None:
        """Deadlines are looked at after each tick of a wait. The kernel counts ticks, which saves a poll before each call."""
        seconds = max(_LEAST_SECONDS, min(_TICK_SECONDS, self._idle, self._allowed))
        if isinstance(self._socket, SSLSocket):  # which would ask the kernel for ever
            self._socket.settimeout(seconds)
            return
        self._socket.settimeout(None)
        for option, lasting in ((socket.SO_RCVTIMEO, seconds), (socket.SO_SNDTIMEO, max(_LEAST_SECONDS, self._allowed))):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(lasting), int(lasting % 1 * 1e6)))

    def header(self) -> tuple[int, int]:
        """Type and length of the next PDU (PS3.8 9.3.1), whose deadline begins with its first byte."""
        if self._start == self._end:
            self._fill(time.monotonic() + self._idle, "the other side was silent for too long")
        self._deadline = time.monotonic() + self._allowed
        kind, length = self._unpack(_HEADER)
        return kind, length

    def fragment(self) -> tuple[int, int, int]:
        """Length, context ID and message control header of the next presentation data value (PS3.8 9.3.5.1)."""
        length, context_id, control = self._unpack(_FRAGMENT)
        return length, context_id, control

    def take(self, length: int) -> bytes:
        """The next bytes of the PDU, of which there may be as many as the caller has checked."""
        taken = bytearray()
        self.pour(length, taken.extend)
        return bytes(taken)

    def pour(self, length: int, into: Callable[[memoryview], object]) -> None:
        """Give the next `length` bytes away in pieces, as they lie in the buffer; a piece is valid until it is filled again."""
        while length:
            if self._start == self._end:
                self._more()
            end = min(self._end, self._start + length)
            into(self._view[self._start : end])
            length -= end - self._start
            self._start = end

    def send(self, data: bytes) -> None:
        try:
            if isinstance(self._socket, SSLSocket):
                self._socket.settimeout(self._allowed)
                self._socket.sendall(data)
                self._wait_in_ticks()
            elif self._socket.send(data) < len(data):  # one call has one deadline
                raise TimeoutError
        except OSError as error:
            raise Closed("the other side does not read, or is gone") from error

    def _unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        while self._end - self._start < layout.size:
            self._more()
        values = layout.unpack_from(self._buffer, self._start)
        self._start += layout.size
        return values

    def _more(self) -> None:
        self._fill(self._deadline, "a PDU was not complete in time")

    def _fill(self, deadline: float, too_late: str) -> None:
        """Wait for bytes; what is left in the buffer, less than a header, moves to its beginning."""
        self.before_filling()
        left = self._end - self._start
        if left:
            self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left
        count = None
        while count is None:
            if time.monotonic() >= deadline:
                raise Late(too_late)
            count = self._receive(left)
        if not count:
            raise Closed("the other side closed the connection")
        self._end = left + count

    def _receive(self, at: int) -> int | None:
        """How many bytes came; None where a tick has passed."""
        try:
            count = self._socket.recv_into(self._view[at:])
            if 0 < count < len(self._view) - at and _QUICKACK is not None:  # nothing more has come
                # Who sends without TCP_NODELAY, as DCMTK does as shipped, would wait for our acknowledgement, 40 ms an instance.
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError as error:
            raise Closed("the connection broke") from error
        return count
