"""REST: the acts of the command line for programs; whatever is asked, no 5xx (schemathesis over the OpenAPI document)."""

from pathlib import Path

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from gateway.access import people
from gateway.rows.tables import Delivery, Job
from gateway.rows.trail import AuditEvent
from tests.console_fixture import PASSWORD, ConsolePlace, a_console
from tests.rows_fixture import OUTPUT, SERIES, SOURCE, STUDY, a_delivery, a_job, a_series

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
EXAMPLES = 6


@pytest.fixture(scope="module")
def ids(console: ConsolePlace) -> tuple[int, int]:
    """A job that failed and a delivery that did, of the series of rows_fixture."""
    a_series(console.db)
    job = a_job(console.db, state="failed", reason="x")
    return job, a_delivery(console.db, job, state="failed")


def token(console: ConsolePlace, name: str) -> dict[str, str]:
    made = people.make_token(console.db, name, label="rest", role=name, days=1, actor=name, now=console.site.clock())
    return {"Authorization": f"Bearer {made.secret}"}


def test_whatever_is_asked_the_answer_is_what_the_document_says_and_no_failure_of_ours(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    """On a gateway of its own: what it asks for, it does."""
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}") as place:
        place.add_people()
        a_series(place.db)
        a_delivery(place.db, a_job(place.db, state="failed"), state="failed")
        asked = ask_everything(place)
        assert len(asked) >= 30
        assert people.show_person(place.db, "administrator").disabled_at is None


def ask_everything(console: ConsolePlace) -> set[str]:
    headers = token(console, "administrator")
    schema = schemathesis.openapi.from_url(f"{console.url}/api/v1/openapi.json")
    asked = set()

    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            response = case.call(headers=headers, base_url=console.url)
            case.validate_response(response, checks=CHECKS, headers=headers)

        ask()
        asked.add(operation.label)

    return asked


def client(console: ConsolePlace, role: str) -> httpx2.Client:
    made = console.client()
    made.headers.update(token(console, role))
    made.base_url = console.url + "/api/v1"
    return made


def test_a_program_finds_a_study_and_follows_it_to_where_its_results_went(console: ConsolePlace, ids: tuple[int, int]) -> None:
    job, delivery = ids
    rest = client(console, "viewer")

    (line,) = rest.post("/studies/search", json={"text": "canary^n"}).json()["items"]
    story = rest.get(f"/series/{SERIES}").json()

    assert (line["study"]["study_instance_uid"], line["series"][0]["series"]["series_instance_uid"]) == (STUDY, SERIES)
    assert job in [one["job"]["id"] for one in story["jobs"]]
    assert rest.get(f"/jobs/{job}").json()["outputs"][0]["sop_instance_uid"] == OUTPUT
    assert rest.get(f"/deliveries/{delivery}").json()["delivery"]["peer"] == "pacs"
    assert rest.get(f"/instances/{OUTPUT}/provenance").json()["made"]["inputs"][0]["sop_instance_uid"] == SOURCE
    assert rest.get(f"/instances/{SOURCE}/provenance").json()["came"]["origin"]["calling_ae_title"] == "CT1"
    assert {one["name"] for one in rest.get("/peers").json()["items"]} == {"pacs"}


def test_lists_come_a_page_at_a_time(console: ConsolePlace, ids: tuple[int, int]) -> None:
    rest, found, after = client(console, "viewer"), [], ""
    for number in range(5):
        a_job(console.db, state="done", input_key=f"{number}" * 64)

    while True:
        page = rest.get("/jobs", params={"state": "done", "limit": 2, "after": after}).json()
        found += [one["job"]["id"] for one in page["items"]]
        if not (after := page["following"]):
            break

    assert len(found) == 5
    assert found == sorted(set(found), reverse=True)


def test_what_a_program_does_is_done_and_told_with_its_persons_name(console: ConsolePlace, ids: tuple[int, int]) -> None:
    job, delivery = ids
    rest = client(console, "operator")

    assert rest.post(f"/jobs/{job}/retry").json() == {"told": [f"job {job} is queued again"]}
    assert rest.post(f"/jobs/{job}/cancel").status_code == 200
    assert rest.post(f"/jobs/{job}/cancel").status_code == 409
    failed = a_job(console.db, input_key="f" * 64, state="failed")
    assert rest.post(f"/jobs/{failed}/cancel").json() == {"told": [f"job {failed} is cancelled"]}
    assert rest.post(f"/deliveries/{delivery}/retry").status_code == 200
    assert rest.post("/results/resend", json={"job": job, "to": "nowhere"}).status_code == 409
    assert rest.post("/results/retract", json={"job": job, "reason": "boredom"}).status_code == 409
    assert rest.post("/results/retract", json={"job": 999_999, "reason": "quality"}).status_code in {404, 409}
    assert rest.post("/peers/pacs/echo").status_code == 200

    with console.db() as session:
        assert session.get_one(Job, job).state == "cancelled"
        assert session.get_one(Delivery, delivery).state == "queued"
        told = session.query(AuditEvent).filter(AuditEvent.act.in_(["job.retried", "job.cancelled"]), AuditEvent.job == job)
        assert {event.actor for event in told} == {"operator"}
    problem = rest.get("/jobs/999999")
    assert (problem.status_code, problem.json()["problems"]) == (404, ["there is no job 999999"])


def test_an_administrator_is_no_second_person_by_a_token_that_they_made(console: ConsolePlace) -> None:
    now, asked = console.site.clock(), {"label": "x", "role": "administrator"}
    people.add_person(console.db, "second", role="administrator", password=PASSWORD, actor="tests", now=now)
    headers = token(console, "administrator")

    made = {
        (name, role): console.client().post(f"/api/v1/people/{name}/tokens", json=asked | {"role": role}, headers=headers)
        for name in ("second", "administrator") for role in ("operator", "administrator")
    }  # fmt: skip

    assert {key for key, answer in made.items() if answer.status_code == 409} == {("second", "administrator")}
    assert "is made by that person" in made["second", "administrator"].text


def test_a_time_that_no_database_holds_is_refused(console: ConsolePlace) -> None:
    for asked in ({"since": "0001-01-01T00:00:00+14:00"}, {"until": "9999-12-31T23:59:59-14:00"}):
        answer = console.client().post("/api/v1/jobs/search", json=asked, headers=token(console, "viewer"))
        assert answer.status_code == 422


def test_an_administrator_writes_rules_and_brings_them_into_force(console: ConsolePlace) -> None:
    rest = client(console, "administrator")
    text = "rules:\n  - name: chest CT\n    when: {all: [{attribute: Modality, is: CT}]}\n    pipeline: bright\n    send_to: [pacs]\n"

    kept = rest.post("/rules", json={"text": text, "note": "first"})
    wrong = rest.post("/rules", json={"text": text.replace("pacs", "nowhere")})
    catastrophic = rest.post("/rules", json={"text": text.replace("is: CT", 'matches: "(((a+)+)+)+$"')})
    many = rest.post("/rules", json={"text": "rules:\n" + "  - {name: a, when: {all: []}}\n" * 10_000})
    number = rest.get("/rules").json()["items"][0]["version"]["number"]

    assert kept.status_code == 201
    assert (wrong.status_code, many.status_code) == (409, 409)
    assert wrong.json()["problems"]
    assert catastrophic.status_code in {201, 409}
    assert rest.post(f"/rules/{number}/activate").status_code == 200
    assert rest.get("/rules/active").json()["number"] == number
    assert client(console, "operator").post("/rules", json={"text": text}).status_code == 403


def test_a_search_takes_what_its_list_can_be_narrowed_to_and_refuses_the_rest(
    console: ConsolePlace, ids: tuple[int, int]
) -> None:
    rest = client(console, "viewer")
    narrow = {
        "studies": {"modality"}, "series": {"modality", "state", "rule", "peer"}, "jobs": {"state", "pipeline"},
        "deliveries": {"state", "peer"},
    }  # fmt: skip

    for name, known in narrow.items():
        for field in ("modality", "state", "rule", "peer", "pipeline"):
            answer = rest.post(f"/{name}/search", json={field: "failed"})
            assert (answer.status_code == 422) == (field not in known), (name, field, answer.text)
    assert rest.post("/deliveries/search", json={"peer": "nobody"}).json()["items"] == []


def test_a_query_that_is_misspelt_or_repeated_is_refused_and_not_answered_with_everything(
    console: ConsolePlace, ids: tuple[int, int]
) -> None:
    rest = client(console, "viewer")

    misspelt = rest.get("/jobs", params={"status": "failed"})
    repeated = rest.get("/jobs", params=[("state", "failed"), ("state", "done")])

    assert (misspelt.status_code, misspelt.json()["problems"]) == (422, ["status: unknown here"])
    assert (repeated.status_code, repeated.json()["problems"]) == (422, ["state: expected once"])
    assert rest.get("/jobs", params={"state": "failed", "pipeline": "bright", "limit": 1, "after": ""}).status_code == 200


def test_a_body_that_is_not_there_or_not_said_to_be_json_is_told_so(console: ConsolePlace) -> None:
    rest = client(console, "operator")
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    answers = [rest.post("/results/retract"), rest.post("/results/retract", content=b'{"job": 1}', headers=form)]

    for answer in answers:
        assert answer.json()["problems"] == ["body: expected a JSON object, sent with Content-Type: application/json"]


def test_head_is_answered_as_get_without_a_body(console: ConsolePlace, ids: tuple[int, int]) -> None:
    rest = client(console, "viewer")

    for path in ("/api/v1/jobs", "/healthz", "/readyz", "/metrics", "/sign-in"):
        asked, told = rest.get(console.url + path), rest.head(console.url + path)
        assert (told.status_code, told.content) == (asked.status_code, b""), path
        assert told.headers["content-type"] == asked.headers["content-type"]
    assert console.client().head("/api/v1/jobs").status_code == 401
    assert rest.head("/results/retract").status_code == 405


def test_a_peer_is_retired_by_who_says_how_much_waits_for_it(console: ConsolePlace, ids: tuple[int, int], tmp_path: Path) -> None:
    rest = client(console, "administrator")
    rest.post("/peers", json={"name": "off", "protocol": "folder", "settings": {"path": str(tmp_path)}})
    a_delivery(console.db, ids[0], peer="off")
    count, asked = rest.get("/peers/off").json()["to_give_up"], {"reason": "switched off"}

    assert client(console, "operator").post("/peers/off/retire", json=asked | {"count": count}).status_code == 403
    assert rest.post("/peers/off/retire", json=asked | {"count": count + 1}).status_code == 409
    assert rest.post("/peers/off/retire", json=asked).status_code == 422
    told = rest.post("/peers/off/retire", json=asked | {"count": count}).json()

    assert told == {"told": ["1 deliveries to off are cancelled: switched off"]}
    assert rest.delete("/peers/off").status_code == 200


def test_a_peer_is_reached_whatever_its_name_is(console: ConsolePlace, tmp_path: Path) -> None:
    rest = client(console, "administrator")
    rest.post("/peers", json={"name": "ct/1 disable", "protocol": "folder", "settings": {"path": str(tmp_path)}})
    place = "/peers/ct%2F1%20disable"

    assert rest.get(place).json()["name"] == "ct/1 disable"
    assert rest.patch(place, json={"settings": {"concurrency": 1}}).status_code == 200
    assert [rest.post(f"{place}/{act}").status_code for act in ("disable", "enable", "echo", "probe")] == [200] * 4
    assert rest.delete(place).json() == {"told": ["peer ct/1 disable is removed; its deliveries stay on record"]}
    assert rest.get(place).status_code == 404
