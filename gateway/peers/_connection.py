"""PDUs over one socket (PS3.8 9.1), each with its deadline: what a peer does not send or does not read ends in Unreachable."""

import select
import socket
import ssl
import struct
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice

from gateway.errors import Unreachable

LONGEST_PDU = 128 * 1024
_LAST_KIND = 7  # A-ABORT (PS3.8 9.3)
_MOST_PARTS = 512
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it


@dataclass(frozen=True)
class Connection:
    """`is_secured`: by TLS, which encrypts what is put together and gathers nothing."""

    socket: socket.socket
    timeout: float
    is_secured: bool = False

    @property
    def deadline(self) -> float:
        return time.monotonic() + self.timeout

    def is_answered(self, seconds: float) -> bool:
        """Whether something has come, or comes in that time; also the end of the connection."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        waiting = select.poll()  # not select(), which knows 1024 file descriptors
        waiting.register(self.socket, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def send(self, data: bytes) -> None:
        try:
            self.socket.settimeout(self.timeout)
            self.socket.sendall(data)
        except OSError as error:
            raise Unreachable(f"the connection broke: {words(error, self.timeout)}") from error

    def send_parts(self, parts: list[bytes | memoryview]) -> None:
        """Gathered by the system: nothing is put together here. What raises has not sent the last byte."""
        if self.is_secured:
            self.send(b"".join(parts))
            return
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
            raise Unreachable(f"the connection broke: {words(error, self.timeout)}") from error

    def receive(self, deadline: float | None = None) -> tuple[int, bytes]:
        """One PDU: its type, and all its bytes."""
        deadline = self.deadline if deadline is None else deadline
        header = self._read(6, deadline)
        kind, length = struct.unpack(">BxI", header)
        if not 1 <= kind <= _LAST_KIND:
            raise Unreachable("what answers there is not DICOM: expected another port")
        if length > LONGEST_PDU:
            raise Unreachable("the peer sent a PDU longer than agreed")
        return kind, header + self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        read = bytearray()
        while len(read) < length:
            try:
                left = deadline - time.monotonic()
                if left <= 0:  # one who sends without end would never be waited for
                    raise TimeoutError
                # Peers that write an answer in two pieces (DCMTK, Orthanc) hold the second back until the first is acknowledged.
                if _QUICKACK is not None:
                    self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                self.socket.settimeout(left)
                piece = self.socket.recv(length - len(read))
            except OSError as error:
                raise Unreachable(f"the connection broke: {words(error, self.timeout)}") from error
            if not piece:
                raise Unreachable("the peer closed the connection")
            read += piece
        return bytes(read)


def words(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({(error.reason or 'unknown').replace('_', ' ').lower()})"
    return (error.strerror or type(error).__name__).lower()
