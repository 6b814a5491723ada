"""STOW-RS to Orthanc and to scripted servers: the answer's body decides, of each instance."""

import email
import hashlib
import http.client
import json
import logging
import select
import threading
from contextlib import suppress
from datetime import timedelta

import httpx2
import pytest

from gateway.errors import ConfigError, Rejected, Unanswered, Unreachable
from gateway.peers import Sent, Sought, make_peer
from gateway.peers._verdict import verdict
from tests.peers_fixture import (
    PROTOCOLS,
    closes,
    data_set_sha256,
    free_port,
    running_http,
    running_tcp,
    self_signed,
    silent,
    stored,
)
from tests.synthetic import ct_series


def dicomweb(url, **settings):
    return make_peer({"name": "web", "protocol": "dicomweb", "url": url, "timeout_seconds": 20, **settings}, protocols=PROTOCOLS)


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

    response = httpx2.post(f"{orthanc.dicomweb}/studies", content=body, headers=headers, timeout=60)

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


def both(*, stored, failed):
    """A STOW-RS answer about several instances."""
    ok = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]
    bad = [
        {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}} for uid, reason in failed.items()
    ]
    return json.dumps({"00081199": {"vr": "SQ", "Value": ok}, "00081198": {"vr": "SQ", "Value": bad}}).encode()


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
        (202, both(stored=[UID], failed={"1.2.3": 0xA700}), 0x0000),
        (400, both(stored=[UID], failed={"1.2.3": 0xC000}), 0x0000),
        (409, both(stored=["1.2.3"], failed={UID: 0x0111}), 0x0111),
    ],
)
def test_stow_is_delivered_when_the_answer_says_so_of_the_instance(instances, status, body, expected):
    with running_http((status, {}, body)) as (url, _):
        assert dicomweb(url).send(instances[0]).status == expected


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, answer(UID, failure=0xA700), "0xA700"),
        (202, both(stored=["1.2.3"], failed={UID: 0xA700}), "0xA700"),
        (302, b"", "another url"),
        (400, answer(UID, failure=0xA700), "0xA700"),
        (401, b"", "credentials are not accepted"),
        (403, b"", "credentials do not allow it"),
        (404, b"", "no DICOMweb service"),
        (408, b"", "HTTP 408"),
        (409, answer(UID, failure=0x0110), "0x0110"),
        (429, b"", "come back in 30 s"),
        (503, b"[1]", "HTTP 503"),
    ],
)
def test_stow_that_stored_nothing_is_tried_again(instances, status, body, words):
    with running_http((status, {"Retry-After": "30", "Location": "/elsewhere"}, body)) as (url, _):
        with pytest.raises(Unreachable, match=words) as raised:
            dicomweb(url).send(instances[0])

    assert type(raised.value) is Unreachable


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, answer("1.2.3"), "expected an answer that names the instance; it may be stored or not"),
        (202, b"", "expected an answer that names the instance; it may be stored or not"),
        (202, b"<html>", "expected an answer that names the instance; it may be stored or not"),
        (200, b"[" * 500_000, "expected an answer that names the instance; it may be stored or not"),
        (500, b"", "HTTP 500: the peer failed; the instance may be stored or not"),
        (502, b"<html>", "HTTP 502: the peer failed; the instance may be stored or not"),
        (504, b"", "HTTP 504: the peer failed; the instance may be stored or not"),
        (507, b"", "HTTP 507"),
        (200, b" " * 2_000_000, "longer than one of its kind"),
    ],
)
def test_an_answer_that_does_not_say_what_became_of_the_instance_leaves_the_outcome_unknown(instances, status, body, words):
    with running_http((status, {}, body)) as (url, _), pytest.raises(Unanswered, match=words):
        dicomweb(url).send(instances[0])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("30", timedelta(seconds=30)),
        ("0", timedelta(0)),
        ("9" * 5000, timedelta(hours=1)),
        ("-5", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_peer_that_says_when_to_come_back_is_understood_and_an_hour_is_the_most(instances, status, header, expected):
    with running_http((status, {"Retry-After": header}, b"")) as (url, _), pytest.raises(Unreachable) as raised:
        dicomweb(url).send(instances[0])

    assert raised.value.after == expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (202, answer(UID, failure=0xA900), 0xA900),
        (202, both(stored=["1.2.3"], failed={UID: 0xC000}), 0xC000),
        (400, json.dumps({"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}]}}).encode(), 0xC000),
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
    with pytest.raises(Unreachable, match="no connection: connection refused"):
        dicomweb(f"http://127.0.0.1:{free_port()}").send(instances[0])


def test_why_there_is_no_connection_is_told(instances):
    with running_http() as (url, _), pytest.raises(Unreachable, match=r"no connection: TLS failed \(\w+"):
        dicomweb(url.replace("http:", "https:")).send(instances[0])
    with pytest.raises(Unreachable, match="no connection: the host name is not known"):
        dicomweb("http://no-such-host.invalid").send(instances[0])


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


def test_certificates_that_are_replaced_count_from_the_next_connection_on(tmp_path, instances):
    before, after = self_signed(tmp_path / "before.pem"), self_signed(tmp_path / "after.pem")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(before.read_bytes())
    with running_http((200, {}, b""), certificate=before) as (url, _):
        peer = dicomweb(url, verify=str(trusted))
        assert peer.send(instances[0]).status == 0x0000

    with running_http((200, {}, b""), certificate=after, port=int(url.rpartition(":")[2])):
        with pytest.raises(Unreachable, match=r"the certificate is not trusted \(self.signed certificate\)"):
            peer.send(instances[0])
        trusted.unlink()
        with pytest.raises(Unreachable, match="the files with the certificates cannot be read"):
            peer.send(instances[0])
        trusted.write_bytes(after.read_bytes())
        assert peer.send(instances[0]).status == 0x0000


@pytest.mark.parametrize("host", ["pacs..hospital", f"{'p' * 64}.hospital"])
def test_a_host_that_nobody_can_look_up_is_a_mistake_in_the_table(host):
    with pytest.raises(ConfigError, match="url: expected"):
        dicomweb(f"http://{host}")
    with pytest.raises(ConfigError, match="host: expected a host name or an address"):
        make_peer({"name": "pacs", "protocol": "dimse", "host": host, "port": 104, "ae_title": "PACS"}, protocols=PROTOCOLS)


def closes_after_upload(peer):
    with peer.makefile("rb") as file:
        file.readline()
        file.read(int(http.client.parse_headers(file)["Content-Length"]))


@pytest.mark.parametrize(("talk", "words"), [(silent, "no answer within 0.5 s"), (closes_after_upload, "broke")])
def test_a_server_that_does_not_answer_after_the_last_byte_leaves_the_outcome_unknown(instances, talk, words):
    seconds = 0.5 if "no answer" in words else 20
    with running_tcp(talk) as port, pytest.raises(Unanswered, match=f"{words}.*; the instance may be stored or not"):
        dicomweb(f"http://127.0.0.1:{port}", timeout_seconds=seconds).send(instances[0])


def trickles(peer):
    peer.recv(65536)
    with suppress(OSError):
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            peer.sendall(b"1\r\n \r\n")
            threading.Event().wait(0.1)


def test_a_server_whose_answer_trickles_is_not_waited_for_ever(instances):
    with running_tcp(trickles) as port:
        peer = dicomweb(f"http://127.0.0.1:{port}", timeout_seconds=1.5)

        with pytest.raises(Unreachable, match="too slowly"):
            peer.instances_of("1.2", "1.2.3")
        with pytest.raises(Unanswered, match="too slowly"):
            peer.send(instances[0])


def stops_reading(peer):
    peer.recv(8)
    gone = select.poll()
    gone.register(peer, select.POLLRDHUP)
    gone.poll(20_000)


@pytest.mark.parametrize(("talk", "words"), [(closes, "broke"), (stops_reading, "no answer within 0.5 s")])
def test_a_server_that_stops_while_bytes_still_go_out_leaves_no_doubt_at_all(tmp_path, talk, words):
    path = stored(tmp_path, ct_series(1, 4000, 4000))[0]

    seconds = 0.5 if "no answer" in words else 20
    with running_tcp(talk) as port, pytest.raises(Unreachable, match=words) as raised:
        dicomweb(f"http://127.0.0.1:{port}", timeout_seconds=seconds).send(path)

    assert type(raised.value) is Unreachable
    assert "stored or not" not in str(raised.value)


def wanted(ds, path=None):
    return Sought(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SOPClassUID, path)


def test_orthanc_is_asked_for_what_it_holds_and_whose_it_is(orthanc, tmp_path):
    series = ct_series(2, 32, 32, seed=11, SpecificCharacterSet="ISO_IR 192", PatientID="MÜLLER-7")
    peer = dicomweb(orthanc.dicomweb)
    peer.send(stored(tmp_path, series)[0])

    assert [peer.holds(wanted(ds)) for ds in series] == [True, False]
    assert [peer.patient_of(uid) for uid in (series[0].StudyInstanceUID, "1.2.3.4.5")] == ["MÜLLER-7", None]


def test_a_series_that_orthanc_does_not_know_has_no_instances(orthanc):
    assert not dicomweb(orthanc.dicomweb).holds(wanted(ct_series(1, 32, 32, seed=12)[0]))


def matches(*items):
    """A QIDO-RS answer."""
    return json.dumps([{tag: {"vr": "UI", "Value": [value]} for tag, value in item.items()} for item in items]).encode()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, matches({"00080018": UID}), True),
        (200, matches({"00080018": "1.2.3"}, {"00080018": UID}), True),
        (200, matches({"00080018": "1.2.3"}), False),
        (200, matches({"00080016": "1.2.3"}), False),
        (200, b"[]", False),
        (200, b"", False),
        (204, b"", False),
        (404, b"", False),
    ],
)
def test_only_a_match_with_our_sop_instance_uid_counts(status, body, expected):
    with running_http((status, {}, body)) as (url, _):
        assert dicomweb(url).holds(wanted(ct_series(1, 32, 32)[0])) is expected


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "not understood"),
        (200, b"{}", "not understood"),
        (200, b"[1]", "not understood"),
        (200, b"[" * 500_000, "not understood"),
        (200, b" " * 2_000_000, "longer than one of its kind"),
        (202, b"", "expected the answer to a search"),
        (302, b"", "another url"),
        (401, b"", "credentials are not accepted"),
        (500, b"", "HTTP 500"),
        (503, b"", "HTTP 503"),
    ],
)
def test_a_search_that_is_not_answered_tells_nothing(status, body, words):
    with running_http((status, {}, body)) as (url, _), pytest.raises(Unreachable, match=words) as raised:
        dicomweb(url).holds(wanted(ct_series(1, 32, 32)[0]))

    assert type(raised.value) is Unreachable, "nothing was sent that may be there"


def test_a_search_that_is_refused_says_so():
    with running_http((400, {}, b"CANARY")) as (url, _), pytest.raises(Rejected, match="HTTP 400"):
        dicomweb(url).holds(wanted(ct_series(1, 32, 32)[0]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (matches({"0020000D": "1.2.9", "00100020": "P9"}, {"0020000D": "1.2.1", "00100020": "P1"}), "P1"),
        (b'[{"0020000D": {"vr": "UI", "Value": ["1.2.1"]}, "00100020": {"vr": "LO"}}]', ""),
        (matches({"0020000D": "1.2.1"}), None),
        (b"[]", None),
    ],
)
def test_the_patient_is_the_one_of_our_study(body, expected):
    with running_http((200, {}, body)) as (url, _):
        assert dicomweb(url).patient_of("1.2.1") == expected


def test_storage_commitment_is_nothing_that_dicomweb_has():
    with pytest.raises(Rejected, match='"query" or "none"'):
        dicomweb("http://127.0.0.1:1").request_commitment("1.2.9", [("1.2", "1.2.3")])
