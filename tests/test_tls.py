"""TLS at the door, over real sockets: who is let in, what happens when files change, and when the handshake drags on."""

import contextlib
import os
import queue
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.errors import ConfigError
from gateway.machine.tls import ServerContext, handshake, names, secure, words
from tests.certificates import Authority, Issued, client_context

PATIENCE = 20
"""Seconds until a test gives up; nothing here takes one of them."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ca")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Issued:
    return authority.issue("gateway", hosts=("localhost",))


@pytest.fixture(scope="module")
def ct1(authority: Authority) -> Issued:
    return authority.issue("CT1", hosts=("ct1.hospital.test",))


@pytest.fixture
def secured(authority: Authority, server: Issued, tmp_path: Path) -> Callable[..., ServerContext]:
    """The context of `files` that a test may change, and where they lie (tmp_path / name)."""

    def of(*, crl: Path | None = None, **changed: Any) -> ServerContext:
        files = {"certificate": server.certificate, "key": server.key, "authorities": authority.certificate}
        for name, file in files.items():
            shutil.copy(changed.pop(name, file), tmp_path / name)
        if crl is not None:
            shutil.copy(crl, tmp_path / "crl")
            changed["crl"] = tmp_path / "crl"
        return ServerContext(**{name: tmp_path / name for name in files}, **{"minimum_version": "1.2", **changed})

    return of


class Listening:
    """Shakes hands in a thread for each connection, tells each outcome in `outcomes`, and then echoes what comes."""

    def __init__(self, context: ServerContext, *, seconds: float) -> None:
        self._context, self._seconds = context, seconds
        self.outcomes: queue.Queue[ssl.SSLSocket | OSError] = queue.Queue()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def outcome(self) -> ssl.SSLSocket | OSError:
        return self.outcomes.get(timeout=PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            found = secure(connection, self._context.current())
            handshake(found, seconds=self._seconds)
        except OSError as error:
            self.outcomes.put(error)
            return
        self.outcomes.put(found)
        with contextlib.suppress(OSError), found:
            while data := found.recv(64):
                found.sendall(data)


@pytest.fixture
def listening() -> Iterator[Callable[..., Listening]]:
    with contextlib.ExitStack() as stack:

        def on(context: ServerContext, *, seconds: float = PATIENCE) -> Listening:
            found = Listening(context, seconds=seconds)
            stack.callback(found.close)
            return found

        yield on


def connect(listener: Listening, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection over which an echo came back: TLS 1.3 tells a client only then that its certificate was refused."""
    plain = socket.create_connection(listener.address, timeout=PATIENCE)
    try:
        found = context.wrap_socket(plain)
    except OSError:
        plain.close()
        raise
    try:
        assert echoes(found)
    except BaseException:
        found.close()
        raise
    return found


def echoes(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"ping")
    return connection.recv(64) == b"ping"


def refused(listener: Listening, context: ssl.SSLContext) -> str:
    """The words for the refusal of a client."""
    with pytest.raises((OSError, AssertionError)):
        connect(listener, context).close()
    outcome = listener.outcome()
    assert isinstance(outcome, OSError)
    return words(outcome)


@pytest.mark.parametrize(("version", "told"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")])
def test_tls_of_today_is_accepted_with_forward_secrecy_and_authenticated_encryption(
    listening, secured, authority, ct1, version, told
) -> None:
    listener, context = listening(secured()), client_context(authority, ct1)
    context.minimum_version = context.maximum_version = version

    with connect(listener, context):
        accepted = listener.outcome()

        assert isinstance(accepted, ssl.SSLSocket)
        cipher, _, _ = accepted.cipher()
        assert accepted.version() == told
        assert ("GCM" in cipher or "CHACHA20" in cipher) and cipher.startswith(("TLS_", "ECDHE-"))
        assert names(accepted.getpeercert()) == {"CT1", "ct1.hospital.test"}
        assert accepted.compression() is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_refused(listening, secured, authority, ct1) -> None:
    context = client_context(authority, ct1)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    assert refused(listening(secured()), context) == "expected a TLS handshake (UNSUPPORTED_PROTOCOL)"


def test_tls_1_2_is_refused_where_the_least_is_1_3(listening, secured, authority, ct1) -> None:
    context = client_context(authority, ct1)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    assert refused(listening(secured(minimum_version="1.3")), context) == "expected a TLS handshake (UNSUPPORTED_PROTOCOL)"


@pytest.mark.parametrize(
    "ciphers", ["ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256", "DHE-RSA-AES128-SHA"]
)
def test_suites_without_authenticated_encryption_or_forward_secrecy_are_refused(
    listening, secured, authority, ct1, ciphers
) -> None:
    context = client_context(authority, ct1)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)

    assert refused(listening(secured()), context) == "expected a TLS handshake (NO_SHARED_CIPHER)"


def test_a_session_cannot_be_taken_up_again_by_ticket_nor_negotiated_anew(listening, secured, authority, ct1) -> None:
    context = secured()

    with connect(listening(context), client_context(authority, ct1)) as connection:
        assert connection.session is None or not connection.session.has_ticket
    assert context.current().options & ssl.OP_NO_RENEGOTIATION


def test_a_caller_without_a_certificate_is_refused(listening, secured, authority) -> None:
    found = refused(listening(secured()), client_context(authority))

    assert found == "expected a TLS handshake (PEER_DID_NOT_RETURN_A_CERTIFICATE)"


def test_a_certificate_of_another_authority_is_refused(listening, secured, authority, tmp_path) -> None:
    stranger = Authority(tmp_path / "other").issue("CT1")

    assert refused(listening(secured()), client_context(authority, stranger)).startswith("expected a certificate that holds:")


def test_a_forged_authority_of_the_same_name_is_refused(listening, secured, authority, tmp_path) -> None:
    forged = Authority(tmp_path / "other", name="Test Authority").issue("CT1")

    assert "expected a certificate that holds" in refused(listening(secured()), client_context(authority, forged))


def test_an_expired_certificate_is_refused(listening, secured, authority) -> None:
    old = authority.issue("CT1", expired=True)

    found = refused(listening(secured()), client_context(authority, old))

    assert found == "expected a certificate that holds: certificate has expired"


def test_a_revoked_certificate_is_refused_and_others_are_not(listening, secured, authority, ct1) -> None:
    stolen = authority.issue("STOLEN")
    authority.revoke(stolen)
    listener = listening(secured(crl=authority.crl()))

    assert refused(listener, client_context(authority, stolen)) == "expected a certificate that holds: certificate revoked"
    connect(listener, client_context(authority, ct1)).close()


def test_a_revocation_list_that_is_out_of_date_lets_nobody_in(listening, secured, authority, ct1) -> None:
    listener = listening(secured(crl=authority.crl(expired=True)))

    assert refused(listener, client_context(authority, ct1)) == "expected a certificate that holds: CRL has expired"


def replace(tmp_path: Path, **files: Path) -> None:
    """As a program that renews certificates does: whole, under a name of its own, then renamed."""
    for name, file in files.items():
        shutil.copy(file, tmp_path / f"{name}.new")
        os.replace(tmp_path / f"{name}.new", tmp_path / name)


def served(issued: Issued) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.certificate.read_text())


def test_a_new_certificate_is_shown_to_the_next_connection_while_the_old_one_goes_on(
    listening, secured, authority, server, ct1, tmp_path
) -> None:
    listener, client, renewed = listening(secured()), client_context(authority, ct1), authority.issue("renewed")

    with connect(listener, client) as before:
        replace(tmp_path, certificate=renewed.certificate, key=renewed.key)
        with connect(listener, client) as after:
            assert before.getpeercert(binary_form=True) == served(server)
            assert after.getpeercert(binary_form=True) == served(renewed)
            assert echoes(before)


def test_a_certificate_that_is_revoked_while_we_run_is_refused_from_then_on(listening, secured, authority, tmp_path) -> None:
    lost = client_context(authority, issued := authority.issue("LOST"))
    listener = listening(secured(crl=authority.crl()))
    connect(listener, lost).close()
    listener.outcome()

    authority.revoke(issued)
    replace(tmp_path, crl=authority.crl())

    assert refused(listener, lost) == "expected a certificate that holds: certificate revoked"


def test_files_that_are_not_good_leave_the_last_good_ones_and_are_told_once(
    listening, secured, authority, server, ct1, tmp_path
) -> None:
    listener, client = listening(secured()), client_context(authority, ct1)
    (tmp_path / "key").write_text("SECRET, and no key")

    with capture_logs() as logs:
        for _ in range(3):
            with connect(listener, client) as connection:
                assert connection.getpeercert(binary_form=True) == served(server)

    assert [line["event"] for line in logs] == ["tls.not_reloaded"]
    assert "key: expected the unencrypted private key" in logs[0]["reason"].replace(f"{tmp_path}/key: ", "")
    assert "SECRET" not in str(logs)


def test_a_file_that_is_gone_for_a_moment_is_taken_up_when_it_is_back(secured, authority, tmp_path) -> None:
    context, renewed = secured(), authority.issue("renewed")
    first = context.current()
    (tmp_path / "certificate").unlink()
    assert context.current() is first

    replace(tmp_path, certificate=renewed.certificate, key=renewed.key)

    assert context.current() is not first


def test_files_that_did_not_change_are_not_read_again(secured) -> None:
    context = secured()

    assert context.current() is context.current()


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"], ids=["silent", "trickling"])
def test_a_client_that_takes_too_long_is_dropped_at_the_deadline(listening, secured, first: bytes) -> None:
    listener = listening(secured(), seconds=0.5)

    with socket.create_connection(listener.address, timeout=PATIENCE) as client:
        client.sendall(first)
        for _ in range(200):  # ten seconds, in which no single read waits for long
            with contextlib.suppress(OSError):
                client.sendall(b"\x03" * bool(first))
            with contextlib.suppress(queue.Empty):
                outcome = listener.outcomes.get(timeout=0.05)
                break
        else:
            pytest.fail("it was waited for")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(64) == b""

    assert words(outcome) == "expected a TLS handshake in time"


def test_others_get_in_while_one_says_nothing(listening, secured, authority, ct1) -> None:
    listener = listening(secured())

    with socket.create_connection(listener.address, timeout=PATIENCE), connect(listener, client_context(authority, ct1)) as other:
        assert echoes(other)


def test_what_is_no_tls_is_refused_and_not_quoted(listening, secured) -> None:
    listener = listening(secured())

    with socket.create_connection(listener.address, timeout=PATIENCE) as client:
        client.sendall(b"\x01\x00\x00\x00\x00\xcd\x00\x01\x00\x00CANARY^NAME")
        outcome = listener.outcome()

    assert words(outcome).startswith("expected a TLS handshake (")
    assert "CANARY" not in words(outcome) + str(outcome)


def test_a_client_that_hangs_up_in_the_handshake_is_told_as_such(listening, secured) -> None:
    listener = listening(secured())

    with socket.create_connection(listener.address, timeout=PATIENCE) as client:
        client.sendall(b"\x16\x03\x01")

    assert words(listener.outcome()).startswith("expected a TLS handshake (")


def test_after_the_handshake_the_timeout_of_the_connection_counts_again(secured, authority, ct1) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(7)
    client = threading.Thread(target=lambda: client_context(authority, ct1).wrap_socket(theirs).close())
    client.start()

    with secure(ours, secured().current()) as found:
        handshake(found, seconds=PATIENCE)
        assert found.gettimeout() == 7
    client.join(PATIENCE)


def test_a_handshake_that_fails_leaves_no_open_connection(secured) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)

    with theirs:
        with pytest.raises(TimeoutError):
            handshake(secure(ours, secured().current()), seconds=0.01)

        assert theirs.recv(64) == b""


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (None, set()),
        ({}, set()),
        ({"subject": ((("organizationName", "H"),), (("commonName", "CT1"),))}, {"CT1"}),
        ({"subject": ((("commonName", "A"), ("commonName", "B")),)}, {"A", "B"}),
        ({"subjectAltName": (("DNS", "a.test"), ("IP Address", "10.0.0.1"), ("email", "x@y"), ("URI", "u"))}, {"a.test"}),
        ({"subject": ((("commonName", ""),),)}, set()),
    ],
)
def test_the_names_of_a_certificate_are_its_common_name_and_its_dns_names(certificate, expected) -> None:
    assert names(certificate) == expected


def problems(secured: Callable[..., ServerContext], **changed: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        secured(**changed)
    return list(raised.value.problems)


def test_an_encrypted_key_is_told_and_nobody_is_asked_for_its_passphrase(secured, server, tmp_path) -> None:
    encrypted = tmp_path / "encrypted"
    arguments = ["openssl", "ec", "-in", server.key, "-aes128", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(arguments, check=True, capture_output=True, timeout=PATIENCE)

    (found,) = problems(secured, key=encrypted)

    assert found.startswith(f"[tls] key: {tmp_path}/key: expected the unencrypted private key of the certificate")


def test_the_key_of_another_certificate_is_told(secured, ct1, tmp_path) -> None:
    (found,) = problems(secured, key=ct1.key)

    assert found.startswith(f"[tls] key: {tmp_path}/key: expected the unencrypted private key of the certificate")


def test_files_that_hold_something_else_are_each_told(secured, server, authority, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.touch()

    found = problems(secured, certificate=server.key, authorities=server.certificate, crl=empty)

    expected = (
        "certificate: {}: expected a certificate in PEM",
        "authorities: {}: expected certificates of certificate authorities in PEM",
        "crl: {}: expected a certificate revocation list in PEM",
    )
    assert len(found) == 3
    for problem, text in zip(found, expected, strict=True):
        assert problem.startswith(f"[tls] {text.format(tmp_path / text.split(':')[0])}")


def test_an_authority_is_no_revocation_list(secured, authority) -> None:
    (found,) = problems(secured, crl=authority.certificate)

    assert "expected a certificate revocation list" in found


def test_files_that_are_missing_are_each_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        ServerContext(
            certificate=tmp_path / "c", key=tmp_path / "k", authorities=tmp_path / "a", crl=tmp_path / "r", minimum_version="1.2"
        )

    assert list(raised.value.problems) == [
        f"[tls] certificate: {tmp_path}/c: cannot be read: No such file or directory",
        f"[tls] key: {tmp_path}/k: cannot be read: No such file or directory",
        f"[tls] authorities: {tmp_path}/a: cannot be read: No such file or directory",
        f"[tls] crl: {tmp_path}/r: cannot be read: No such file or directory",
    ]
