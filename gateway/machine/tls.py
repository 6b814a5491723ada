"""DICOM TLS at the door: both sides show certificates (PS3.15 B.12, the BCP 195 profile: RFC 8996, RFC 9325).

TLS 1.2 or 1.3, forward secrecy and authenticated encryption only, no compression, no renegotiation, no tickets. Files that are
replaced are taken up by the next connection; those that are open go on as they are.
"""

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import structlog

from gateway.errors import ConfigError
from gateway.machine.marks import marks

# In TLS 1.2. Those of DHE are left out: they cost the answering side most, and RFC 9325 4.2 recommends none. 1.3 has AEAD only.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_logger = structlog.get_logger()


class ServerContext:
    """What connections are secured with; threads share it. Raises ConfigError where the files are not good at first."""

    def __init__(
        self,
        *,
        certificate: Path,
        key: Path,
        authorities: Path | None,
        minimum_version: Literal["1.2", "1.3"],
        crl: Path | None = None,
    ) -> None:
        """Without `authorities` nobody is asked for a certificate."""
        self._files = {"certificate": certificate, "key": key}
        if authorities is not None:
            self._files["authorities"] = authorities
        if crl is not None:
            self._files["crl"] = crl
        self._minimum_version, self._lock = minimum_version, threading.Lock()
        self._seen = self._look()
        self._context = self._load()

    @classmethod
    def of_console(cls, certificate: Path, key: Path) -> Self:
        """For browsers, which show no certificate. Raises ConfigError, which names [web]."""
        try:
            return cls(certificate=certificate, key=key, authorities=None, minimum_version="1.2")
        except ConfigError as error:
            raise ConfigError([problem.replace("[tls]", "[web]", 1) for problem in error.problems]) from error

    def current(self) -> ssl.SSLContext:
        """That of the files as they are now; of the last good ones where these are not, which is told once."""
        with self._lock:
            found = self._look()
            if found != self._seen:
                self._seen = found
                try:
                    self._context = self._load()
                    _logger.info("tls.reloaded")
                except ConfigError as error:
                    _logger.error("tls.not_reloaded", reason=str(error))
            return self._context

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        """What changes when a file does; taken before it is read, so that a change in between is seen by the next look."""
        return tuple(marks(file) for file in self._files.values())

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self._minimum_version]
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED if "authorities" in self._files else ssl.CERT_NONE
        problems: dict[str, str] = {}
        for name in self._files:
            found = self._read(name, context, certified="certificate" not in problems)
            if found is not None:
                problems[name] = found
        if problems:
            raise ConfigError(list(problems.values()))
        return context

    def _read(self, name: str, context: ssl.SSLContext, *, certified: bool) -> str | None:
        """What is wrong with a file, once the context has taken what it holds; a key is nothing without its certificate."""
        file, expected = self._files[name], _EXPECTED[name]
        try:
            file.open("rb").close()
            if certified or name != "key":
                _READ[name](context, self._files)
        except ssl.SSLError as error:
            return f"[tls] {name}: {file}: expected {expected} ({error.reason or 'not PEM'})"
        except OSError as error:
            return f"[tls] {name}: {file}: cannot be read: {error.strerror}"
        except ValueError:
            return f"[tls] {name}: {file}: expected {expected}"
        return None


def _read_certificate(_context: ssl.SSLContext, files: Mapping[str, Path]) -> None:
    """By itself: with the key one could not tell which of the two is wrong."""
    alone = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    alone.load_verify_locations(files["certificate"])
    if not alone.cert_store_stats()["x509"]:
        raise ValueError


def _read_key(context: ssl.SSLContext, files: Mapping[str, Path]) -> None:
    # Without a passphrase OpenSSL would ask a terminal for that of an encrypted key, and wait.
    context.load_cert_chain(files["certificate"], files["key"], password="")


def _read_authorities(context: ssl.SSLContext, files: Mapping[str, Path]) -> None:
    context.load_verify_locations(files["authorities"])
    if not context.get_ca_certs():
        raise ValueError


def _read_crl(context: ssl.SSLContext, files: Mapping[str, Path]) -> None:
    before = context.cert_store_stats()["crl"]
    context.load_verify_locations(files["crl"])
    if context.cert_store_stats()["crl"] == before:
        raise ValueError
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


_READ = {"certificate": _read_certificate, "key": _read_key, "authorities": _read_authorities, "crl": _read_crl}
_EXPECTED = {
    "certificate": "a certificate in PEM",
    "key": "the unencrypted private key of the certificate in PEM",
    "authorities": "certificates of certificate authorities in PEM",
    "crl": "a certificate revocation list in PEM",
}


def secure(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The connection from now on, before its handshake. Where this raises, an OSError, the connection is closed."""
    try:
        connection.getpeername()  # fails for one that was reset already, which wrapping would leave to the garbage collector
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except BaseException:
        connection.close()
        raise


def handshake(secured: ssl.SSLSocket, *, seconds: float) -> None:
    """The server's side of it, over after `seconds` however the bytes come: TimeoutError then, or another OSError.

    The connection's own timeout counts again afterwards. Where this raises, the connection is closed.
    """
    deadline, timeout = time.monotonic() + seconds, secured.gettimeout()
    try:
        secured.settimeout(0)
        while not _shaken(secured, deadline):
            pass
        secured.settimeout(timeout)
    except BaseException:
        secured.close()
        raise


def cut_off(connection: socket.socket) -> None:
    """By another thread than the one that holds the connection, which then finds it at its end."""
    with suppress(OSError):
        # Not SSLSocket's own, after which the thread that holds it would go on without TLS.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _shaken(secured: ssl.SSLSocket, deadline: float) -> bool:
    """One step of the handshake, and the wait for the next; whether it is done."""
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        wanted = select.POLLIN
    except ssl.SSLWantWriteError:
        wanted = select.POLLOUT
    else:
        return True
    ready = select.poll()  # unlike select(), it takes descriptors above 1023
    ready.register(secured, wanted)
    left = deadline - time.monotonic()
    if left <= 0 or not ready.poll(left * 1000):
        raise TimeoutError("expected a TLS handshake in time")
    return False


def names(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Subject CN and SAN DNS names of what getpeercert() says."""
    found = certificate or {}
    subject = (pair for relative_name in found.get("subject", ()) for pair in relative_name)
    return frozenset(
        value for kind, value in (*subject, *found.get("subjectAltName", ())) if kind in {"commonName", "DNS"} and value
    )


def words(error: OSError) -> str:
    """Why a handshake failed, in words that hold nothing of what the other side has sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"expected a certificate that holds: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"expected a TLS handshake ({error.reason or 'it ended early'})"
    if isinstance(error, TimeoutError) and error.errno is None:
        return str(error)
    return f"expected a TLS handshake ({os.strerror(error.errno) if error.errno else 'it ended early'})"
