"""Syslog: how audit messages go to a collector: RFC 5424 headers, over UDP (RFC 5426) or TLS (RFC 5425).

TLS: version 1.2 or later; the collector's certificate and host name are checked, ours is shown where it asks for one. Messages
count as told when the collector's machine has acknowledged their last byte (TCP). Syslog has no answer of its own: what the
collector's program had not read when it died is lost with it, so whoever opens the next connection repeats the last messages.
UDP has not even that: only a port where nobody listens is noticed.
"""

import fcntl
import os
import re
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import CollectorError
from gateway.machine import tls

LONGEST_DATAGRAM = 65_000
_PRIORITY = 85  # facility 10 (security), severity 5 (notice)
_BOM = b"\xef\xbb\xbf"
_CONNECT_SECONDS, _SEND_SECONDS = 10, 30
_BETWEEN_DATAGRAMS = 0.001
"""What waited for a collector does not come all at once: its machine drops what its program has not read in time, unasked."""
_ANSWER_MILLISECONDS = 200
"""A closed UDP port answers at once; a TLS 1.3 server says only after the handshake that it does not take our certificate."""
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


def frame(xml: bytes, *, at: datetime, host: str, process: int) -> bytes:
    """A message with its header; `at` is when what it tells of happened."""
    moment = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    host = _NOT_PRINTABLE.sub("-", host)[:255] or "-"
    return f"<{_PRIORITY}>1 {moment} {host} gateway {process} DICOM+RFC3881 - ".encode("ascii") + _BOM + xml


class Datagrams:
    """One message a datagram (RFC 5426). Everything raises CollectorError."""

    longest: int | None = LONGEST_DATAGRAM

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self) -> None:
        with _in_our_words():
            family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)

    def send(self, frames: Sequence[bytes]) -> None:
        assert self._socket is not None, "expected a socket that is open"
        if any(len(one) > LONGEST_DATAGRAM for one in frames):
            raise CollectorError(f"expected messages of at most {LONGEST_DATAGRAM} bytes over UDP")
        with _in_our_words():
            for one in frames:
                self._socket.send(one)
                time.sleep(_BETWEEN_DATAGRAMS)
            if _waits_for(self._socket, select.POLLERR):
                raise OSError(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Stream:
    """Messages one after another over TLS, each after the count of its octets (RFC 5425). Everything raises CollectorError.

    The files are read for every connection: those that were replaced count from the next on.
    """

    longest: int | None = None

    def __init__(
        self, host: str, port: int, *, authorities: Path | None, certificate: Path | None, certificate_key: Path | None
    ) -> None:
        self._address, self._authorities = (host, port), authorities
        self._certificate, self._certificate_key = certificate, certificate_key
        self._socket: ssl.SSLSocket | None = None

    @property
    def is_open(self) -> bool:
        """Whether the collector has not closed it; a collector says nothing else over it."""
        if self._socket is None:
            return False
        try:
            with _in_our_words():
                return _is_silent(self._socket)
        except CollectorError:
            return False

    def open(self) -> None:
        context = self._context()
        with _in_our_words(), ExitStack() as stack:
            plain = socket.create_connection(self._address, timeout=_CONNECT_SECONDS)
            stack.callback(plain.close)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            secured = context.wrap_socket(plain, server_hostname=self._address[0])
            stack.callback(secured.close)
            if secured.version() == "TLSv1.3":
                _waits_for(secured, select.POLLIN)
            if not _is_silent(secured):
                raise OSError("expected a collector that keeps the connection open")
            secured.settimeout(_SEND_SECONDS)
            stack.pop_all()
            self._socket = secured

    def send(self, frames: Sequence[bytes]) -> None:
        """Returns when the collector's machine has acknowledged every byte."""
        assert self._socket is not None, "expected a connection that is open"
        with _in_our_words():
            self._socket.sendall(b"".join(str(len(one)).encode("ascii") + b" " + one for one in frames))
            deadline = time.monotonic() + _SEND_SECONDS
            while True:
                left = _unacknowledged(self._socket)
                is_there = _is_silent(self._socket)  # raises after a reset, which leaves nothing unacknowledged either
                if not left:
                    return
                if not is_there:
                    raise OSError("expected a collector that keeps the connection open")
                if time.monotonic() > deadline:
                    raise CollectorError("expected a collector that acknowledges in time")
                time.sleep(0.002)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._authorities)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(tls.CIPHERS)
            if self._certificate is not None:
                context.load_cert_chain(self._certificate, self._certificate_key, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CollectorError(
                "expected readable PEM files in authorities, certificate and certificate_key of [audit]"
            ) from error
        return context


Line = Datagrams | Stream


def line(url: str, *, authorities: Path | None, certificate: Path | None, certificate_key: Path | None) -> Line:
    """Not open yet; `url` is udp://HOST:PORT or tls://HOST:PORT."""
    protocol, _, address = url.partition("://")
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if protocol == "udp":
        return Datagrams(host, int(port))
    return Stream(host, int(port), authorities=authorities, certificate=certificate, certificate_key=certificate_key)


def _waits_for(connection: socket.socket, what: int) -> bool:
    ready = select.poll()  # unlike select(), it takes descriptors above 1023
    ready.register(connection, what)
    return bool(ready.poll(_ANSWER_MILLISECONDS))


def _is_silent(secured: ssl.SSLSocket) -> bool:
    """False where the other side has closed; an alert raises. What it says is dropped."""
    timeout = secured.gettimeout()
    secured.settimeout(0)
    try:
        while secured.recv(4096):
            pass
    except ssl.SSLWantReadError:
        return True
    finally:
        secured.settimeout(timeout)
    return False


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that the other machine has not acknowledged yet (Linux: SIOCOUTQ, the number of TIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CollectorError(_words(error)) from error


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return tls.words(error)
    if isinstance(error, socket.gaierror):
        return "expected a host name that is known"
    if isinstance(error, TimeoutError) and not error.errno:
        return "expected a collector that answers in time"
    if error.errno:
        return f"expected a collector that takes messages ({os.strerror(error.errno)})"
    return str(error)
