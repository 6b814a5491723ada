"""What Prometheus is told: of all gateways on one database, and of each process; no UID and no patient's data among it."""

import re
import shutil
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from gateway.access import people
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.doors.tally import Tally
from gateway.rows.tables import Delivery, Job
from gateway.rows.trail import OpenAlarm
from gateway.telling.metrics import Meter
from tests.console_fixture import a_console
from tests.ports import free_port
from tests.rows_fixture import NOW, OUTPUT, SERIES, a_delivery, a_job, a_series
from tests.synthetic import ct_series
from tests.world import World

UID = re.compile(r"\d+(\.\d+){5,}")


class Doors:
    closed = "what was taken before has not reached the database yet"
    filed_at = NOW - timedelta(seconds=40)
    pids = {0: 10**9}  # noqa: RUF012

    def __init__(self) -> None:
        self.tally = Tally(processes=2)


def meter(db: Database, folder: Path, doors: Doors | None = None) -> Meter:
    return Meter(db, store=folder, doors=lambda: doors, away=lambda: {"bright": True, "lung": False}, clock=lambda: NOW)


def told(document: bytes) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    families = text_string_to_metric_families(document.decode())
    return {(one.name.removeprefix("gateway_"), *one.labels.values()): one.value for family in families for one in family.samples}


def asked(one: Meter) -> dict[tuple[str, ...], float]:
    return told(one.exposition()[0])


def test_rows_tell_what_waits_runs_and_failed(db: Database, tmp_path: Path) -> None:
    a_series(db)
    job = a_job(db, created_at=NOW - timedelta(hours=1))
    a_job(db, input_key="8" * 64, state="failed")
    a_job(db, input_key="9" * 64, state="running", priority="stat")
    a_job(db, input_key="a" * 64, state="done")
    a_delivery(db, job, state="held")
    with db.begin() as session:
        session.add(OpenAlarm(kind="silence", subject="CT1", raised_at=NOW, since=NOW, reason=""))

    found = asked(meter(db, tmp_path))

    assert {key: value for key, value in found.items() if key[0] in ("jobs", "deliveries", "lane_depth", "alarms")} == {
        ("jobs", "bright", "queued"): 1, ("jobs", "bright", "failed"): 1, ("jobs", "bright", "running"): 1,
        ("deliveries", "pacs", "held"): 1, ("alarms", "silence"): 1,
        ("lane_depth", "settle"): 0, ("lane_depth", "model.bright"): 1, ("lane_depth", "stat.bright"): 1, ("lane_depth", "peer.pacs"): 0,
    }  # fmt: skip
    assert found["job_oldest_seconds",] == 3600
    assert found["model_away", "bright"] == 1
    assert found["model_away", "lung"] == 0
    assert found["process_resident_bytes", "gateway"] > 10**6
    assert found["disk_free_bytes",] > 0
    assert found["database_up",] == 1


def test_the_trail_is_added_up_from_the_first_question_on(db: Database, tmp_path: Path) -> None:
    a_series(db)
    job = a_job(db)
    a_delivery(db, job)
    one = meter(db, tmp_path)
    position = asked(one)["audit_position",]
    assert position > 0
    assert {count for key, count in asked(one).items() if key[0] == "events_total"} == {0}, "Prometheus sees the first one come"

    with db.begin() as session:
        row, delivery = session.get_one(Job, job), session.query(Delivery).one()
        row.state, row.started_at, row.inferred_at = "done", NOW + timedelta(seconds=3), NOW + timedelta(seconds=7)
        row.encoded_at, row.ended_at = NOW + timedelta(seconds=8), NOW + timedelta(seconds=9)
        delivery.sent_at = NOW + timedelta(seconds=20)
        audit.record(session, Act.SERIES_COMPLETE, at=NOW + timedelta(seconds=2), series=SERIES)
        audit.record(session, Act.JOB_DONE, at=NOW, series=SERIES, job=job)
        for act, seconds in ((Act.DELIVERY_SENT, 20), (Act.DELIVERY_PROVED, 24)):
            audit.record(session, act, at=NOW + timedelta(seconds=seconds), instance=OUTPUT, job=job, peer="pacs")
        audit.record(session, Act.DELIVERY_SENT, at=NOW, instance=OUTPUT, job=job, peer="another")
    asked(one)
    found = asked(one)

    assert found["audit_position",] == position + 5
    assert found["events_total", "delivery.sent"] == 2
    assert found["jobs_ended_total", "", "bright", "done"] == 1
    assert [found["job_seconds_sum", "bright", stage] for stage in ("wait", "infer", "encode", "total")] == [3, 4, 1, 9]
    assert found["delivery_attempts_total", "pacs", "sent"] == 1
    assert [found["delivery_seconds_sum", "pacs", stage] for stage in ("sent", "proved")] == [20, 4]
    assert (found["series_settle_seconds_count",], found["series_settle_seconds_sum",]) == (1, 2)


def test_a_failed_job_is_counted_by_its_code(db: Database, tmp_path: Path) -> None:
    a_series(db)
    job = a_job(db, state="failed", code="GEOMETRY")
    one = meter(db, tmp_path)
    asked(one)
    with db.begin() as session:
        audit.record(session, Act.JOB_FAILED, at=NOW, series=SERIES, job=job)

    assert asked(one)["jobs_ended_total", "GEOMETRY", "bright", "failed"] == 1


def test_ingest_processes_count_for_themselves_and_a_successor_goes_on() -> None:
    whole = Tally(processes=2)
    for process in (0, 1, 1):
        one = Tally(whole._numbers, process=process, processes=2)
        one.add("instances")
        one.add("bytes", 500)
        one.refused(0xA700)
        one.refused(0x0118)

    totals = whole.totals()

    assert (totals["instances"], totals["bytes"], totals["0xA700"], totals["other"], totals["0xC000"]) == (3, 1500, 3, 3, 0)


def test_the_process_is_told_of_while_the_database_is_away(tmp_path: Path) -> None:
    away = sessionmaker(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    doors = Doors()
    doors.tally.refused(0xA700)

    found = asked(meter(away, tmp_path, doors))

    assert found["database_up",] == 0
    assert (found["door_closed",], found["filing_behind_seconds",], found["instances_refused_total", "0xA700"]) == (1, 40, 1)
    assert ("audit_position",) not in found


def test_no_uid_and_nothing_of_a_patient_is_told(db: Database, tmp_path: Path) -> None:
    a_series(db)
    a_delivery(db, a_job(db))
    one = meter(db, tmp_path, Doors())
    asked(one)
    with db.begin() as session:
        audit.record(session, Act.INSTANCE_REFUSED, at=NOW, actor="CANARY", series=SERIES, status="0xC000", reason="CANARY")

    document = one.exposition()[0].decode()

    assert "instance.refused" in document
    assert not UID.search(document)
    assert "CANARY" not in document


def test_what_ingest_processes_did_is_told_by_their_gateway(tmp_path: Path) -> None:
    web = free_port()
    settings = {"web": {"port": web}, "dimse": {"processes": 2, "calling_ae_titles": ["CT1"]}}
    with World(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", "127.0.0.1:1", settings=settings) as world:
        world.start()
        for seed, slices in ((1, 3), (2, 2)):
            assert set(world.send(ct_series(slices, seed=seed))) == {0x0000}
        with pytest.raises(ConnectionError):
            world.send(ct_series(2), calling="STRANGER")
        world.wait_until(lambda: world.logged("web.started"))  # after the doors
        found = told(httpx2.get(f"http://127.0.0.1:{web}/metrics", timeout=60).content)

    assert found["instances_total",] == 5
    assert found["instance_bytes_total",] > 5 * 512
    assert (found["associations_total", "accepted"], found["associations_total", "rejected"]) == (2, 1)
    assert {key[1] for key in found if key[0] == "process_open_files"} == {"gateway", "ingest-0", "ingest-1"}
    assert (found["door_closed",], found["database_up",]) == (0, 1)


def test_this_machine_asks_freely_and_another_one_by_a_token(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    web = {"port": 0, "behind_proxy": True}
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", web=web) as place:
        place.add_people()
        made = people.make_token(
            place.db, "viewer", label="prometheus", role="viewer", days=1, actor="tests", now=place.site.clock()
        )  # fmt: skip
        elsewhere = {"X-Forwarded-For": "10.1.2.3"}
        taken = {"X-Forwarded-For": "127.0.0.1", "Accept": "application/openmetrics-text;version=1.0.0"}
        with httpx2.Client(base_url=place.url, timeout=30) as client:
            here = client.get("/metrics", headers=taken)
            unknown = client.get("/metrics")
            claimed = client.get("/metrics", headers=[("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-For", "10.1.2.3")])
            none = client.get("/metrics", headers=elsewhere)
            wrong = client.get("/metrics", headers=elsewhere | {"Authorization": "Bearer nonsense"})
            right = client.get("/metrics", headers=elsewhere | {"Authorization": f"Bearer {made.secret}"})

    assert here.headers["content-type"].startswith("application/openmetrics-text")
    assert here.text.endswith("# EOF\n")
    assert [answer.status_code for answer in (unknown, claimed, none, wrong, right)] == [401, 401, 401, 401, 200]
    assert "gateway_" not in none.text + wrong.text
