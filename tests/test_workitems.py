"""UPS-RS: workitems ordered, claimed, followed, ended and looked for by clients that know only HTTP (PS3.18 11)."""

import json
from collections.abc import Iterator
from uuid import uuid4

import httpx2
import pytest
from pydicom import Dataset
from sqlalchemy import select
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gateway.access import people
from gateway.auditing.audit import Act
from gateway.rows.columns import Table
from gateway.rows.trail import AuditEvent
from tests.workitem_fixture import TRANSACTION, item, json_of, order, performed, state

JSON = {"Content-Type": "application/dicom+json"}
WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"


def bearer(console, name: str) -> str:
    made = people.make_token(console.db, name, label=uuid4().hex, role=name, days=1, actor=name, now=console.site.clock())
    return f"Bearer {made.secret}"


@pytest.fixture(scope="module")
def tokens(console) -> dict[str, str]:
    return {name: bearer(console, name) for name in ("viewer", "operator", "administrator")}


@pytest.fixture
def ups(console, tokens) -> Iterator[httpx2.Client]:
    """An operator's client of the service."""
    headers = {"Authorization": tokens["operator"], **JSON}
    with httpx2.Client(base_url=f"{console.url}/dicom-web", headers=headers, timeout=30) as client:
        yield client


def uid() -> str:
    return f"2.25.{uuid4().int}"


def made(ups: httpx2.Client, **more: object) -> str:
    """A workitem of another performer."""
    named = uid()
    assert ups.post(f"/workitems?workitem={named}", json=order("somebody else's", **more)).status_code == 201
    return named


def held(ups: httpx2.Client, named: str) -> Dataset:
    answer = ups.get(f"/workitems/{named}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    (found,) = answer.json()
    return Dataset.from_json(found)


def listen(console, token: str, ae_title: str) -> ClientConnection:
    url = f"{console.url.replace('http', 'ws', 1)}/dicom-web/subscribers/{ae_title}"
    return connect(url, additional_headers={"Authorization": token}, proxy=None)


def heard(channel: ClientConnection) -> Dataset:
    return Dataset.from_json(json.loads(channel.recv(timeout=60)))


def test_a_workitem_is_created_once_and_retrieved_as_it_was_asked_for(console, ups) -> None:
    named = uid()

    first, again = (ups.post(f"/workitems?{named}", json=order(series="1.2.3")) for _ in range(2))

    assert first.status_code == 201
    assert first.headers["location"] == f"{console.url}/dicom-web/workitems/{named}"
    assert again.status_code == 409
    found = held(ups, named)
    assert (found.SOPInstanceUID, found.SOPClassUID) == (named, "1.2.840.10008.5.1.4.34.6.1")
    assert (found.ProcedureStepState, found.PatientName) == ("SCHEDULED", "CANARY^NAME")
    assert found.InputInformationSequence[0].SeriesInstanceUID == "1.2.3"
    assert "TransactionUID" not in found


def test_one_that_lacks_its_worklist_is_told_that_it_was_added(ups) -> None:
    answer = ups.post("/workitems", json=order(WorklistLabel=""))

    assert answer.headers["warning"].endswith("The UPS was created with modifications.")
    assert held(ups, answer.headers["location"].rpartition("/")[2]).WorklistLabel


@pytest.mark.parametrize(
    "wrong",
    [
        {"ProcedureStepState": "IN PROGRESS"},
        {"ProcedureStepLabel": ""},
        {"InputReadinessState": "MAYBE"},
        {"ScheduledProcedureStepPriority": "NOW"},
        {"ScheduledProcedureStepStartDateTime": ""},
        {"TransactionUID": "1.2.3"},
        {"SOPClassUID": "1.2.3"},
        {"SOPInstanceUID": "1.2.3"},
        {"UnifiedProcedureStepPerformedProcedureSequence": [item(PerformedProcedureStepStartDateTime="20260102")]},
    ],
)
def test_one_that_may_not_be_created_says_what_was_expected(ups, wrong: dict[str, object]) -> None:
    answer = ups.post(f"/workitems?workitem={uid()}", json=order(**wrong))

    assert answer.status_code == 400
    assert "expected" in answer.json()["detail"]
    assert "CANARY" not in answer.text


def test_another_performer_claims_updates_and_completes_it(ups) -> None:
    named = made(ups)

    claimed = ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS"))
    early = ups.put(f"/workitems/{named}/state", json=state("COMPLETED"))
    updated = ups.post(f"/workitems/{named}?transaction={TRANSACTION}", json=performed())
    completed, again = (ups.put(f"/workitems/{named}/state", json=state("COMPLETED")) for _ in range(2))

    assert (claimed.status_code, early.status_code, updated.status_code) == (200, 409, 200)
    assert "OutputInformationSequence" in early.headers["warning"]
    assert (completed.status_code, again.status_code) == (200, 200)
    assert again.headers["warning"].endswith("The UPS is already in the requested state of COMPLETED.")
    assert held(ups, named).ProcedureStepState == "COMPLETED"
    assert ups.post(f"/workitems/{named}?transaction={TRANSACTION}", json=performed()).status_code == 409


def test_only_who_has_claimed_it_may_change_it(ups) -> None:
    named = made(ups)
    assert ups.post(f"/workitems/{named}", json=json_of(ProcedureStepLabel="other")).status_code == 200
    assert ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS")).status_code == 200

    second = ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS", "2.25.999"))
    missing = ups.post(f"/workitems/{named}", json=json_of(ProcedureStepLabel="x"))
    incorrect = ups.put(f"/workitems/{named}/state", json=state("CANCELED", "2.25.999"))
    back = ups.put(f"/workitems/{named}/state", json=state("SCHEDULED"))

    assert {second.status_code, missing.status_code, incorrect.status_code, back.status_code} == {409}
    assert missing.headers["warning"].endswith("The Transaction UID is missing.")
    assert incorrect.headers["warning"].endswith("The Transaction UID is incorrect.")
    assert held(ups, named).ProcedureStepLabel == "other"


def test_one_that_nobody_has_begun_is_canceled_when_that_is_asked_for(ups) -> None:
    named = made(ups)

    asked = ups.post(f"/workitems/{named}/cancelrequest", json=json_of(ReasonForCancellation="a mistake"))
    again = ups.post(f"/workitems/{named}/cancelrequest")

    assert (asked.status_code, again.status_code) == (202, 202)
    assert again.headers["warning"].endswith("The UPS is already in the requested state of CANCELED.")
    found = held(ups, named)
    assert found.ProcedureStepState == "CANCELED"
    assert found.ProcedureStepProgressInformationSequence[0].ReasonForCancellation == "a mistake"


def test_who_performs_it_is_told_that_it_is_not_wanted_any_more(console, ups, tokens) -> None:
    named, performer = made(ups), uuid4().hex[:16]
    ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS"))
    alone = ups.post(f"/workitems/{named}/cancelrequest", json=json_of(ReasonForCancellation="too late"))
    assert ups.post(f"/workitems/{named}/subscribers/{performer}").status_code == 201

    with listen(console, tokens["operator"], performer) as channel:
        first = heard(channel)
        asked = ups.post(
            f"/workitems/{named}/cancelrequest", json=json_of(ReasonForCancellation="too late", ContactDisplayName="ann")
        )
        told = heard(channel)

    assert (alone.status_code, asked.status_code) == (409, 202)
    assert (first.EventTypeID, first.ProcedureStepState) == (1, "IN PROGRESS")
    assert (told.EventTypeID, told.AffectedSOPInstanceUID, told.ReasonForCancellation) == (2, named, "too late")
    assert told.ContactDisplayName == "ann"
    assert held(ups, named).ProcedureStepState == "IN PROGRESS"


def test_who_follows_the_worklist_is_told_of_every_new_workitem_until_it_suspends_that(console, ups, tokens) -> None:
    follower = uuid4().hex[:16]
    subscribed = ups.post(f"/workitems/{FILTERED}/subscribers/{follower}?deletionlock=true&ProcedureStepLabel={follower}")
    assert subscribed.status_code == 201
    assert subscribed.headers["warning"].endswith("Deletion Lock not granted.")
    assert subscribed.headers["content-location"].startswith("ws://")

    made(ups)  # nobody's
    named = made(ups, ProcedureStepLabel=follower)
    with listen(console, tokens["operator"], follower) as channel:
        ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS"))
        ups.post(f"/workitems/{named}?transaction={TRANSACTION}", json=json_of(ProcedureStepProgressInformationSequence=[item(ProcedureStepProgress="40")]))  # fmt: skip
        told = [heard(channel) for _ in range(3)]
        assert ups.post(f"/workitems/{FILTERED}/subscribers/{follower}/suspend").status_code == 200
        made(ups, ProcedureStepLabel=follower)
        ups.post(f"/workitems/{named}?transaction={TRANSACTION}", json=performed())
        ups.put(f"/workitems/{named}/state", json=state("COMPLETED"))
        last = [heard(channel) for _ in range(2)]
        assert ups.delete(f"/workitems/{FILTERED}/subscribers/{follower}").status_code == 200

    assert {one.AffectedSOPInstanceUID for one in (*told, *last)} == {named}
    assert [one.EventTypeID for one in told] == [1, 1, 3]
    assert [one.ProcedureStepState for one in told[:2]] == ["SCHEDULED", "IN PROGRESS"]
    assert told[2].ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 40
    assert [one.ProcedureStepState for one in last] == ["IN PROGRESS", "COMPLETED"]
    assert ups.delete(f"/workitems/{FILTERED}/subscribers/{follower}").status_code == 404


def test_events_wait_for_a_channel_and_an_ae_title_is_one_persons(console, ups, tokens) -> None:
    named, follower = made(ups), uuid4().hex[:16]
    ups.post(f"/workitems/{named}/subscribers/{follower}")
    ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS"))
    other = {"Authorization": tokens["administrator"]}

    taken = ups.post(f"/workitems/{named}/subscribers/{follower}", headers=other)
    for token in (tokens["administrator"], "Bearer wrong", ""):
        with pytest.raises(InvalidStatus):
            listen(console, token, follower)
    with listen(console, tokens["operator"], follower) as channel:
        found = [heard(channel).ProcedureStepState for _ in range(2)]

    assert taken.status_code == 403
    assert found == ["SCHEDULED", "IN PROGRESS"]


def test_nobody_listens_for_an_ae_title_that_is_not_theirs_yet_or_not_any_more(console, ups, tokens) -> None:
    named, follower, mine = made(ups), uuid4().hex[:16], {"Authorization": tokens["viewer"]}

    with pytest.raises(InvalidStatus):
        listen(console, tokens["viewer"], follower)
    assert ups.post(f"/workitems/{named}/subscribers/{follower}", headers=mine).status_code == 201
    with listen(console, tokens["viewer"], follower) as before:
        assert heard(before).ProcedureStepState == "SCHEDULED"
        assert ups.delete(f"/workitems/{named}/subscribers/{follower}", headers=mine).status_code == 200
        assert ups.post(f"/workitems/{named}/subscribers/{follower}").status_code == 201
        with pytest.raises(TimeoutError):
            before.recv(timeout=2)
        with listen(console, tokens["operator"], follower) as channel:
            assert heard(channel).ProcedureStepState == "SCHEDULED"


def test_a_performer_finds_what_it_may_do_by_work_item_code_and_state(ups) -> None:
    label = uuid4().hex
    first, second = (made(ups, ProcedureStepLabel=label) for _ in range(2))
    ups.put(f"/workitems/{second}/state", json=state("IN PROGRESS"))
    mine = {"ProcedureStepLabel": label, "ScheduledWorkitemCodeSequence.CodeValue": "somebody else's"}

    waiting = ups.get("/workitems", params=mine | {"ProcedureStepState": "SCHEDULED"})
    by_tag = ups.get("/workitems", params={"00741204": label, "00404018.00080102": "99CAIGW", "includefield": "all"})
    none = ups.get("/workitems", params=mine | {"PatientID": "NOBODY"})

    assert [one["00080018"]["Value"] for one in waiting.json()] == [[first]]
    assert [one["00080018"]["Value"] for one in by_tag.json()] == [[second], [first]]
    assert (none.status_code, none.content) == (204, b"")


@pytest.mark.parametrize(
    "query",
    [
        "00741204={label}&InputReadinessState=READY",
        "filter=ProcedureStepLabel={label},InputReadinessState=READY",
        "filter=00741204%3D{label}%2CStudyInstanceUID%3D1.2,1.3%2C00404041%3DREADY",
    ],
)
def test_a_filter_is_told_as_parameters_or_as_one(console, ups, tokens, query) -> None:
    follower = f"F{uuid4().hex[:9]}"
    fitting = made(ups, ProcedureStepLabel=follower, StudyInstanceUID="1.3")
    made(ups, ProcedureStepLabel="another", StudyInstanceUID="1.3")
    made(ups, ProcedureStepLabel=follower, StudyInstanceUID="1.3", InputReadinessState="INCOMPLETE")

    asked = ups.post(f"/workitems/{FILTERED}/subscribers/{follower}?{query.format(label=follower)}")

    assert asked.status_code == 201
    with listen(console, tokens["operator"], follower) as channel:
        assert heard(channel).AffectedSOPInstanceUID == fitting
        with pytest.raises(TimeoutError):
            channel.recv(timeout=1.5)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/workitems/2.25.1", None, 404),
        ("POST", "/workitems/2.25.1", json_of(ProcedureStepLabel="x"), 404),
        ("PUT", "/workitems/2.25.1/state", state("IN PROGRESS"), 404),
        ("POST", "/workitems/2.25.1/cancelrequest", None, 404),
        ("POST", "/workitems/2.25.1/subscribers/X", None, 404),
        ("POST", "/workitems/2.25.1/subscribers/X/suspend", None, 404),
        ("DELETE", f"/workitems/{WORKLIST}/subscribers/NOBODY", None, 404),
        ("POST", f"/workitems/{FILTERED}/subscribers/X?PatientID=CANARY-ID", None, 400),
        ("POST", f"/workitems/{FILTERED}/subscribers/X?filter=PatientID=CANARY-ID", None, 400),
        ("POST", f"/workitems/{WORKLIST}/subscribers/{'x' * 17}", None, 400),
        ("POST", "/workitems?workitem=nonsense", order(), 400),
        ("PUT", "/workitems/2.25.1/state", state("SLEEPING"), 400),
        (
            "PUT",
            "/workitems/2.25.1/state",
            [{"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": ["x"]}}],
            400,
        ),
        ("GET", "/workitems?limit=-1", None, 400),
        ("GET", "/workitems?PatientName.CodeValue=x", None, 400),
        ("GET", "/workitems?" + ".".join(["00404018"] * 50) + "=x", None, 400),
    ],
)
def test_what_cannot_be_done_has_its_status(ups, method: str, path: str, body: object, expected: int) -> None:
    answer = ups.request(method, path, json=body)

    assert answer.status_code == expected
    assert answer.headers["content-type"] == "application/problem+json"
    assert "CANARY" not in answer.text


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("[" * 10_000, "application/dicom+json", 400),
        ('[{"00404021":' + '{"vr":"SQ","Value":[{"00404021":' * 3000, "application/dicom+json", 400),
        (json.dumps([{"00404021": {"vr": "SQ", "BulkDataURI": "http://169.254.169.254/"}}]), "application/dicom+json", 400),
        (json.dumps([{"00104000": {"vr": "OB", "InlineBinary": "!"}}]), "application/dicom+json", 400),
        (json.dumps([{"00104000": {"vr": "UT", "Value": ["x" * 2**20]}}]), "application/dicom+json", 413),
        (json.dumps([{"00104000": {"vr": "DS", "Value": [float("nan")]}}]), "application/dicom+json", 400),
        (json.dumps([{"00020010": {"vr": "UI", "Value": ["1.2"]}}]), "application/dicom+json", 400),
        ("[{}, {}]", "application/dicom+json", 400),
        ("", "application/dicom+json", 400),
        ('<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>', "application/dicom+xml", 415),
    ],
)
def test_hostile_bodies_are_refused_and_fetch_nothing(ups, body: str, kind: str, expected: int) -> None:
    """B57 and B58 of the bad inputs."""
    answer = ups.post(f"/workitems?workitem={uid()}", content=body.encode(), headers={"Content-Type": kind})

    assert answer.status_code == expected


@pytest.mark.parametrize("tag", ["00020010", "00000002"])
def test_an_order_that_holds_more_than_a_data_set_may_is_refused(ups, tag: str) -> None:
    """Written into a file, it would be read as another order."""
    named, (good,) = uid(), order()

    answer = ups.post(f"/workitems?workitem={named}", json=[{**good, tag: {"vr": "UI", "Value": ["1.2.840.10008.1.2.2"]}}])

    assert answer.status_code == 400
    assert ups.get(f"/workitems/{named}").status_code == 404
    assert ups.post(f"/workitems?workitem={named}", json=[good]).status_code == 201


def test_viewers_look_and_operators_order(console, ups, tokens) -> None:
    named = made(ups)
    viewer = {"Authorization": tokens["viewer"]}

    assert ups.get(f"/workitems/{named}", headers=viewer).status_code == 200
    assert ups.post("/workitems", json=order(), headers=viewer).status_code == 403
    assert ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS"), headers=viewer).status_code == 403
    assert httpx2.get(f"{console.url}/dicom-web/workitems", timeout=30).status_code == 401
    assert console.client("operator").post("/dicom-web/workitems", json=order()).status_code == 403, "CSRF"


def test_the_trail_tells_who_did_what_without_a_patient(console, ups) -> None:
    named = made(ups)
    ups.put(f"/workitems/{named}/state", json=state("IN PROGRESS"))

    with console.db() as session:
        events = session.query(AuditEvent).where(AuditEvent.sop_instance_uid == named).order_by(AuditEvent.id).all()
    assert [(event.act, event.actor) for event in events] == [
        (Act.WORKITEM_CREATED, "operator"),
        (Act.WORKITEM_CLAIMED, "operator"),
    ]
    assert not [event for event in events if "CANARY" in str(event.detail)]


def test_a_patient_of_a_workitem_stands_in_its_file_and_in_no_row(console, ups) -> None:
    named = made(ups)
    ups.post(f"/workitems/{named}/cancelrequest", json=json_of(ReasonForCancellation="CANARY coughed"))

    with console.db() as session:
        rows = "".join(str([*row]) for table in Table.metadata.sorted_tables for row in session.execute(select(table)))
    assert named in rows
    assert "CANARY" not in rows
    assert "CANARY coughed" in held(ups, named).ProcedureStepProgressInformationSequence[0].ReasonForCancellation


def test_who_takes_no_json_is_told_what_there_is(ups) -> None:
    answer = ups.get(f"/workitems/{made(ups)}", headers={"Accept": "application/dicom+xml"})

    assert answer.status_code == 406
