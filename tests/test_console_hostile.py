"""Hostile words and requests at the console: what patients, peers and models are called is only ever text (B40), and no request
is too odd to be answered in words (B56, B60)."""

import re
import socket

import pytest
from playwright.sync_api import Browser

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.rows.tables import Association, Delivery, Instance, Job, JobInstance, OutputInstance, RuleOutcome, Series, Study
from gateway.web import found
from tests.console_fixture import ConsolePlace
from tests.rows_fixture import NOW
from tests.test_console_access import OPERATIONS, PROGRAMS, bearer

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'%n\r\n'; DROP TABLE gw_study;--{{7*7}}\u202egpj\N{GRINNING FACE}\x1b[2J"
STUDY, SERIES, SOURCE, OUTPUT = "1.2.3", "1.2.3.4", "1.2.3.4.5", "1.2.3.4.6"
NAMED = {"study_instance_uid": STUDY, "series_instance_uid": SERIES, "sop_instance_uid": SOURCE, "uid": SERIES, "study": STUDY,
         "series": SERIES, "instance": SOURCE, "name": "pacs"}  # fmt: skip
RAW = re.compile(r"<script>alert|<img src=x|onerror=alert\(2\)>\"", re.IGNORECASE)


@pytest.fixture(scope="module", autouse=True)
def rows(console: ConsolePlace) -> None:
    """Everything that comes from outside is called that."""
    explanation = {"conditions": [{"line": 1, "text": HOSTILE, "held": True, "why": HOSTILE}]}
    with console.db.begin() as session:
        session.add(Study(study_instance_uid=STUDY, patient_name=HOSTILE, patient_id=HOSTILE, patient_birth_date=HOSTILE, accession_number=HOSTILE, first_received_at=NOW))  # fmt: skip
        session.add(Association(id="h", ingest="dimse", calling_ae_title=HOSTILE, called_ae_title=HOSTILE, address=HOSTILE, executor="x", began_at=NOW))  # fmt: skip
        session.flush()
        session.add(Series(series_instance_uid=SERIES, study_instance_uid=STUDY, modality=HOSTILE, state="complete", reason=HOSTILE, first_received_at=NOW, last_received_at=NOW, due_at=NOW))  # fmt: skip
        session.flush()
        session.add(Instance(sop_instance_uid=SOURCE, series_instance_uid=SERIES, association="h", sop_class_uid="1.2", transfer_syntax_uid="1.2", sha256="5" * 64, size=1, received_at=NOW))  # fmt: skip
        session.add(RuleOutcome(series_instance_uid=SERIES, revision=1, rule=HOSTILE, matched=True, explanation=explanation, rules_digest="6" * 64, at=NOW))  # fmt: skip
        session.add(Job(id=1, input_key="7" * 64, series_instance_uid=SERIES, revision=1, rules=[HOSTILE], pipeline=HOSTILE, model=HOSTILE, send_to=[HOSTILE], priority="routine", state="failed", code=HOSTILE, reason=HOSTILE, notes=[HOSTILE], created_at=NOW, due_at=NOW))  # fmt: skip
        session.flush()
        session.add(JobInstance(job=1, sop_instance_uid=SOURCE, sha256="5" * 64))
        session.add(OutputInstance(sop_instance_uid=OUTPUT, job=1, study_instance_uid=STUDY, series_instance_uid=SERIES, sop_class_uid="1.2", modality=HOSTILE, sha256="8" * 64, size=1, created_at=NOW))  # fmt: skip
        session.flush()
        session.add(Delivery(id=1, sop_instance_uid=OUTPUT, study_instance_uid=STUDY, job=1, peer=HOSTILE, state="failed", reason=HOSTILE, created_at=NOW, due_at=NOW))  # fmt: skip
        audit.record(session, Act.DELIVERY_FAILED, at=NOW, actor=HOSTILE, outcome=8, series=SERIES, instance=OUTPUT, job=1, peer=HOSTILE, reason=HOSTILE)  # fmt: skip


def pages() -> list[str]:
    """Every page and part of one that is read, its names filled in."""
    read = [path for path, method, needed in OPERATIONS if method == "GET" and needed and not path.startswith(PROGRAMS)]
    return [re.sub(r"{(\w+)(:\w+)?}", lambda one: NAMED.get(one.group(1), "1"), path) for path in read]


@pytest.mark.parametrize("path", pages())
def test_every_page_shows_hostile_words_as_words(console: ConsolePlace, path: str) -> None:
    answer = console.client("administrator").get(path)

    assert answer.status_code < 500
    assert not RAW.search(answer.text)
    assert "49" not in re.findall(r"DROP TABLE gw_study;--(\d+)", answer.text), "a template ran what a patient is called"


def test_no_page_runs_what_a_patient_is_called(console: ConsolePlace, chromium: Browser) -> None:
    """Those of the navigation, in a browser, which would run it."""
    with console.visit(chromium, "administrator") as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        for part in found.parts("pages"):
            if part.navigation is not None and part.name != "viewer":  # which is OHIF's own, where it is installed
                page.goto(console.url + part.navigation.path)
                assert page.locator("h1").count() == 1, part.name


def test_rest_tells_hostile_words_as_json_and_nothing_else(console: ConsolePlace) -> None:
    answer = console.client().get("/api/v1/audit?job=1", headers=bearer(console, "viewer"))

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert any(event["actor"] == HOSTILE for event in answer.json()["items"])


def test_an_odd_question_is_answered_in_words(console: ConsolePlace) -> None:
    client, headers = console.client(), bearer(console, "administrator")
    questions = ["limit=-1", "limit=0", "limit=100000", "limit=" + "9" * 400, "job=1e9", "job=" + "9" * 30, "series=*", "series=' OR 1=1--",
                 "series=%00", "series=1.2%0d%0aX: y", "unknown=1&unknown=2", "limit=%F0%9F%98%80"]  # fmt: skip
    for question in questions:
        answer = client.get(f"/api/v1/audit?{question}", headers=headers)
        assert answer.status_code == 422, question
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["problems"]


def test_a_number_time_or_name_that_is_none_of_ours_is_no_failure_of_the_gateway(console: ConsolePlace) -> None:
    client, huge = console.client("administrator"), "9" * 23
    expected = {f"/{named}/{number}": 422 for named in ("jobs", "deliveries", "rules/versions") for number in (huge, 0)} | {
        f"/jobs/{huge}/picture": 422, f"/audit?job={huge}": 422, f"/audit?before={huge}": 422, f"/rules/edit?number={huge}": 422,
        f"/jobs?after={huge}": 422, "/jobs?until=9999-12-31": 422, "/series?after=0001-01-01T00:00%2B14:00~1.2": 409,
        "/viewer/%00": 404, f"/viewer/{'x' * 300}": 404,
    }  # fmt: skip

    assert {path: client.get(path).status_code for path in expected} == expected


@pytest.mark.parametrize("path", ["/me?x=", "/api/v1/audit?series="])
def test_a_megabyte_of_question_is_refused(console: ConsolePlace, path: str) -> None:
    assert spoken(console, f"GET {path}{'9' * 1_000_000} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())[:12] in {
        b"HTTP/1.1 400",
        b"",
    }


@pytest.mark.parametrize(
    ("head", "body", "statuses"),
    [
        ("Content-Length: 4294967296", b"", {413}),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\nGET /people HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400}),
        ("Content-Length: 5\r\nContent-Length: 6", b"hello", {400}),
        ("Transfer-Encoding: chunked, identity", b"", {400, 501}),
        ("Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000", b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 18000, {400, 403}),
        ("Content-Type: multipart/form-data\r\nContent-Length: 3", b"abc", {400, 403, 422}),
        ("Content-Encoding: gzip\r\nContent-Length: 3", b"abc", {403, 422}),
        ("Content-Type: application/json\r\nContent-Length: 3", b"{{{", {403, 422}),
    ],
)  # fmt: skip
def test_a_request_with_a_hostile_body_is_refused(console: ConsolePlace, head: str, body: bytes, statuses: set[int]) -> None:
    said = spoken(
        console, f"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{head}\r\n\r\n".encode() + body[:900_000]
    )

    assert int(said.split()[1]) in statuses
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "127.0.0.1:99999999", "", "\u00e4"])
def test_a_host_that_is_no_host_is_refused(console: ConsolePlace, host: str) -> None:
    said = spoken(console, f"GET /sign-in HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())

    assert int(said.split()[1]) in {200, 400, 421}


def test_who_asks_too_much_is_told_to_wait(console: ConsolePlace) -> None:
    allowance, client = console.site.limits.requests, console.client()
    allowance.per_second = 0.01
    while not allowance.wait("127.0.0.1"):
        pass

    answer = client.get("/healthz")

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    allowance.per_second = 100
    for _ in range(int(allowance.burst)):
        allowance.give_back("127.0.0.1")
    assert client.get("/healthz").status_code == 200


def spoken(console: ConsolePlace, request: bytes) -> bytes:
    """What comes back of bytes as they are; nothing where the connection was just ended."""
    host, port = console.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except (ConnectionResetError, BrokenPipeError):
            return b"HTTP/1.1 400 (ended)"
