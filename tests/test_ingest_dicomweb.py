"""The STOW-RS server (PS3.18 10.5) by real clients and by bytes on a socket: what is stored is durable, what is not is told why."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx2
import psutil
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from structlog.testing import capture_logs

from gateway.doors import visits
from gateway.doors.door import Door
from gateway.doors.entry import Alarming, Declined, Ended, Kept, TurnedAway, promise
from gateway.doors.journal import entries, segments
from gateway.doors.policy import ANYONE, Caller, Policy, Rejection
from gateway.errors import OutOfResources
from gateway.ingest.dicomweb import Limits, Server
from gateway.peers import Sent, load_protocols, make_peer
from tests.certificates import Authority, client_context
from tests.peers_fixture import data_set, stored
from tests.synthetic import ct_series, part10

PROTOCOLS = load_protocols()
SERIES = ct_series(4, 32, 32)
FILES = [part10(ds) for ds in SERIES]
UIDS = [str(ds.SOPInstanceUID) for ds in SERIES]
STUDY = str(SERIES[0].StudyInstanceUID)
TYPE = 'multipart/related; type="application/dicom"; boundary=b0'
HEAD = b"Content-Type: application/dicom\r\n\r\n"
JSON, XML = "application/dicom+json", "application/dicom+xml"
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
            if one.record["kind"] == Kept.kind
        }

    def post(self, content, *, path="/studies", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx2.Client(trust_env=False, timeout=60, verify=False) as client:  # no https, and certificates take long to load
            return client.post(f"{self.url}{path}", content=content, headers={"Content-Type": TYPE, **named})

    def wait(self, condition):
        end = time.monotonic() + 10
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
    server = Server(
        socket.create_server(("127.0.0.1", 0)),
        door=door,
        admit=admit or policy.admit_request,
        counted=visits.Limits(policy, maximum_associations=1, maximum_per_address=1, maximum_half_open=1),
        tls=tls,
        sop_classes=[CTImageStorage],
        transfer_syntaxes=[ExplicitVRLittleEndian, ImplicitVRLittleEndian],
        limits=Limits(**{"maximum_instance_bytes": MEGABYTE, "grace_seconds": 1, **limits}),
    )
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


def meta_changed(**attributes):
    """An instance with another file meta before the same data set."""
    meta = dcmread(BytesIO(FILES[0])).file_meta
    for keyword, value in attributes.items():
        setattr(meta, keyword, value)
    content = DicomBytesIO()
    write_file_meta_info(content, meta)
    return FILES[0][:132] + content.getvalue() + data_set(FILES[0])


def sequence(response, keyword):
    """Of the answer: SOP Instance UID and FailureReason of each item."""
    ds = Dataset.from_json(response.text)
    return [(item.get("ReferencedSOPInstanceUID"), item.get("FailureReason")) for item in ds.get(keyword, [])]


def raw(web, content):
    """The status of what is answered to these bytes, None where the connection ends without an answer."""
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        with suppress(OSError):
            connection.sendall(content)
        return answered(connection)


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


# What is stored


def test_an_instance_of_our_own_peer_is_kept_byte_for_byte(web, tmp_path):
    peer = make_peer({"name": "web", "protocol": "dicomweb", "url": web.url, "timeout_seconds": 20}, protocols=PROTOCOLS)

    outcomes = list(peer.send_many(stored(tmp_path, SERIES)))

    assert [outcome for _, outcome in outcomes] == [Sent(0x0000, "stored")] * 4
    assert web.held() == {uid: data_set(file) for uid, file in zip(UIDS, FILES, strict=True)}


@pytest.mark.parametrize("preamble", [b"MZ", b"\x7fELF", b"#!/bin/sh", b"<html>"])
def test_a_preamble_that_could_be_a_program_is_not_kept_and_somebody_is_told(web, preamble):
    assert web.post(body(preamble.ljust(128, b"\0") + FILES[0][128:])).status_code == 200

    assert web.files()[UIDS[0]][:132] == bytes(128) + b"DICM"
    assert [one.sop_instance_uid for one in web.entries(Alarming)] == [UIDS[0]]


@pytest.mark.parametrize("preamble", [b"", b"II*\0rest of a TIFF header"])
def test_a_preamble_that_is_empty_or_of_a_tiff_file_alarms_nobody(web, preamble):
    assert web.post(body(preamble.ljust(128, b"\0") + FILES[0][128:])).status_code == 200

    assert web.entries(Alarming) == []


def test_dicomweb_client_is_told_that_all_its_instances_are_stored(web):
    answer = DICOMwebClient(web.url).store_instances([dcmread(BytesIO(file)) for file in FILES])

    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == UIDS
    assert [item.ReferencedSOPClassUID for item in answer.ReferencedSOPSequence] == [CTImageStorage] * 4
    assert set(web.held()) == set(UIDS)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("framing", ["Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_curl_stores_with_a_length_and_in_chunks(web, tmp_path, framing):
    (tmp_path / "body").write_bytes(body(*FILES))

    command = ["curl", "-sS", "--max-time", "30", "-H", f"Content-Type: {TYPE}", "-H", framing, "-H", f"Accept: {JSON}"]
    done = subprocess.run(
        [*command, "--data-binary", f"@{tmp_path / 'body'}", f"{web.url}/studies"], capture_output=True, check=True
    )

    assert len(json.loads(done.stdout)["00081199"]["Value"]) == 4
    assert set(web.held()) == set(UIDS)


def test_a_request_is_one_association_with_the_address_that_it_came_from(web):
    web.post(body(*FILES[:2]))
    web.post(body(FILES[2]))

    web.wait(lambda: len(web.entries(Ended)) == 2)
    kept, ended = web.entries(Kept), web.entries(Ended)
    assert [one.origin for one in ended] == [kept[0].origin, kept[2].origin]
    assert [one.broken for one in ended] == [False, False]
    assert kept[0].origin == kept[1].origin != kept[2].origin
    assert (kept[0].origin.ingest, kept[0].origin.address) == ("dicomweb", "127.0.0.1")


def test_an_address_is_not_what_a_header_says(web):
    web.post(body(FILES[0]), X_Forwarded_For="192.0.2.1", Forwarded="for=192.0.2.1")

    assert [one.origin.address for one in web.entries(Kept)] == ["127.0.0.1"]


def test_many_requests_go_over_one_connection(web):
    connection = http.client.HTTPConnection("127.0.0.1", web.server.port, timeout=30)
    sockets = set()
    for n in (0, 1, 2):
        connection.request("POST", "/dicom-web/studies", body(FILES[n]), {"Content-Type": TYPE})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        sockets.add(connection.sock)
    connection.close()

    assert len(sockets) == 1
    assert set(web.held()) == set(UIDS[:3])


def test_requests_that_come_before_the_answer_are_answered_in_turn(web):
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        connection.sendall(posted(body(FILES[0])) + posted(body(b"rubbish")) + posted(body(FILES[1])))
        answers = Answers(connection)
        assert [answered(answers) for _ in range(3)] == [200, 409, 200]

    assert set(web.held()) == set(UIDS[:2])


def test_requests_at_the_same_time_are_all_stored(web):
    series = ct_series(48, 32, 32, seed=7)
    groups = [[part10(ds) for ds in series[at : at + 6]] for at in range(0, 48, 6)]
    statuses = []
    threads = [threading.Thread(target=lambda g=g: statuses.append(web.post(body(*g)).status_code)) for g in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [200] * 8
    assert web.held() == {str(ds.SOPInstanceUID): data_set(part10(ds)) for ds in series}


def test_an_instance_that_comes_in_pieces_is_kept_byte_for_byte(web):
    whole = posted(body(FILES[0]))
    edges = [0, *range(150, 900, 50), len(whole)]
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        for begin, end in pairwise(edges):
            connection.sendall(whole[begin:end])
            time.sleep(0.02)
        assert answered(connection) == 200

    assert web.held() == {UIDS[0]: data_set(FILES[0])}


@pytest.mark.parametrize("preamble", [b"MZ", b"\x7fELF", b"#!/bin/sh\n", b"<html><script>", b"II*\0"])
def test_a_foreign_preamble_is_accepted_and_not_kept(web, preamble):
    assert web.post(body(preamble.ljust(128, b"x") + FILES[0][128:])).status_code == 200

    assert web.files()[UIDS[0]][:132] == bytes(128) + b"DICM"
    assert web.held()[UIDS[0]] == data_set(FILES[0])


def test_a_boundary_in_the_pixels_that_no_line_begins_with_is_data(web):
    file = changed(PixelData=(b"--b0\r\n--b\r\n-b0\n--b0--" * 200)[:2048])

    assert web.post(body(file)).status_code == 200
    assert web.held()[UIDS[0]] == data_set(file)


# What is not, and what else is told


def test_good_instances_are_stored_beside_bad_ones_and_each_is_told(web):
    answer = web.post(body(FILES[0], b"rubbish", FILES[1][:-100], FILES[2]))

    assert answer.status_code == 202
    assert sequence(answer, "ReferencedSOPSequence") == [(UIDS[0], None), (UIDS[2], None)]
    assert sequence(answer, "FailedSOPSequence") == [(UIDS[1], 0xC000)]
    assert sequence(answer, "OtherFailuresSequence") == [(None, 0xC000)]
    assert set(web.held()) == {UIDS[0], UIDS[2]}
    assert [one.status for one in web.entries(Declined)] == [0xC000, 0xC000]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (FILES[0][:-1], 0xC000),
        (FILES[0][:400], 0xC000),
        (meta_changed(TransferSyntaxUID=DeflatedExplicitVRLittleEndian), 0xC122),
        (meta_changed(TransferSyntaxUID="1.2.840.10008.1.2.2"), 0xC122),
        (meta_changed(TransferSyntaxUID=ImplicitVRLittleEndian), 0xC000),
        (meta_changed(MediaStorageSOPClassUID="1.2.840.10008.1.1"), 0x0122),
    ],
    ids=["truncated", "nearly all gone", "deflated", "big endian", "implicit by its meta", "no storage class"],
)
def test_an_instance_that_is_not_taken_is_answered_with_its_reason(web, file, reason):
    answer = web.post(body(file))

    assert answer.status_code == 409
    assert sequence(answer, "FailedSOPSequence") == [(UIDS[0], reason)]
    assert [one.status for one in web.entries(Declined)] == [reason]
    assert web.files() == {}
    assert web.still_stores()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SOPInstanceUID": "1.2.3"}, 0x0117),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
        ({"StudyInstanceUID": ""}, 0xC000),
    ],
)
def test_a_file_meta_that_says_other_than_its_data_set_is_refused(web, attributes, reason):
    answer = web.post(body(changed(**attributes)))

    assert answer.status_code == 409
    assert sequence(answer, "FailedSOPSequence") == [(UIDS[0], reason)]
    assert web.still_stores()


META_END = FILES[0].index(data_set(FILES[0])[:20])


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"x",
        FILES[0][:130],
        FILES[0][128:],
        FILES[0][132:],
        data_set(FILES[0]),
        FILES[0][:128] + b"dicm" + FILES[0][132:],
        FILES[0][:132] + data_set(FILES[0]),
        FILES[0][:META_END],
        FILES[0][:132] + b"\2\0\2\0??\4\x001234" + FILES[0][132:],
        FILES[0][:132] + b"\2\0\1\0OB\0\0\xff\xff\xff\x7f" + bytes(200_000),
        FILES[0][:132] + b"\2\0\1\0OB\0\0\0\x40\0\0" + (b"\2\0\1\0OB\0\0\0\x40\0\0" + bytes(0x4000)) * 40,
        FILES[0].replace(UIDS[0].encode(), b"../../etc/passwd".ljust(len(UIDS[0])), 1),
    ],
)  # fmt: skip
def test_a_part_that_is_no_ps3_10_file_is_refused_without_a_name(web, file):
    answer = web.post(body(file))

    assert answer.status_code == 409
    assert sequence(answer, "OtherFailuresSequence") == [(None, 0xC000)]
    assert sequence(answer, "FailedSOPSequence") == []
    assert web.files() == {}
    assert web.still_stores()


def test_a_study_in_the_path_is_the_only_one_that_is_taken(web):
    other = part10(ct_series(1, 32, 32, seed=9)[0])

    mixed, none = (web.post(body(*files), path=f"/studies/{STUDY}") for files in ([FILES[0], other], [other]))

    assert (mixed.status_code, none.status_code) == (202, 409)
    assert sequence(mixed, "ReferencedSOPSequence") == [(UIDS[0], None)]
    assert [reason for _, reason in sequence(none, "FailedSOPSequence")] == [0xA901]
    assert set(web.held()) == {UIDS[0]}


def test_the_answer_is_the_store_instances_response_module(web):
    answer = web.post(body(FILES[0], b"rubbish"))

    assert answer.headers["Content-Type"] == JSON
    assert answer.json() == {
        "00081190": {"vr": "UR"},
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": [CTImageStorage]},
                    "00081155": {"vr": "UI", "Value": [UIDS[0]]},
                    "00081190": {"vr": "UR"},
                }
            ],
        },
        "0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}]},
    }


def test_the_answer_is_xml_where_that_is_accepted(web):
    answer = web.post(body(FILES[0], FILES[1][:-1]), Accept=f"{JSON};q=0.2, {XML}")

    model = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    root = ET.fromstring(answer.content)
    told = {
        attribute.get("keyword"): [value.text for value in attribute.iter(f"{model}Value")]
        for attribute in root.findall(f"{model}DicomAttribute")
    }
    assert (answer.headers["Content-Type"], root.tag) == (XML, f"{model}NativeDicomModel")
    assert told == {
        "RetrieveURL": [],
        "FailedSOPSequence": [CTImageStorage, UIDS[1], str(0xC000)],
        "ReferencedSOPSequence": [CTImageStorage, UIDS[0]],
    }


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*;q=0.5, text/html", JSON),
        ("application/json", "application/json"),
        (f"{XML};q=0.9,{JSON};q=0.1", XML),
        (f"{XML}; q=0, */*", JSON),
        ("text/html", None),
        (f"{JSON};q=0", None),
        ("*/*;q=0", None),
        ("image/jpeg, ;;,=", None),
    ],
)
def test_the_client_says_what_it_accepts(web, accept, expected):
    answer = web.post(body(FILES[0]), Accept=accept)

    assert answer.status_code == (200 if expected else 406)
    assert not expected or answer.headers["Content-Type"] == expected
    assert len(web.held()) == (1 if expected else 0)


def test_no_answer_says_what_serves_or_lets_a_browser_guess(web):
    for answer in (web.post(body(FILES[0])), web.post(b"x"), web.post(b"", path="/elsewhere")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers


# Requests that are not taken as a whole


@pytest.mark.parametrize("path", ["/studies/", f"/studies/{STUDY}/"])
def test_a_slash_at_the_end_of_the_path_does_no_harm(web, path):
    assert web.post(body(FILES[0]), path=path).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404), ("/studiesx", 404), ("/instances", 404), (f"/studies/{STUDY}/series", 404), ("/studies/..%2F..%2Fetc", 404),
        ("/studies//", 404), ("/studies/1.02", 400), ("/studies/%3Cscript%3E", 400),
    ],
)  # fmt: skip
def test_a_path_that_we_do_not_serve_is_refused(web, path, status):
    assert web.post(body(FILES[0]), path=path).status_code == status
    assert web.still_stores()


def test_a_large_request_that_is_refused_still_gets_its_answer(web):
    large = bytes(20 * MEGABYTE)

    assert web.post(large, path="/elsewhere").status_code == 404
    assert web.post(large, Content_Encoding="gzip").status_code == 415
    assert web.still_stores()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO"])
def test_another_method_than_post_is_not_allowed(web, method):
    answer = httpx2.request(method, f"{web.url}/studies", trust_env=False)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert web.still_stores()


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/dicom", 415),
        ("multipart/form-data; boundary=b0", 415),
        ("multipart/related; boundary=b0", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b0', 415),
        ('multipart/related; type="application/dicom+xml"; boundary=b0', 415),
        ("application/zip", 415),
        ('multipart/related; type="application/dicom"', 400),
        ('multipart/related; type="application/dicom"; boundary=""', 400),
        (f'multipart/related; type="application/dicom"; boundary={"b" * 101}', 400),
        ('multipart/related; type="application/dicom"; boundary=b0; boundary=b1', 400),
        ("nonsense", 400),
    ],
)
def test_a_media_type_that_we_do_not_take_is_refused_and_told_in_the_trail(web, kind, status):
    assert web.post(body(FILES[0]), Content_Type=kind).status_code == status
    assert [one.reason.split(":")[0] for one in web.entries(TurnedAway)] == [f"HTTP {status}"]
    assert web.held() == {}
    assert web.still_stores()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10_000,
        b'[{"7FE00010": {"vr": "OW", "BulkDataURI": "http://127.0.0.1:%d/steal"}}]',
        b'[{"7FE00010": {"vr": "OW", "BulkDataURI": "file:///etc/passwd"}}]',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "http://127.0.0.1:%d/steal">]><NativeDicomModel>&b;</NativeDicomModel>',
        b'<NativeDicomModel xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="http://127.0.0.1:%d/"/></NativeDicomModel>',
    ],
    ids=["deep", "bulk data at an address", "bulk data in a file", "entity", "include"],
)
def test_metadata_in_json_or_xml_is_refused_and_nothing_is_fetched(web, content):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        content = content.replace(b"%d", str(trap.getsockname()[1]).encode())
        for kind in ("application/dicom+json", "application/dicom+xml"):
            whole = body(content, head=f"Content-Type: {kind}\r\n\r\n".encode())
            assert web.post(whole, Content_Type=f'multipart/related; type="{kind}"; boundary=b0').status_code == 415
            assert web.post(whole).status_code == 415
        with pytest.raises(BlockingIOError):
            trap.accept()

    assert web.held() == {}
    assert web.still_stores()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: text/html\r\n\r\n",
        b"Content-Type: application/dicom\r\nContent-Transfer-Encoding: base64\r\n\r\n",
        b"Content-Type: application/dicom\r\nContent-Encoding: gzip\r\n\r\n",
        b"Content-Type: (\r\n\r\n",
    ],
)
def test_a_part_of_another_type_is_refused_and_the_others_are_stored(web, head):
    assert web.post(body(FILES[0], head=head)).status_code == 415

    answer = web.post(body(FILES[0], head=head).removesuffix(b"--\r\n") + b"\r\n" + body(FILES[1]).removeprefix(b"--b0\r\n"))
    assert answer.status_code == 202
    assert set(web.held()) == {UIDS[1]}


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"--b0--", b"--b1\r\n" + HEAD + FILES[0] + b"\r\n--b1--", b"--b0\n" + HEAD, body(FILES[0], head=b"\0\r\n\r\n")],
)
def test_a_body_that_is_no_multipart_is_refused(web, content):
    assert web.post(content).status_code == 400
    assert web.held() == {}
    assert web.still_stores()


def test_a_body_without_its_final_boundary_is_refused_and_tells_what_it_stored(web):
    answer = web.post(body(FILES[0], FILES[1]).removesuffix(b"--\r\n") + b"\r\n" + HEAD + FILES[2])

    assert answer.status_code == 400
    assert sequence(answer, "ReferencedSOPSequence") == [(UIDS[0], None), (UIDS[1], None)]
    assert set(web.held()) == {UIDS[0], UIDS[1]}
    assert [one.broken for one in web.entries(Ended)] == [True]
    assert web.still_stores()


def test_a_whole_boundary_in_the_pixels_cuts_the_instance_and_it_is_not_stored(web):
    file = changed(PixelData=b"\r\n--b0\r\n\r\n".ljust(2048, b"x"))

    answer = web.post(body(file, FILES[1]))

    assert answer.status_code == 202
    assert set(web.held()) == {UIDS[1]}
    assert web.still_stores()


def test_a_compressed_body_is_refused_unread(web):
    for coding in ("gzip", "deflate", "br", "identity, gzip"):
        assert web.post(bytes(100), Content_Encoding=coding).status_code == 415
    assert web.post(body(FILES[0]), Content_Encoding="identity").status_code == 200


CHUNKED = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "content",
    [
        request(CHUNKED, f"Content-Type: {TYPE}", "Content-Length: 5", "Transfer-Encoding: chunked"),
        request(CHUNKED, f"Content-Type: {TYPE}", "Transfer-Encoding: chunked", "Content-Length: 0"),
        request(b"x", f"Content-Type: {TYPE}", "Content-Length: 1", "Content-Length: 2"),
        request(b"x", f"Content-Type: {TYPE}", "Content-Length: +1"),
        request(b"x", f"Content-Type: {TYPE}", "Content-Length: 0x1"),
        request(b"x", f"Content-Type: {TYPE}", "Content-Length: -1"),
        request(b"x", f"Content-Type: {TYPE}", "Content-Length: " + "9" * 5000),
        request(CHUNKED, f"Content-Type: {TYPE}", "Transfer-Encoding : chunked"),
        request(CHUNKED, f"Content-Type: {TYPE}", "Transfer-Encoding: chunked, identity"),
        request(b"zz\r\n", f"Content-Type: {TYPE}", "Transfer-Encoding: chunked"),
        request(b"1\r\nxx\r\n0\r\n\r\n", f"Content-Type: {TYPE}", "Transfer-Encoding: chunked"),
        request(b"", f"Content-Type: {TYPE}", f"Content-Type: {TYPE}", "Content-Length: 0"),
        request(b"", "no colon"),
        b"POST /dicom-web/studies\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\x01\x00\x00\x00\x00\xcd\x00\x01\x00\x00ANY-SCP\r\n\r\n",
    ],
)  # fmt: skip
def test_a_request_of_doubtful_framing_is_refused_and_its_connection_ends(web, content):
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        connection.sendall(content + posted(body(FILES[0])))
        answers = Answers(connection)
        statuses = [answered(answers), answered(answers)]

    assert statuses[0] in {400, 413, 501}
    assert statuses[1] is None
    assert web.held() == {}
    assert web.still_stores()


def test_a_head_without_end_is_refused(web):
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        send_while_it_goes(connection, b"POST /dicom-web/studies HTTP/1.1\r\nX: " + b"x" * MEGABYTE, 20)
        assert answered(connection) in {400, 431, None}
    assert web.still_stores()


def test_who_is_not_admitted_is_turned_away_before_anything_is_read(tmp_path):
    asked = []

    def admit(address, names):
        asked.append((address, names))
        return Rejection(1, 1, 3, "expected a known caller")

    with serving(tmp_path / "door", admit=admit) as web:
        answer = web.post(body(FILES[0]))

        assert (answer.status_code, answer.text) == (403, "expected a known caller\n")
        assert asked == [("127.0.0.1", None)]
        assert [one.reason for one in web.entries(TurnedAway)] == ["HTTP 403: expected a known caller"]
        assert web.entries(Kept) == web.entries(Ended) == []


def test_a_caller_may_store_what_its_entry_allows_and_no_more(tmp_path):
    with serving(tmp_path / "door", callers=(near("mr", sop_classes=frozenset(("1.2.3",))),)) as web:
        assert web.post(body(FILES[0])).status_code == 409
        assert web.entries(Kept) == []
    with serving(tmp_path / "other", callers=(near("small", maximum_instance_bytes=2000),)) as web:
        assert web.post(body(FILES[0])).status_code in {409, 413}
        assert web.entries(Kept) == []


def test_over_tls_the_names_of_the_certificate_say_who_calls(tmp_path):
    authority, asked = Authority(tmp_path / "ca"), []
    server, ct1 = authority.issue("gateway", hosts=("localhost",)), authority.issue("CT1", hosts=("ct1.example",))
    context = mutual(authority, server)

    with serving(tmp_path / "door", admit=lambda address, names: asked.append(names) or ANYONE, tls=lambda: context) as web:
        url = f"https://127.0.0.1:{web.server.port}/dicom-web/studies"
        with httpx2.Client(verify=client_context(authority, ct1), trust_env=False) as client:
            assert client.post(url, content=body(FILES[0]), headers={"Content-Type": TYPE}).status_code == 200
        with (
            capture_logs() as logs, httpx2.Client(verify=client_context(authority), trust_env=False) as client,
            pytest.raises(httpx2.HTTPError),
        ):  # fmt: skip
            client.post(url, content=body(FILES[1]), headers={"Content-Type": TYPE})

        assert [(one["event"], one["reason"]) for one in logs] == [
            ("handshake.failed", "expected a TLS handshake (PEER_DID_NOT_RETURN_A_CERTIFICATE)")
        ]
        assert asked == [frozenset({"CT1", "ct1.example"})]
        assert set(web.held()) == {UIDS[0]}


def test_each_tls_connection_gets_the_context_of_its_moment(tmp_path):
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    contexts = [mutual(one, one.issue("gateway", hosts=("localhost",))) for one in (old, new)]

    with serving(tmp_path / "door", tls=lambda: contexts.pop(0)) as web:
        url = f"https://127.0.0.1:{web.server.port}/dicom-web/studies"
        for n, authority in enumerate((old, new)):
            with httpx2.Client(verify=client_context(authority, authority.issue("CT1")), trust_env=False) as client:
                assert client.post(url, content=body(FILES[n]), headers={"Content-Type": TYPE}).status_code == 200


def mutual(authority, server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


# Too much, too slow, too many


def test_a_body_that_is_too_large_is_refused_by_its_length_and_by_what_comes(tmp_path):
    with serving(tmp_path / "door", maximum_body_bytes=20_000) as web:
        large = body(*FILES, *FILES, *FILES)
        assert web.post(large).status_code == 413
        assert web.held() == {}

        def slowly():
            yield large[:15_000]
            web.wait(lambda: len(web.entries(Kept)) == 4)
            yield large[15_000:]

        answer = web.post(slowly())
        assert answer.status_code == 413
        assert [uid for uid, _ in sequence(answer, "ReferencedSOPSequence")] == UIDS
        assert web.still_stores()


def test_an_instance_that_is_too_large_is_refused_and_the_others_are_stored(tmp_path):
    with serving(tmp_path / "door", maximum_instance_bytes=10_000) as web:
        large = part10(ct_series(1, 128, 128, seed=3)[0])

        alone, beside = web.post(body(large)), web.post(body(large, FILES[0]))

        assert (alone.status_code, beside.status_code) == (413, 202)
        assert [reason for _, reason in sequence(alone, "FailedSOPSequence")] == [0xC000]
        assert set(web.held()) == {UIDS[0]}


def test_an_absurd_length_is_not_believed(web):
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        connection.sendall(request(b"", f"Content-Type: {TYPE}", "Content-Length: 99999999999999999") + body(FILES[0]))
        web.wait(lambda: len(web.entries(Kept)) == 1)
    web.wait(lambda: len(web.entries(Ended)) == 1)

    assert psutil.Process().memory_info().rss - before < 50 * MEGABYTE
    assert web.still_stores()


def test_a_million_parts_are_refused_at_the_limit_without_being_held(web):
    part = b"--b0\r\n\r\n\r\n"
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=60) as connection:
        connection.sendall(request(b"", f"Content-Type: {TYPE}", f"Content-Length: {len(part) * 1_000_000}"))
        sender = threading.Thread(target=send_while_it_goes, args=(connection, part * 10_000, 100))
        sender.start()
        assert answered(connection) == 413
    sender.join()

    assert len(web.entries(Declined)) == 10_000
    assert psutil.Process().memory_info().rss - before < 100 * MEGABYTE
    assert web.still_stores()


def send_while_it_goes(connection, piece, times):
    try:
        for _ in range(times):
            connection.sendall(piece)
    except OSError:
        pass


def test_memory_stays_flat_while_a_large_instance_comes(tmp_path):
    size = 300 * MEGABYTE
    ds = ct_series(1, 32, 32)[0]
    ds.Rows = ds.Columns = 10_000
    ds.NumberOfFrames = 1
    ds.PixelData = b"12345678"
    file = part10(ds).removesuffix(b"\10\0\0\x0012345678") + size.to_bytes(4, "little")
    ending = b"\r\n--b0--"
    head = request(b"", f"Content-Type: {TYPE}", f"Content-Length: {len(HEAD) + 6 + len(file) + size + len(ending)}")
    piece, most = bytes(MEGABYTE), 0
    process = psutil.Process()

    with serving(tmp_path / "door", maximum_instance_bytes=2 * size) as web:
        assert web.post(body(FILES[0])).status_code == 200
        before = process.memory_info().rss
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=60) as connection:
            connection.sendall(head + b"--b0\r\n" + HEAD + file)
            for _ in range(300):
                connection.sendall(piece)
                most = max(most, process.memory_info().rss)
            connection.sendall(ending)
            assert answered(connection) == 200
        assert web.entries(Kept)[1].size > size

    assert most - before < 30 * MEGABYTE


@pytest.mark.parametrize(
    "content",
    [b"", b"POST /dicom-web/stu", posted(b"x")[:-3], posted(b"")[:40]],
    ids=["silent", "request line", "head", "header"],
)
def test_a_head_that_does_not_come_is_not_waited_for(tmp_path, content):
    with serving(tmp_path / "door", idle_seconds=0.3) as web:
        assert raw(web, content) is None
        assert web.still_stores()


def test_a_head_that_drips_in_is_not_waited_for(tmp_path):
    with serving(tmp_path / "door", idle_seconds=0.3) as web:
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection, pytest.raises(OSError):
            for byte in posted(b"x") * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert web.still_stores()


def test_a_second_request_on_a_connection_has_the_same_deadline(tmp_path):
    with serving(tmp_path / "door", idle_seconds=0.3) as web:
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
            connection.sendall(posted(body(FILES[0])))
            assert answered(connection) == 200
            connection.sendall(b"POST /dicom-web/studies")
            assert answered(connection) is None
        assert web.still_stores()


def test_a_body_that_does_not_come_is_answered_408_and_its_instance_discarded(tmp_path):
    with serving(tmp_path / "door", idle_seconds=0.3) as web:
        whole = posted(body(FILES[0], FILES[1]))

        assert raw(web, whole[:-1000]) == 408

        web.wait(lambda: len(web.entries(Ended)) == 1)
        assert set(web.held()) == {UIDS[0]}
        assert [one.reason.split(":")[0] for one in web.entries(TurnedAway)] == ["HTTP 408"]
        assert web.still_stores()


class WaitingDoor(Door):
    """Opens when it is told to."""

    told = threading.Event()

    def open(self, incoming, origin, *, maximum_bytes):
        assert self.told.wait(20)
        return super().open(incoming, origin, maximum_bytes=maximum_bytes)


def test_what_came_whole_while_the_disk_was_slow_is_stored_although_the_rest_does_not_come(tmp_path):
    with serving(tmp_path / "door", door_of=WaitingDoor, idle_seconds=0.3) as web:
        whole = posted(body(*FILES[:3]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
            connection.sendall(whole[:1000])
            time.sleep(0.2)
            connection.sendall(whole[1000:-1000])
            time.sleep(1)
            web.door.told.set()
            assert answered(connection) == 408

        assert set(web.held()) == set(UIDS[:2])


def test_a_body_that_drips_in_is_answered_408(tmp_path):
    with serving(tmp_path / "door", idle_seconds=0.4) as web:
        whole = posted(body(FILES[0]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
            connection.sendall(whole[:500])
            drip = threading.Thread(target=drips, args=(connection, whole[500:]))
            drip.start()
            assert answered(connection) == 408
        drip.join()
        assert web.held() == {}
        assert web.still_stores()


def drips(connection, content):
    try:
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


def test_a_connection_that_breaks_inside_a_part_leaves_what_was_whole(web):
    whole = posted(body(FILES[0], FILES[1], FILES[2]))
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as connection:
        connection.sendall(whole[:-2000])
        web.wait(lambda: len(web.entries(Kept)) == 2)

    web.wait(lambda: len(web.entries(Ended)) == 1)
    assert [one.broken for one in web.entries(Ended)] == [True]  # its sender may come again with the rest
    assert set(web.held()) == {UIDS[0], UIDS[1]}
    assert web.still_stores()


def test_more_requests_at_a_time_than_allowed_are_asked_to_come_again(tmp_path):
    with serving(tmp_path / "door", maximum_requests=1) as web:
        whole = posted(body(FILES[0]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as slow:
            slow.sendall(whole[:-10])
            busy = retry(lambda: web.post(body(FILES[1])), lambda answer: answer.status_code == 503)
            assert busy.headers["Retry-After"] == "30"
            slow.sendall(whole[-10:])
            assert answered(slow) == 200
        assert web.still_stores()


def retry(act, until):
    """The first request may not have arrived yet."""
    end = time.monotonic() + 10
    while not until(result := act()):
        assert time.monotonic() < end, "waited in vain"
    return result


@contextmanager
def connected(web, content=b"", *, address="127.0.0.1"):
    with socket.create_connection(("127.0.0.1", web.server.port), timeout=30, source_address=(address, 0)) as connection:
        connection.sendall(content)
        time.sleep(0.1)
        yield connection


def test_where_connections_that_wait_leave_no_room_the_oldest_of_whoever_has_most_makes_it(tmp_path):
    whole = posted(body(FILES[0]))
    with (
        serving(tmp_path / "door", maximum_connections=4) as web,
        connected(web, whole[:-1], address="127.0.0.2") as served,
        connected(web, address="127.0.0.3") as alone,
        connected(web, whole) as idle,
        connected(web, b"POST") as slow,
    ):
        assert answered(idle) == 200
        with connected(web, whole, address="127.0.0.4") as newcomer:
            assert answered(newcomer) == 200

        assert idle.recv(1) == b""
        for connection, rest in ((served, whole[-1:]), (alone, whole), (slow, whole[4:])):
            connection.sendall(rest)
            assert answered(connection) == 200


def test_who_comes_is_not_let_in_where_all_connections_are_being_served(tmp_path):
    with serving(tmp_path / "door", maximum_connections=1) as web:
        with connected(web, posted(body(FILES[0]))[:-1]):
            assert raw(web, posted(body(FILES[1]))) is None
        web.wait(web.still_stores)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"maximum_associations": 1}, "expected fewer associations of caller ct"),
        ({"associations_per_minute": 1}, "expected fewer associations a minute of caller ct"),
    ],
)
def test_a_request_over_the_limit_of_its_caller_is_asked_to_come_again_and_told(tmp_path, table, reason):
    whole = posted(body(FILES[0]))
    with serving(tmp_path / "door", callers=(near("ct", **table), near("other", "127.0.0.2"))) as web:
        with connected(web, whole[:-10]) as slow:
            busy = web.post(body(FILES[1]))
            with connected(web, whole, address="127.0.0.2") as other:
                assert answered(other) == 200
            slow.sendall(whole[-10:])
            assert answered(slow) == 200

        assert (busy.status_code, busy.headers["Retry-After"], busy.text) == (429, "30", f"{reason}\n")
        assert [one.reason for one in web.entries(TurnedAway)] == [f"HTTP 429: {reason}"]
        assert UIDS[1] not in web.held()


def test_requests_of_a_caller_that_have_ended_make_room_for_the_next_however_they_ended(tmp_path):
    with serving(tmp_path / "door", callers=(near("ct", maximum_associations=1),)) as web:
        assert [web.post(content).status_code for content in (b"none", body(FILES[0][:99]), body(FILES[1]))] == [400, 409, 200]
        with connected(web, posted(body(FILES[2]))[:-10]):
            pass
        web.wait(web.still_stores)


def test_a_caller_sends_no_more_than_its_megabytes_a_second_and_holds_nobody_up(tmp_path):
    rate = sum(map(len, FILES[:2])) / MEGABYTE  # the first second's worth may come at once
    with serving(tmp_path / "door", callers=(near("ct", megabytes_per_second=rate), near("other", "127.0.0.2"))) as web:
        began = time.monotonic()
        with connected(web, posted(body(*FILES))) as slow:
            with connected(web, posted(body(FILES[0])), address="127.0.0.2") as other:
                assert answered(other) == 200
            assert time.monotonic() < began + 0.9
            assert answered(slow) == 200
        assert time.monotonic() > began + 0.9
        assert set(web.held()) == set(UIDS)


def test_a_closed_door_is_answered_503_before_the_body_is_read(web):
    web.door.closed = "the store's disk is nearly full"
    answer = web.post(body(FILES[0]))

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    web.door.closed = ""
    assert web.still_stores()


def test_a_full_disk_is_answered_503_with_a700(tmp_path):
    with serving(tmp_path / "door", keep_free_bytes=2**62) as web:
        answer = web.post(body(*FILES[:2]))

        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert sequence(answer, "FailedSOPSequence") == [(UIDS[0], 0xA700), (UIDS[1], 0xA700)]
        assert web.held() == {}


class FullOnceDoor(Door):
    """Has no room for one instance."""

    def open(self, incoming, origin, *, maximum_bytes):
        if incoming.sop_instance_uid == UIDS[1]:
            raise OutOfResources("the store's disk is nearly full")
        return super().open(incoming, origin, maximum_bytes=maximum_bytes)


def test_who_was_put_off_for_a_part_may_come_back_with_it_and_who_was_refused_is_not_waited_for(tmp_path):
    with serving(tmp_path / "door", door_of=FullOnceDoor) as web:
        assert web.post(body(*FILES[:3])).status_code == 202
        assert web.post(body(FILES[3], b"no file")).status_code == 202

        assert [one.broken for one in web.entries(Ended)] == [True, False]


class FailingDoor(Door):
    """Fails for one instance as nobody expects."""

    def open(self, incoming, origin, *, maximum_bytes):
        if incoming.sop_instance_uid == UIDS[1]:
            raise ZeroDivisionError("CANARY^NAME")
        return super().open(incoming, origin, maximum_bytes=maximum_bytes)


def test_an_unexpected_failure_is_answered_500_and_the_server_goes_on(tmp_path, capsys):
    with serving(tmp_path / "door", door_of=FailingDoor) as web:
        answer = web.post(body(*FILES[:3]))

        assert answer.status_code == 500
        assert sequence(answer, "ReferencedSOPSequence") == [(UIDS[0], None)]
        assert set(web.held()) == {UIDS[0]}
        assert web.still_stores()
    assert "CANARY" not in answer.text + "".join(capsys.readouterr())


def test_after_close_nobody_listens_and_what_was_not_whole_is_discarded(tmp_path):
    with serving(tmp_path / "door") as web:
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as slow:
            slow.sendall(posted(body(FILES[0], FILES[1]))[:-100])
            web.wait(lambda: len(web.entries(Kept)) == 1)
            web.server.close()

        assert [one.incoming.sop_instance_uid for one in web.entries(Kept)] == [UIDS[0]]
        assert len(web.entries(Ended)) == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", web.server.port), timeout=5)


def test_a_request_that_is_under_way_comes_to_its_end_when_the_server_is_closed(tmp_path):
    with serving(tmp_path / "door", grace_seconds=20) as web:
        whole = posted(body(FILES[0]))
        with socket.create_connection(("127.0.0.1", web.server.port), timeout=30) as slow:
            slow.sendall(whole[:-100])
            time.sleep(0.2)
            closing = threading.Thread(target=web.server.close)
            closing.start()
            time.sleep(0.2)
            slow.sendall(whole[-100:])
            assert answered(slow) == 200
        closing.join()
        assert set(web.held()) == {UIDS[0]}
