"""A STOW-RS server with a door behind it, requests for it by the byte, and what became of them."""

import http.client
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path

import httpx2
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from gateway.doors import visits
from gateway.doors.door import Door
from gateway.doors.entry import promise
from gateway.doors.journal import entries, segments
from gateway.doors.policy import Caller, Policy
from gateway.ingest import Terms
from gateway.ingest.dicomweb import Limits, Server, Storage
from tests.peers_fixture import data_set
from tests.synthetic import ct_series, part10

SERIES = ct_series(4, 32, 32)
FILES = [part10(ds) for ds in SERIES]
UIDS = [str(ds.SOPInstanceUID) for ds in SERIES]
STUDY = str(SERIES[0].StudyInstanceUID)
TYPE = 'multipart/related; type="application/dicom"; boundary=b0'
HEAD = b"Content-Type: application/dicom\r\n\r\n"
MEGABYTE = 1_000_000


@dataclass
class Web:
    """A server with a door behind it; the journal tells what it let in."""

    server: Server
    door: Door
    folder: Path

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}/dicom-web"

    def entries(self, kind):
        found = [promise(one.record) for segment in segments(self.folder) for one in entries(segment, 0)]
        return sorted((one for one in found if isinstance(one, kind)), key=lambda one: one.at)

    def held(self):
        """The bytes of each kept data set by the SOP Instance UID that the request named."""
        return {uid: data_set(file) for uid, file in self.files().items()}

    def files(self):
        """Each kept PS3.10 file by the SOP Instance UID that the request named."""
        return {
            one.record["incoming"]["sop_instance_uid"]: one.segment.read_bytes()[one.data_at : one.data_at + one.data_size]
            for segment in segments(self.folder)
            for one in entries(segment, 0)
            if one.record["kind"] == "kept"
        }

    def post(self, content, *, path="/studies", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx2.Client(trust_env=False, timeout=60, verify=False) as client:  # no https, and certificates take long to load
            return client.post(f"{self.url}{path}", content=content, headers={"Content-Type": TYPE, **named})

    def wait(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    def still_stores(self):
        """A good instance after a bad one."""
        return self.post(body(FILES[3])).status_code == 200 and self.held()[UIDS[3]] == data_set(FILES[3])


@contextmanager
def serving(folder, *, callers=(), admit=None, tls=None, door_of=Door, keep_free_bytes=0, **limits):
    folder.mkdir(exist_ok=True)
    policy = Policy("AIGATEWAY", callers)
    door = door_of(folder, clock=lambda: datetime.now(UTC), keep_free_bytes=keep_free_bytes)
    syntaxes, largest = [ExplicitVRLittleEndian, ImplicitVRLittleEndian], limits.pop("maximum_instance_bytes", MEGABYTE)
    storage = Storage(
        admit=admit or policy.admit_request,
        counted=visits.Limits(policy, maximum_associations=1, maximum_per_address=1, maximum_half_open=1),
        terms=Terms([CTImageStorage], syntaxes, largest),
        limits=Limits(**{"grace_seconds": 1, **limits}),
    )
    server = Server(socket.create_server(("127.0.0.1", 0)), storage, door=door, tls=tls)
    try:
        yield Web(server, door, folder)
    finally:
        server.close()
        door.close()


@pytest.fixture
def web(tmp_path):
    with serving(tmp_path / "door") as running:
        yield running


def near(name, address="127.0.0.1", **table):
    return Caller(name, networks=(ip_network(address),), **table)


def body(*files, head=HEAD):
    return b"".join(b"--b0\r\n" + head + file + b"\r\n" for file in files) + b"--b0--\r\n"


def changed(n=0, **attributes):
    """An instance whose data set differs from its file meta."""
    ds = dcmread(BytesIO(FILES[n]))
    meta = ds.file_meta
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    content = BytesIO()
    ds.file_meta = meta
    ds.save_as(content)
    return content.getvalue()


def sequence(response, keyword):
    """Of the answer: SOP Instance UID and FailureReason of each item."""
    ds = Dataset.from_json(response.text)
    return [(item.get("ReferencedSOPInstanceUID"), item.get("FailureReason")) for item in ds.get(keyword, [])]


def answered(connection):
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        response.read()
    except (http.client.HTTPException, ConnectionError):
        return None
    return response.status


class Answers:
    """Answers that follow one another on a connection: http.client reads ahead, so they need one buffer."""

    def __init__(self, connection):
        self._file = connection.makefile("rb")
        self.read, self.readline, self.readinto = self._file.read, self._file.readline, self._file.readinto

    def makefile(self, *_):
        return self

    def flush(self):
        pass

    close = flush


def request(content, *headers, method="POST", path="/dicom-web/studies"):
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def posted(content, *headers):
    return request(content, f"Content-Type: {TYPE}", f"Content-Length: {len(content)}", *headers)


def send_while_it_goes(connection, piece, times):
    try:
        for _ in range(times):
            connection.sendall(piece)
    except OSError:
        pass
