"""Collectors of audit messages: a syslog server over TLS (RFC 5425) and one over UDP, as small as they can be."""

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_HEADER = re.compile(rb"<85>1 (\S+Z) (\S+) gateway (\d+) DICOM\+RFC3881 - \xef\xbb\xbf", re.DOTALL)


def xml_of(frame: bytes) -> bytes:
    """What follows the header, which must be that of RFC 5424."""
    found = _HEADER.match(frame)
    assert found, frame[:100]
    return frame[found.end() :]


def number_of(frame: bytes) -> int:
    """The event that a message tells of."""
    found = re.search(rb'ParticipantObjectID="(\d+)"[^>]*><ParticipantObjectIDTypeCode csd-code="audit-event"', frame)
    assert found, frame
    return int(found[1])


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)


class TlsCollector:
    """Listens on a port of its own (or on `port`) while it is entered; `frames` are those that came, over all connections.

    `hangs_up_after` closes a connection after so many messages.
    """

    def __init__(self, context: ssl.SSLContext, *, port: int = 0, hangs_up_after: int | None = None) -> None:
        self._context, self._hangs_up_after = context, hangs_up_after
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.frames: list[bytes] = []
        self.connections: list[list[bytes]] = []
        self.refused: list[str] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def numbers(self) -> list[int]:
        return [number_of(frame) for frame in self.frames]

    def __enter__(self) -> "TlsCollector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(10)

    def hang_up(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._serve(self._context.wrap_socket(plain, server_side=True))
            except OSError as error:
                plain.close()
                self.refused.append(str(error))

    def _serve(self, secured: ssl.SSLSocket) -> None:
        self._open.append(secured)
        mine: list[bytes] = []
        self.connections.append(mine)
        with suppress(OSError), secured, secured.makefile("rb") as file:
            while count := _count(file):
                frame = file.read(count)
                assert len(frame) == count
                mine.append(frame)
                self.frames.append(frame)
                if len(mine) == self._hangs_up_after:
                    return


def _count(file) -> int:
    digits = b""
    while (one := file.read(1)) not in (b" ", b""):
        digits += one
    assert digits == b"" or (digits.isdigit() and digits[:1] != b"0"), "expected MSG-LEN"
    return int(digits or b"0")


def server_context(issued, authority=None) -> ssl.SSLContext:
    """`authority` is who must have signed the client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)
    return context


@contextmanager
def udp_collector(port: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """The port, and the datagrams that came; its machine holds some megabytes of what it has not read."""
    received: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        listener.bind(("127.0.0.1", port))
        listener.settimeout(0.05)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    received.append(listener.recv(65535))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            ended.set()
            thread.join(10)
