"""STOW-RS to Orthanc and to scripted servers: the answer's body decides, of each instance."""

import email
import hashlib
import json
import logging

import httpx2
import pytest

from gateway.errors import Rejected, Unreachable
from gateway.peers import Sent, load_protocols, make_peer
from gateway.peers.dicomweb import verdict
from tests.peers_fixture import (
    closes,
    data_set_sha256,
    free_port,
    running_http,
    running_orthanc,
    running_tcp,
    self_signed,
    silent,
    stored,
)
from tests.synthetic import ct_series

PROTOCOLS = load_protocols()


@pytest.fixture
def instances(tmp_path):
    """Paths of four small stored instances of one series."""
    return stored(tmp_path, ct_series(4, 32, 32))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def dicomweb(url, **settings):
    return make_peer({"name": "web", "protocol": "dicomweb", "url": url, "timeout_seconds": 5, **settings}, protocols=PROTOCOLS)


def test_orthanc_holds_the_data_set_byte_for_byte_after_stow(orthanc, instances):
    orthanc.clear()

    sent = dicomweb(orthanc.dicomweb).send(instances[1])

    assert sent == Sent(0x0000, "stored")
    assert data_set_sha256(orthanc.file(ct_series(4, 32, 32)[1].SOPInstanceUID)) == data_set_sha256(instances[1])


def test_orthanc_takes_the_same_instance_twice(orthanc, instances):
    peer = dicomweb(orthanc.dicomweb)

    assert [outcome.status for _, outcome in peer.send_many([instances[2], instances[2]])] == [0x0000, 0x0000]


def test_the_good_part_of_a_request_that_orthanc_answers_with_400_is_stored(orthanc, instances):
    uid = ct_series(4, 32, 32)[3].SOPInstanceUID
    parts = [instances[3].read_bytes(), b"rubbish"]
    body = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x', "Accept": "application/dicom+json"}

    response = httpx2.post(f"{orthanc.dicomweb}/studies", content=body, headers=headers)

    assert response.status_code == 400
    assert verdict(response, response.content, uid) == Sent(0x0000, "stored")
    with pytest.raises(Rejected):
        verdict(response, response.content, "1.2.3")


def answer(uid, *, failure=None, warning=None):
    """A STOW-RS answer about one instance, in the DICOM JSON model."""
    item = {"00081155": {"vr": "UI", "Value": [uid]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    if failure is not None:
        item["00081197"] = {"vr": "US", "Value": [failure]}
    return json.dumps({"00081199" if failure is None else "00081198": {"vr": "SQ", "Value": [item]}}).encode()


UID = ct_series(1, 32, 32)[0].SOPInstanceUID


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, answer(UID), 0x0000),
        (200, b"", 0x0000),
        (202, answer(UID, warning=0xB000), 0xB000),
        (400, answer(UID), 0x0000),
        (409, answer(UID, failure=0x0111), 0x0111),
        (500, answer(UID), 0x0000),
    ],
)
def test_stow_is_delivered_when_the_answer_says_so_of_the_instance(instances, status, body, expected):
    with running_http((status, {}, body)) as (url, _):
        assert dicomweb(url).send(instances[0]).status == expected


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, answer(UID, failure=0xA700), "0xA700"),
        (200, answer("1.2.3"), "expected an answer that names the instance"),
        (202, b"", "expected an answer that names the instance"),
        (202, b"<html>", "expected an answer that names the instance"),
        (302, b"", "another url"),
        (400, answer(UID, failure=0xA700), "0xA700"),
        (401, b"", "credentials are not accepted"),
        (403, b"", "credentials do not allow it"),
        (404, b"", "no DICOMweb service"),
        (408, b"", "HTTP 408"),
        (409, answer(UID, failure=0x0110), "0x0110"),
        (429, b"", "come back in 30 s"),
        (503, b"[1]", "HTTP 503"),
        (507, b"", "HTTP 507"),
        (200, b" " * 2_000_000, "longer than one for a single instance"),
    ],
)
def test_stow_is_tried_again(instances, status, body, words):
    with running_http((status, {"Retry-After": "30", "Location": "/elsewhere"}, body)) as (url, _):
        with pytest.raises(Unreachable, match=words):
            dicomweb(url).send(instances[0])


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (202, answer(UID, failure=0xA900), 0xA900),
        (400, b"", 0xC000),
        (400, b'{"Details": "CANARY"}', 0xC000),
        (409, answer(UID, failure=0x0122), 0x0122),
        (409, b"", 0x0110),
        (413, b"", 0x0110),
        (415, b"", 0x0122),
    ],
)
def test_stow_is_final(instances, status, body, expected):
    with running_http((status, {}, body)) as (url, _), pytest.raises(Rejected) as raised:
        dicomweb(url).send(instances[0])

    assert raised.value.status == expected
    assert "CANARY" not in str(raised.value)


def test_stow_sends_one_part_of_known_length_with_the_files_bytes(instances):
    with running_http((200, {}, b""), (200, {}, b"")) as (url, requests):
        list(dicomweb(f"{url}/").send_many(instances[:2]))

    for path, (headers, body) in zip(instances, requests, strict=False):
        message = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        part = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
        assert message.get_content_type() == "multipart/related"
        assert [one.get_content_type() for one in message.get_payload()] == ["application/dicom"]
        assert hashlib.sha256(part).digest() == hashlib.sha256(path.read_bytes()).digest()
        assert int(headers["Content-Length"]) == len(body)
        assert headers["Accept"] == "application/dicom+json"
    assert requests[0][0]["Content-Type"] != requests[1][0]["Content-Type"], "a boundary of its own for each request"


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"token": "hidden-token"}, "Authorization", "Bearer hidden-token"),
        ({"user": "ann", "password": "hidden"}, "Authorization", "Basic YW5uOmhpZGRlbg=="),
        ({"headers": {"X-Api-Key": "hidden-key"}}, "X-Api-Key", "hidden-key"),
    ],
)
def test_credentials_go_to_the_server_and_into_no_text(instances, settings, name, value):
    with running_http((401, {}, b"")) as (url, requests):
        peer = dicomweb(url, **settings)
        with pytest.raises(Unreachable) as raised:
            peer.send(instances[0])

    assert requests[0][0][name] == value
    assert "hidden" not in repr(peer) + str(raised.value) + repr(raised.value)


def test_orthanc_passes_the_echo(orthanc):
    assert dicomweb(orthanc.dicomweb).echo().startswith("answered QIDO-RS in ")


def test_a_port_where_nobody_listens_is_tried_again(instances):
    with pytest.raises(Unreachable, match="no connection"):
        dicomweb(f"http://127.0.0.1:{free_port()}").send(instances[0])


def test_no_library_logs_what_is_sent_or_the_credentials(instances, caplog):
    with caplog.at_level(logging.DEBUG), running_http((200, {}, b"")) as (url, _):
        dicomweb(url, token="hidden").send(instances[0])

    assert [word for word in ["CANARY", "hidden", UID] if word in caplog.text] == []


@pytest.mark.parametrize("status", [200, 204])
def test_an_empty_search_is_an_echo(status):
    with running_http((status, {}, b"[]" if status == 200 else b"")) as (url, _):
        assert dicomweb(url).echo().startswith("answered QIDO-RS in ")


def test_a_server_that_wants_other_credentials_does_not_pass_the_echo():
    with running_http((403, {}, b"")) as (url, _), pytest.raises(Unreachable, match="credentials do not allow it"):
        dicomweb(url).echo()


def test_a_server_is_trusted_by_its_certificate_only(tmp_path, instances):
    certificate = self_signed(tmp_path / "server.pem")

    with running_http((200, {}, b""), certificate=certificate) as (url, _):
        with pytest.raises(Unreachable, match="the certificate is not trusted"):
            dicomweb(url).send(instances[0])
        assert dicomweb(url, verify=str(certificate)).send(instances[0]).status == 0x0000


def closes_after_upload(peer):
    peer.settimeout(0.3)
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        pass


@pytest.mark.parametrize(
    ("talk", "words"), [(silent, "no answer within 0.5 s"), (closes, "broke"), (closes_after_upload, "broke")]
)
def test_a_server_that_does_not_answer_leaves_the_outcome_unknown(instances, talk, words):
    with running_tcp(talk) as port, pytest.raises(Unreachable, match=f"{words}.*; the instance may be stored or not"):
        dicomweb(f"http://127.0.0.1:{port}", timeout_seconds=0.5).send(instances[0])
