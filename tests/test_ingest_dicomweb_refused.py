"""Requests that the STOW-RS server does not take as a whole: another address, method, media type or framing, or another caller."""

import socket
import ssl

import httpx2
import pytest
from structlog.testing import capture_logs

from gateway.doors.entry import Ended, Kept, TurnedAway
from gateway.doors.policy import ANYONE, Rejection
from tests.certificates import Authority, client_context
from tests.stow_fixture import (
    FILES,
    HEAD,
    MEGABYTE,
    STUDY,
    TYPE,
    UIDS,
    Answers,
    answered,
    body,
    changed,
    near,
    posted,
    request,
    send_while_it_goes,
    sequence,
    serving,
)


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
        with httpx2.Client(verify=client_context(authority, ct1), trust_env=False, timeout=60) as client:
            assert client.post(url, content=body(FILES[0]), headers={"Content-Type": TYPE}).status_code == 200
        with (
            capture_logs() as logs, httpx2.Client(verify=client_context(authority), trust_env=False, timeout=60) as client,
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
            shown = client_context(authority, authority.issue("CT1"))
            with httpx2.Client(verify=shown, trust_env=False, timeout=60) as client:
                assert client.post(url, content=body(FILES[n]), headers={"Content-Type": TYPE}).status_code == 200


def mutual(authority, server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
