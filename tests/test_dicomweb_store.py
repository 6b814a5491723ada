"""STOW-RS at the web port, and what anybody may throw at DICOMweb there (bad inputs B56 to B60 of the developers' list)."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from dicomweb_client import DICOMwebClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from pydicom import Dataset, dcmread
from requests import HTTPError, Session
from sqlalchemy import select

from gateway.access import people
from gateway.rows.tables import Association, Instance
from tests.console_fixture import ConsolePlace, a_console
from tests.peers_fixture import running_orthanc
from tests.synthetic import ct_series, part10
from tests.workitem_fixture import order, state

ROOT = Path(__file__).parent.parent
QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)  # fmt: skip


def token(place: ConsolePlace, name: str) -> dict[str, str]:
    now = place.site.clock()
    made = people.make_token(place.db, name, label="store", role=name, days=1, actor=name, now=now)
    return {"Authorization": f"Bearer {made.secret}"}


@pytest.fixture(scope="module")
def bearers(console) -> dict[str, dict[str, str]]:
    return {name: token(console, name) for name in ("viewer", "operator")}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=60) as client:
        yield client


@pytest.fixture
def client(console, bearers) -> DICOMwebClient:
    session = Session()
    session.headers.update(bearers["operator"])
    return DICOMwebClient(f"{console.url}/dicom-web", session=session)


def held(place: ConsolePlace, series: list[Dataset]) -> list[Instance]:
    with place.db() as session:
        mine = select(Instance).where(Instance.series_instance_uid == series[0].SeriesInstanceUID)
        return list(session.scalars(mine))


def multipart(*parts: bytes) -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts)
    return body + b"--edge--\r\n", {"Content-Type": 'multipart/related; type="application/dicom"; boundary=edge'}


# --- What is stored can be searched and retrieved at the same place ---


def test_what_is_stored_is_durable_filed_and_found_at_the_same_address(console, client: DICOMwebClient) -> None:
    series = [dcmread(BytesIO(part10(one))) for one in ct_series(3)]

    answer = client.store_instances(series, series[0].StudyInstanceUID)

    assert len(answer.ReferencedSOPSequence) == 3
    assert {one.sop_instance_uid for one in held(console, series)} == {one.SOPInstanceUID for one in series}
    assert all(console.site.store.check(one.sha256) for one in held(console, series))
    found = client.search_for_instances(series[0].StudyInstanceUID)
    assert {one["00080018"]["Value"][0] for one in found} == {one.SOPInstanceUID for one in series}
    with console.db() as session:
        association = session.get_one(Association, held(console, series)[0].association)
    assert (association.ingest, association.ended_at is None) == ("dicomweb", False)
    assert not [path for path in console.site.store.incoming.iterdir() if path.name.startswith(f"{console.site.executor}.web")]


def test_orthanc_stores_searches_and_retrieves_as_a_client(console, bearers, tmp_path: Path) -> None:
    (instance,) = ct_series(1, seed=3)
    server = {"Url": f"{console.url}/dicom-web/", "HttpHeaders": bearers["operator"]}
    with running_orthanc(tmp_path, DicomWeb={"Enable": True, "Servers": {"gateway": server}}) as orthanc:

        def ask(what: str, **body: object) -> Any:
            return httpx2.post(f"{orthanc.url}/dicom-web/servers/gateway/{what}", json=body, timeout=60).raise_for_status().json()

        known = httpx2.post(f"{orthanc.url}/instances", content=part10(instance), timeout=60).json()["ID"]
        ask("stow", Resources=[known], Synchronous=True)
        found = ask("qido", Uri="/studies", Arguments={"StudyInstanceUID": instance.StudyInstanceUID})
        httpx2.delete(f"{orthanc.url}/instances/{known}", timeout=60).raise_for_status()
        ask("retrieve", Resources=[{"Study": instance.StudyInstanceUID}], Synchronous=True)

        back = httpx2.get(f"{orthanc.url}/instances/{known}/tags?simplify", timeout=60).json()
    assert [one.sop_instance_uid for one in held(console, [instance])] == [instance.SOPInstanceUID]
    assert instance.StudyInstanceUID in json.dumps(found)
    assert back["SOPInstanceUID"] == instance.SOPInstanceUID


def test_the_order_that_the_readme_shows_works_with_curl(console, bearers) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    example = re.search(r"    (curl .*?\}\]')$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert example
    command = example.group(1).replace("PIPELINE", "bright").replace("SERIES INSTANCE UID", "1.2.3")
    environment = {"URL": console.url, "TOKEN": bearers["operator"]["Authorization"].removeprefix("Bearer "), "PATH": os.defpath}

    told = subprocess.run(
        ["sh", "-c", command + " -s -i"], capture_output=True, text=True, check=True, env=environment, timeout=60
    )  # fmt: skip

    assert told.stdout.startswith("HTTP/1.1 201"), told.stdout
    assert "/dicom-web/workitems/2.25.42" in told.stdout


def test_only_operators_store_and_only_into_the_study_that_they_name(console, client: DICOMwebClient, bearers) -> None:
    series = ct_series(1, seed=2)
    body, headers = multipart(part10(series[0]))
    address = f"{console.url}/dicom-web/studies"

    assert httpx2.post(address, content=body, headers=headers, timeout=60).status_code in (401, 403)
    assert httpx2.post(address, content=body, headers=headers | bearers["viewer"], timeout=60).status_code == 403
    with pytest.raises(HTTPError, match="409"):
        client.store_instances([dcmread(BytesIO(part10(series[0])))], "1.2.3")
    assert held(console, series) == []


def test_who_is_no_caller_stores_nothing_whatever_token_it_has(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    callers = [{"name": "elsewhere", "networks": ["10.0.0.0/8"]}]
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", callers=callers) as place:
        place.add_people()
        body, headers = multipart(part10(ct_series(1)[0]))

        named = headers | token(place, "operator")
        answer = httpx2.post(f"{place.url}/dicom-web/studies", content=body, headers=named, timeout=60)

    assert answer.status_code == 403


def test_the_limits_of_a_caller_are_for_what_it_stores_here_too(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    callers = [{"name": "here", "networks": ["127.0.0.0/8"], "associations_per_minute": 1}]
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", callers=callers) as place:
        place.add_people()
        body, headers = multipart(part10(ct_series(1)[0]))
        named, address = headers | token(place, "operator"), f"{place.url}/dicom-web/studies"

        answers = [httpx2.post(address, content=body, headers=named, timeout=60) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (*multipart(b"no DICOM"), 409),
        (multipart(b"x")[0], {"Content-Type": "multipart/related; type=application/dicom"}, 400),
        (multipart(b"x")[0], {"Content-Type": 'multipart/related; type="application/dicom+xml"; boundary=edge'}, 415),
        (b'<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>', {"Content-Type": "application/dicom+xml"}, 415),
        (b"\x1f\x8b" + bytes(100), multipart(b"")[1] | {"Content-Encoding": "gzip"}, 415),
        (b"--other--", multipart(b"")[1], 400),
    ],
)
def test_a_request_that_is_none_is_refused(console, bearers, body: bytes, headers: dict[str, str], expected: int) -> None:
    """B56 and B58."""
    answer = httpx2.post(f"{console.url}/dicom-web/studies", content=body, headers=headers | bearers["operator"], timeout=60)

    assert answer.status_code == expected


def test_two_framings_of_one_body_are_refused(console, bearers) -> None:
    """B56: what a proxy and we would read differently."""
    host, port = console.url.removeprefix("http://").split(":")
    head = (
        f"POST /dicom-web/workitems HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearers['operator']['Authorization']}\r\n"
        "Content-Type: application/dicom+json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4096)

    assert answer.split()[1] == b"400"


def test_a_body_that_is_announced_as_four_gigabytes_is_not_waited_for(console, bearers) -> None:
    """B56."""
    host, port = console.url.removeprefix("http://").split(":")
    head = (
        f"POST /dicom-web/workitems HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearers['operator']['Authorization']}\r\n"
        f"Content-Type: application/dicom+json\r\nContent-Length: {4 * 2**30}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4096)

    assert answer.split()[1] == b"413"


# --- Whatever comes, the answer is one of ours and no error of the server ---

WORDS = some.sampled_from(["workitems", "studies", "series", "instances", "state", "cancelrequest", "subscribers", "frames", "rendered",
    "metadata", "thumbnail", "bulkdata", "suspend", "2.25.1", "1.2.840.10008.5.1.4.34.5", "1", "*", "..", "%00", "'", "X"])  # fmt: skip
PATHS = some.lists(some.one_of(WORDS, some.text(max_size=8)), max_size=7).map(
    lambda words: "/".join(word if word == "%00" else quote(word, safe="") for word in words)
)  # fmt: skip
KEYS = some.sampled_from(["PatientName", "00100020", "limit", "offset", "includefield", "StudyDate", "ScheduledWorkitemCodeSequence.CodeValue",
    "deletionlock", "transaction", "workitem", "window", "viewport", "quality", "accept", "fuzzymatching"])  # fmt: skip
VALUES = some.one_of(
    some.text(max_size=20), some.sampled_from(["*", "-1", "20260101-", "1' OR 1=1 --", "%_\\", "9" * 40, "nan", ".", "x" * 9000])
)
JSONS: Any = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=10),
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.dictionaries(
            some.sampled_from(
                ["vr", "Value", "BulkDataURI", "InlineBinary", "00741000", "00404018", "00100010", "Alphabetic", "7FE00010"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
METHODS = some.sampled_from(["GET", "POST", "PUT", "DELETE"])


@QUIET
@given(METHODS, PATHS, some.lists(some.tuples(KEYS, VALUES), max_size=4), JSONS)
def test_no_request_makes_the_server_fail(
    console, http, bearers, method: str, path: str, query: list[tuple[str, str]], body: object
) -> None:
    """B57 and B60."""
    content = json.dumps(body).encode("utf-8", "replace")
    headers = bearers["operator"] | {"Content-Type": "application/dicom+json"}
    with suppress(httpx2.InvalidURL, UnicodeEncodeError):
        answer = http.request(
            method, f"{console.url}/dicom-web/{path}", params=query, content=content, headers=headers
        )  # fmt: skip

        assert answer.status_code < 500 or answer.status_code == 501, answer.text


@pytest.fixture(scope="module")
def workitem(console, bearers) -> str:
    uid = "2.25.4242"
    headers = bearers["operator"] | {"Content-Type": "application/dicom+json"}
    with httpx2.Client(base_url=f"{console.url}/dicom-web", headers=headers, timeout=60) as client:
        assert client.post(f"/workitems?workitem={uid}", json=order("nobody's")).status_code == 201
        assert client.put(f"/workitems/{uid}/state", json=state("IN PROGRESS", "2.25.1")).status_code == 200
    return uid


@QUIET
@given(
    some.dictionaries(
        some.sampled_from(
            [
                "00741002",
                "00741216",
                "00404041",
                "00741200",
                "00404005",
                "00741204",
                "00404018",
                "00404021",
                "00091001",
                "00080005",
            ]
        ),
        some.fixed_dictionaries(
            {"vr": some.sampled_from(["SQ", "CS", "LO", "DT", "PN", "UI", "DS", "OB", "UN", "??"])},
            optional={"Value": some.lists(JSONS, max_size=3), "InlineBinary": some.text(max_size=8)},
        ),
        max_size=4,
    )
)
def test_no_change_of_a_workitem_makes_it_unreadable(console, http, bearers, workitem: str, changes: dict[str, object]) -> None:
    """B57."""
    headers = bearers["operator"] | {"Content-Type": "application/dicom+json"}
    url = f"{console.url}/dicom-web/workitems/{workitem}"

    changed = http.post(f"{url}?transaction=2.25.1", content=json.dumps([changes]).encode(), headers=headers)
    held_now = http.get(url, headers=headers)
    found = http.get(f"{console.url}/dicom-web/workitems?SOPInstanceUID={workitem}", headers=headers)

    assert changed.status_code in (200, 400)
    assert (held_now.status_code, found.status_code) == (200, 200)
    assert held_now.json()[0]["00741000"]["Value"] == ["IN PROGRESS"]
