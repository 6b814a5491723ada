"""The STOW-RS server (PS3.18 10.5) by real clients and by bytes on a socket: what is stored is durable, what is not is told why."""

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from io import BytesIO
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from gateway.doors.entry import Alarming, Declined, Ended, Kept
from gateway.peers import Sent, make_peer
from tests.peers_fixture import PROTOCOLS, data_set, stored
from tests.stow_fixture import FILES, SERIES, STUDY, TYPE, UIDS, Answers, answered, body, changed, posted, sequence
from tests.synthetic import ct_series, meta_changed, part10

JSON, XML = "application/dicom+json", "application/dicom+xml"


def test_an_instance_of_our_own_peer_is_kept_byte_for_byte(web, tmp_path):
    peer = make_peer({"name": "web", "protocol": "dicomweb", "url": web.url, "timeout_seconds": 20}, protocols=PROTOCOLS)

    outcomes = list(peer.send_many(stored(tmp_path, SERIES)))

    assert [outcome for _, outcome in outcomes] == [Sent(0x0000, "stored")] * 4
    assert web.held() == {uid: data_set(file) for uid, file in zip(UIDS, FILES, strict=True)}


@pytest.mark.parametrize("preamble", [b"MZ", b"\x7fELF", b"#!/bin/sh\n", b"<html><script>"])
def test_a_preamble_that_could_be_a_program_is_not_kept_and_somebody_is_told(web, preamble):
    assert web.post(body(preamble.ljust(128, b"x") + FILES[0][128:])).status_code == 200

    assert web.files()[UIDS[0]][:132] == bytes(128) + b"DICM"
    assert web.held()[UIDS[0]] == data_set(FILES[0])
    assert [one.sop_instance_uid for one in web.entries(Alarming)] == [UIDS[0]]


@pytest.mark.parametrize("preamble", [b"", b"II*\0rest of a TIFF header"])
def test_a_preamble_that_is_empty_or_of_a_tiff_file_is_not_kept_and_alarms_nobody(web, preamble):
    assert web.post(body(preamble.ljust(128, b"\0") + FILES[0][128:])).status_code == 200

    assert web.files()[UIDS[0]][:132] == bytes(128) + b"DICM"
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
        (meta_changed(FILES[0], TransferSyntaxUID=DeflatedExplicitVRLittleEndian), 0xC122),
        (meta_changed(FILES[0], TransferSyntaxUID="1.2.840.10008.1.2.2"), 0xC122),
        (meta_changed(FILES[0], TransferSyntaxUID=ImplicitVRLittleEndian), 0xC000),
        (meta_changed(FILES[0], MediaStorageSOPClassUID="1.2.840.10008.1.1"), 0x0122),
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
