"""DICOM TLS at the listener (PS3.15 B.12; standards 4.1, 5.4 F63): whose certificate comes in, and who is turned away how."""

import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE

from gateway.doors.policy import Caller, Policy
from gateway.machine.tls import ServerContext
from tests.certificates import Authority, Issued, client_context
from tests.gate_fixture import Gate, open_gate, wait
from tests.peers_fixture import stored
from tests.scanner_fixture import AC, RJ, UNKNOWN_CALLING, Scanner, c_store, encoded
from tests.synthetic import ct_series

GOOD, OTHER = ct_series(2, 16, 16)


@dataclass
class Hospital:
    """An authority, and the files of a gateway that trusts it."""

    authority: Authority
    server: Issued
    ct1: Issued

    def context(self) -> Callable[[], ssl.SSLContext]:
        """As doorway.py has it."""
        return ServerContext(
            certificate=self.server.certificate,
            key=self.server.key,
            authorities=self.authority.certificate,
            minimum_version="1.2",
        ).current

    def client(self, issued: Issued | None = None) -> ssl.SSLContext:
        return client_context(self.authority, issued or self.ct1)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    authority = Authority(tmp_path_factory.mktemp("tls") / "ca")
    return Hospital(authority, authority.issue("gateway", hosts=("localhost",)), authority.issue("CT1"))


@contextmanager
def secure_gate(folder: Path, hospital: Hospital, **settings: Any) -> Iterator[Gate]:
    with open_gate(folder, context=hospital.context(), **settings) as gate:
        yield gate


@pytest.fixture
def gate(tmp_path: Path, hospital: Hospital) -> Iterator[Gate]:
    with secure_gate(tmp_path, hospital, maximum_associations=1) as gate:
        yield gate


def stores(gate: Gate, context: ssl.SSLContext) -> bool:
    """Over an association of its own."""
    with Scanner(gate.port, context) as scanner:
        return scanner.associate().kind == AC and scanner.store(GOOD) == 0x0000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_pynetdicom_sends_over_tls_is_kept(gate: Gate, hospital: Hospital, version: ssl.TLSVersion) -> None:
    context = hospital.client()
    context.minimum_version = context.maximum_version = version
    ae = AE("CT1")
    ae.add_requested_context(GOOD.SOPClassUID, GOOD.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", gate.port, ae_title="AIGATEWAY", tls_args=(context, "localhost"))

    assert association.send_c_store(GOOD).Status == 0x0000

    association.release()
    assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


def test_what_dcmtk_sends_over_tls_is_kept(gate: Gate, hospital: Hospital, tmp_path: Path) -> None:
    if shutil.which("storescu") is None:
        pytest.skip("needs the Debian package dcmtk")
    (file,) = stored(tmp_path, [GOOD])
    secured = ("+tls", hospital.ct1.key, hospital.ct1.certificate, "+cf", hospital.authority.certificate)

    done = subprocess.run(
        ["storescu", "-xe", *secured, "-aet", "CT1", "-aec", "AIGATEWAY", "127.0.0.1", str(gate.port), file],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"TCP_NODELAY": "1"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert list(gate.held()) == [GOOD.SOPInstanceUID]


# --- Who is not let in (F63) ---


def without_certificate(hospital: Hospital, folder: Path) -> ssl.SSLContext:
    return client_context(hospital.authority)


def of_another_authority(hospital: Hospital, folder: Path) -> ssl.SSLContext:
    return hospital.client(Authority(folder / "another").issue("CT1"))


def expired(hospital: Hospital, folder: Path) -> ssl.SSLContext:
    return hospital.client(hospital.authority.issue("CT1", expired=True))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (without_certificate, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        (of_another_authority, "expected a certificate that holds: unable to get local issuer certificate"),
        (expired, "expected a certificate that holds: certificate has expired"),
    ],
)
def test_who_shows_no_good_certificate_is_turned_away_and_the_reason_is_audited(
    gate: Gate, hospital: Hospital, tmp_path: Path, made: Any, reason: str
) -> None:
    with pytest.raises(ssl.SSLError), Scanner(gate.port, made(hospital, tmp_path)) as scanner:
        scanner.socket.sendall(b"")
        scanner.socket.recv(1)  # in TLS 1.3 the client hears of it only now

    wait(gate.turned_away)
    (turned_away,) = gate.turned_away()
    assert reason in turned_away.reason
    assert turned_away.origin.address == "127.0.0.1"
    wait(gate.is_empty)
    assert stores(gate, hospital.client())


def test_who_speaks_no_tls_is_turned_away(gate: Gate, hospital: Hospital) -> None:
    with Scanner(gate.port) as scanner:
        assert scanner.associate().kind != AC

    wait(gate.turned_away)
    wait(gate.is_empty)
    assert stores(gate, hospital.client())


def test_a_certificate_counts_for_its_own_ae_titles_only(tmp_path: Path, hospital: Hospital) -> None:
    callers = tuple(
        Caller(name, calling_ae_title=frozenset({name}), certificate_names=frozenset({name})) for name in ("CT1", "CT2")
    )  # fmt: skip
    with secure_gate(tmp_path, hospital, policy=Policy("AIGATEWAY", callers)) as gate:
        with Scanner(gate.port, hospital.client()) as scanner:
            answer = scanner.associate(calling=b"CT2")
            assert (answer.kind, tuple(answer.data[1:])) == (RJ, UNKNOWN_CALLING)
        assert stores(gate, hospital.client())

        (turned_away,) = gate.turned_away()
        assert (turned_away.origin.calling_ae_title, turned_away.reason) == ("CT2", "expected a certificate name of caller CT2")


def test_a_caller_that_must_show_a_certificate_is_rejected_on_the_port_without_tls(tmp_path: Path) -> None:
    caller = Caller("CT1", certificate_names=frozenset({"CT1"}))
    with open_gate(tmp_path, policy=Policy("AIGATEWAY", (caller,))) as gate, Scanner(gate.port) as scanner:
        assert tuple(scanner.associate().data[1:]) == UNKNOWN_CALLING


# --- Who is slow or silent (F24) ---


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["silent", "half a hello"])
def test_who_does_not_end_its_handshake_holds_nobody_up_and_is_cut_off(
    tmp_path: Path, hospital: Hospital, beginning: bytes
) -> None:
    with secure_gate(tmp_path, hospital, association_seconds=3.0) as gate, Scanner(gate.port) as silent:
        silent.send(beginning)
        wait(lambda: len(gate.limits._half_open) == 1)

        assert stores(gate, hospital.client())
        assert not gate.turned_away()
        assert silent.read().kind == -1
        wait(gate.is_empty)
        assert [one.reason for one in gate.turned_away()] == ["expected a TLS handshake in time"]


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["silent", "half a hello"])
def test_who_does_not_end_its_handshake_makes_room_for_another(tmp_path: Path, hospital: Hospital, beginning: bytes) -> None:
    with secure_gate(tmp_path, hospital, maximum_half_open=1) as gate, Scanner(gate.port) as silent:
        silent.send(beginning)
        wait(lambda: len(gate.limits._half_open) == 1)

        assert stores(gate, hospital.client())
        assert silent.read().kind == -1
        wait(gate.is_empty)
        assert [one.reason for one in gate.turned_away()] == ["expected an association before more connections came"]


def test_a_handshake_that_comes_byte_by_byte_is_cut_off_at_its_deadline(tmp_path: Path, hospital: Hospital) -> None:
    with secure_gate(tmp_path, hospital, association_seconds=1.5) as gate, Scanner(gate.port) as slow:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200):
            slow.send(bytes((byte,)))
            time.sleep(0.05)
            if gate.turned_away():
                break
        assert [one.reason for one in gate.turned_away()] == ["expected a TLS handshake in time"]

        wait(gate.is_empty)
        assert stores(gate, hospital.client())


def test_a_connection_that_is_reset_in_the_handshake_leaves_nothing(gate: Gate, hospital: Hospital) -> None:
    scanner = Scanner(gate.port)
    wait(lambda: len(gate.limits._half_open) == 1)
    scanner.reset()

    wait(gate.is_empty)
    assert stores(gate, hospital.client())


def test_a_data_set_that_is_cut_over_tls_leaves_nothing(gate: Gate, hospital: Hospital) -> None:
    with Scanner(gate.port, hospital.client()) as scanner:
        scanner.associate()
        scanner.send(c_store(OTHER)[:1000])

    wait(gate.is_empty)
    assert stores(gate, hospital.client())
    assert gate.held() == {GOOD.SOPInstanceUID: encoded(GOOD)}


# --- While it runs ---


def test_new_certificates_are_shown_to_who_comes_next_and_open_associations_go_on(tmp_path: Path, hospital: Hospital) -> None:
    files = [tmp_path / "server.pem", tmp_path / "server.key"]
    place(hospital.server, files)
    renewed = hospital.authority.issue("gateway", hosts=("localhost",))
    moved = Hospital(hospital.authority, Issued(*files), hospital.ct1)
    with secure_gate(tmp_path, moved) as gate, Scanner(gate.port, hospital.client()) as before:
        assert before.associate().kind == AC
        assert shown(before) == certificate(hospital.server)

        place(renewed, files)

        with Scanner(gate.port, hospital.client()) as after:
            assert shown(after) == certificate(renewed)
            assert after.associate().kind == AC
            assert after.store(OTHER) == 0x0000
        assert before.store(GOOD) == 0x0000
        assert set(gate.held()) == {GOOD.SOPInstanceUID, OTHER.SOPInstanceUID}


def place(issued: Issued, files: list[Path]) -> None:
    for source, file in zip((issued.certificate, issued.key), files, strict=True):
        shutil.copy(source, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)


def certificate(issued: Issued) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.certificate.read_text())


def shown(scanner: Scanner) -> bytes | None:
    assert isinstance(scanner.socket, ssl.SSLSocket)
    return scanner.socket.getpeercert(binary_form=True)


def test_a_listener_that_closes_cuts_off_who_stays(gate: Gate, hospital: Hospital) -> None:
    with Scanner(gate.port, hospital.client()) as scanner:
        assert scanner.associate().kind == AC

        gate.listener.close()

        assert not [thread for thread in threading.enumerate() if thread.name == "association"]
        assert scanner.read().kind == -1
