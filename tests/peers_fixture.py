"""Remote systems for tests: Orthanc with DICOMweb, DCMTK storescp, and small scripted ones. Each ends with its `with` block.

Orthanc and storescp bind DICOM to every address and cannot be told otherwise; Orthanc is told to answer 127.0.0.1 only.
"""

import hashlib
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.filereader import read_preamble
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from gateway.peers import load_protocols, make_peer
from tests.ports import free_port
from tests.scp_fixture import ScriptedScp, add_contexts
from tests.synthetic import ct_series, part10

PROTOCOLS = load_protocols()
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    dicom_port: int
    url: str
    ae_title: str = "ORTHANC"

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as response:
            return response.read()

    def file(self, sop_instance_uid: str) -> bytes:
        """The PS3.10 file that Orthanc holds."""
        found = self.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}})
        assert len(found) == 1, f"expected one instance, found {len(found)}"
        return self.get(f"/instances/{found[0]}/file")

    def clear(self) -> None:
        for patient in json.loads(self.get("/patients")):
            request = urllib.request.Request(f"{self.url}/patients/{patient}", method="DELETE")
            with urllib.request.urlopen(request, timeout=20):
                pass

    def post_file(self, content: bytes) -> None:
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/instances", data=content), timeout=20):
            pass

    def post(self, path: str, body: object) -> list[str]:
        request = urllib.request.Request(f"{self.url}{path}", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)


@contextmanager
def running_orthanc(folder: Path, *, ports: tuple[int, int] | None = None, **configuration: object):
    """`ports` are those of DICOM and HTTP, for one that is killed and started again: its folder and they stay the same."""
    program = shutil.which("Orthanc")
    if program is None or not DICOMWEB_PLUGIN.exists():
        pytest.skip("needs the Debian packages orthanc and orthanc-dicomweb")
    dicom_port, http_port = ports or (free_port(), free_port())
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {"gateway": ["AIGATEWAY", "127.0.0.1", 11112]},
        "Plugins": [str(DICOMWEB_PLUGIN)],
        **configuration,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with _running([program, str(path)], folder / "orthanc.log", http_port, dicom_port):
        yield Orthanc(dicom_port, f"http://127.0.0.1:{http_port}")


@contextmanager
def running_storescp(folder: Path, *options: str):
    """DCMTK's receiver, writing what it reads bit by bit into `folder`; yields its port."""
    program = shutil.which("storescp")
    if program is None:
        pytest.skip("needs the Debian package dcmtk")
    port = free_port()
    log = folder.with_name(f"{folder.name}.log")
    with _running([program, "+B", "-pdu", "131072", "--output-directory", str(folder), *options, str(port)], log, port):
        yield port


@contextmanager
def running_dcmqrscp(folder: Path, *, moves_to: Mapping[str, int] = {}):
    """DCMTK's archive, which stores and is queried; yields its port. Its AE title is DCMQR, `moves_to` those of others, with ports."""
    program = shutil.which("dcmqrscp")
    if program is None:
        pytest.skip("needs the Debian package dcmtk")
    port, area, settings = free_port(), folder / "area", folder / "dcmqrscp.cfg"
    area.mkdir()
    hosts = "".join(f"host{port} = ({title}, 127.0.0.1, {port})\n" for title, port in moves_to.items())
    settings.write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
{hosts}HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMQR {area} RW (100, 1024mb) ANY
AETable END
"""
    )
    with _running([program, "--config", str(settings), str(port)], folder / "dcmqrscp.log", port):
        yield port


@contextmanager
def running_scp(
    *statuses: int,
    contexts=None,
    require_calling=(),
    maximum_length: int = 16382,
    dimse_timeout: float = 30,
    finds=True,
    commits=True,
):
    """A ScriptedScp; without `finds` or `commits` it does not accept the presentation context."""
    scp = ScriptedScp(list(statuses))
    ae = AE("SCP")
    ae.maximum_pdu_size = maximum_length
    ae.dimse_timeout = dimse_timeout
    ae.require_calling_aet = list(require_calling)
    ae.supported_contexts = AllStoragePresentationContexts if contexts is None else contexts
    ae.add_supported_context(Verification)
    add_contexts(ae, finds=finds, commits=commits)
    with ae.make_server(("127.0.0.1", 0), evt_handlers=scp.handlers, server_class=ThreadedAssociationServer) as server:
        ae._servers.append(server)  # as start_server does, which polls for its end only every half second
        scp.port = server.socket.getsockname()[1]
        yield from _served(server, scp)
    for thread in scp.reporting:
        thread.join()


@contextmanager
def running_tcp(talk):
    """A server that hands each connection's socket to `talk`; yields its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                talk(self.request)

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        yield from _served(server, server.server_address[1])


@contextmanager
def running_http(*answers: tuple[int, dict[str, str], bytes], certificate: Path | None = None, port: int = 0):
    """An HTTP server with these answers, one after another; yields its url and the requests (headers, body).

    `certificate` is a PEM file of a certificate and its key, for HTTPS.
    """
    left, requests = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((self.headers, body))
            status, headers, content = left.pop(0)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        yield from _served(server, (f"{scheme}://127.0.0.1:{server.server_address[1]}", requests))


def self_signed(path: Path) -> Path:
    """A certificate of 127.0.0.1 and its key, as one PEM file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", path.with_suffix(".key"), "-out", path], check=True, capture_output=True)
    with path.open("ab") as both:
        both.write(path.with_suffix(".key").read_bytes())
    return path


def silent(peer):
    peer.settimeout(10)
    while peer.recv(65536):
        pass


def closes(peer):
    peer.recv(8)


def stored(folder: Path, datasets) -> list[Path]:
    """Each data set as a PS3.10 file in `folder`."""
    paths = [folder / f"{n}.stored" for n in range(len(datasets))]
    for path, ds in zip(paths, datasets, strict=True):
        path.write_bytes(part10(ds))
    return paths


def data_set_sha256(file: bytes | Path) -> str:
    """SHA-256 of a PS3.10 file's bytes behind its file meta."""
    return hashlib.sha256(data_set(file)).hexdigest()


def data_set(file: bytes | Path) -> bytes:
    content = file if isinstance(file, bytes) else file.read_bytes()
    read_preamble(BytesIO(content), force=False)
    at, end = 132, len(content)
    while at < end and content[at : at + 2] == b"\x02\x00":
        long = content[at + 4 : at + 6] in {b"OB", b"UN", b"OW", b"SQ", b"UT"}
        length = int.from_bytes(content[at + 8 : at + 12] if long else content[at + 6 : at + 8], "little")
        at += (12 if long else 8) + length
    return content[at:]


def _served(server, value):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield value
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def _running(command: list[str], log: Path, *ports: int):
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            for port in ports:
                _wait_for(port, process)
            yield process
        finally:
            process.kill()  # its folder goes with the test, and Orthanc takes three seconds to say goodbye


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args[0]} ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args[0]} does not listen")


@pytest.fixture
def instances(tmp_path):
    """Paths of four small stored instances of one series."""
    return stored(tmp_path, ct_series(4, 32, 32))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def dimse(port, **settings):
    table = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": port, "ae_title": "ORTHANC", "timeout_seconds": 20}
    return make_peer({**table, **settings}, protocols=PROTOCOLS)
