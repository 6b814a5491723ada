"""Patient data live in two places, the store's files and table gw_study: what carries a canary must appear nowhere else."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import MetaData, inspect, select

from gateway.db import Database
from gateway.inference.tritonserver import TritonServer
from gateway.rows.tables import Study
from gateway.telling.happening import Kind
from tests.notices_fixture import Hook, Mailbox, mail_server, web_server
from tests.otlp_fixture import otlp_collector
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.triton_fixture import start_triton
from tests.world import World, associate, store

TESTS = Path(__file__).parent
BIRTH_DATE = "19471113"
CANARY = re.compile(rf"canary|{BIRTH_DATE}".encode(), re.IGNORECASE)
RULES = """\
rules:
  - name: chest CT
    when: {all: [{attribute: Modality, is: CT}, {attribute: PatientName, exists: true}, {fact: slices, at_least: 2}]}
    pipeline: bright
    send_to: [PEERS]
  - name: careless
    when: {all: [{attribute: SeriesDescription, is: careless}]}
    pipeline: indiscreet
    send_to: [PEERS]
  - name: another patient
    when: {any: [{attribute: PatientID, is: SOMEBODY-ELSE}, {expression: 'PatientName.contains("ELSE") || AccessionNumber == "1"'}]}
    pipeline: bright
    send_to: [PEERS]
"""


def patient(seed: int, **more: object) -> list[Dataset]:
    return ct_series(6, seed=seed, PatientBirthDate=BIRTH_DATE, **more)


def go_through_everything(world: World) -> None:
    """Results, a series with a gap, a pipeline that fails, refused instances, a stranger, a dead peer, a stop and a start."""
    good, gap, careless = patient(0), patient(1), patient(2, SeriesDescription="careless")
    talkative = patient(3, SeriesDescription="of CANARY", ImageComments="CANARY coughed", InstitutionName="CANARY clinic")
    world.settings = {**world.settings, "completeness": {"deadline_seconds": 1, "at_deadline": "partial"}}
    world.config.write_text(world.toml())
    world.start()
    del gap[3]  # it waits for what is missing, until its deadline
    for series in (good, gap, careless, talkative):
        assert world.send(series) == [0x0000] * len(series)
    with pytest.raises(ConnectionError):
        world.send(good, calling="STRANGER")
    association = associate(world.port, good)
    assert store(association, good[0], data=b"CANARY^NAME" * 99) == 0xC000
    assert store(association, good[0], AffectedSOPInstanceUID="1.2.3") == 0x0117
    assert store(association, patient(0, PatientComments="CANARY comment")[0]) == 0x0000
    association.release()
    world.wait_until(lambda: sorted(job.state for job in world.jobs()) == ["done"] * 3 + ["failed"] * 2)
    world.wait_until(lambda: any(one.peer == "dead" and one.attempts > 1 for one in world.deliveries()))
    world.kill()
    world.start()


def rows(db: Database) -> Iterator[tuple[str, bytes]]:
    """Each table of the database, the engine's too, and all that is in it."""
    with db() as session:
        bind = session.connection()
        for schema in inspect(bind).get_schema_names():
            tables = MetaData()
            tables.reflect(bind, schema=schema)
            for name, table in tables.tables.items():
                yield name, b"\n".join(_bytes(value) for row in session.execute(select(table)) for value in row)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def told(world: World) -> Iterator[tuple[str, bytes]]:
    """What the command line says."""
    lists = (("series", "list"), ("jobs", "list"), ("deliveries", "list"), ("audit", "list", "--limit", "1000"))
    failed = next(job.series_instance_uid for job in world.jobs() if job.state == "failed")
    commands = [*lists, ("series", "show", failed)]
    for command in commands:
        answer = world.run(*command)
        assert answer.returncode == 0, answer.stderr
        yield " ".join(command), answer.stdout.encode() + answer.stderr.encode()


def files(world: World) -> Iterator[tuple[str, bytes]]:
    """What is written beside the store and the PACS, and all names."""
    for path in (path for path in world.folder.rglob("*") if path.is_file()):
        yield f"the name {path}", str(path.relative_to(world.folder)).encode()
        if not {"store", "pacs"} & set(path.parts):
            yield str(path), path.read_bytes()


@pytest.fixture
def own_triton(tmp_path: Path) -> Iterator[TritonServer]:
    """One whose log can be looked into; it lies in the world's folder."""
    server = start_triton([TESTS / "models"], tmp_path / "world" / "triton.log")
    yield server
    server.stop()


def test_what_identifies_a_patient_is_in_the_store_and_in_the_table_of_studies_and_nowhere_else(
    database_url: str, tmp_path: Path, own_triton: TritonServer
) -> None:
    folder = tmp_path / "world"
    peers = (
        {"name": "folder", "protocol": "folder", "path": str(folder / "pacs")},
        {"name": "dead", "protocol": "dimse", "host": "127.0.0.1", "port": free_port(), "ae_title": "SCP"},
    )
    settings = {"log": {"level": "debug"}, "dimse": {"calling_ae_titles": ["CT1"]}}
    with World(folder, database_url, own_triton.url, peers, RULES, settings) as world:
        go_through_everything(world)
        with world.database() as db:
            tables = dict(rows(db))

        looked_at = [*tables.items(), *told(world), *files(world)]

        assert CANARY.search(tables.pop(_named(tables, Study.__tablename__)))
        assert [where for where, content in looked_at if CANARY.search(content) and not where.endswith(Study.__tablename__)] == []
        assert any(CANARY.search(path.read_bytes()) for path in (folder / "var" / "store").rglob("*.dcm"))
        assert {"workflow_status", "gw_audit_event"} <= {name.rpartition(".")[2] for name in tables}
        assert b"STRANGER" in tables[_named(tables, "gw_audit_event")]
        assert {"stage.failed", "instance.refused"} <= {
            event for event in ("stage.failed", "instance.refused") if world.logged(event)
        }
        assert "indiscreet.py" in world.log
        assert (folder / "triton.log").stat().st_size > 0


def test_what_identifies_a_patient_leaves_by_no_notice_trace_or_metric(
    migrated_sqlite: Path, tmp_path: Path, triton: str
) -> None:
    (tmp_path / "gateway.db").write_bytes(migrated_sqlite.read_bytes())
    hook, box, web = Hook(), Mailbox(), free_port()
    with web_server(hook) as url, mail_server(box) as smtp, otlp_collector() as (collector, spans):
        about = {"on": [*Kind], "every_minutes": 0}
        notices = (
            {"name": "chat", "protocol": "webhook", "url": f"{url}/in", **about},
            {
                "name": "mail",
                "protocol": "email",
                "host": "127.0.0.1",
                "port": smtp,
                "security": "none",
                "from_address": "gateway@example.org",
                "to": ["ops@example.org"],
                **about,
            },
        )
        settings = {
            "log": {"level": "debug"}, "dimse": {"calling_ae_titles": ["CT1"]}, "tracing": {"url": collector}, "web": {"port": web},
        }  # fmt: skip
        peers = (
            {"name": "folder", "protocol": "folder", "path": str(tmp_path / "pacs")},
            {"name": "dead", "protocol": "dimse", "host": "127.0.0.1", "port": free_port(), "ae_title": "SCP"},
        )
        with World(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", triton, peers, RULES, settings, notices) as world:
            go_through_everything(world)
            series = patient(4)
            assert world.send(series) == [0x0000] * len(series)
            world.wait_until(lambda: [job for job in world.jobs() if job.series_instance_uid == series[0].SeriesInstanceUID and job.state == "done"])  # fmt: skip
            world.wait_until(lambda: len(world.logged("web.started")) == 2)
            metrics = urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics").read()
            world.wait_until(lambda: any(b"job failed" in body for _, _, body in hook.requests) and box.mails)
            assert world.stop() == 0

    sent = {
        "webhook": b"".join(str((path, headers)).encode() + body for path, headers, body in hook.requests),
        "e-mail": b"".join(mail.as_bytes() + str(mail.get_body()).encode() for mail in box.mails),
        "traces": str(spans).encode(),
        "metrics": metrics,
    }
    assert {where for where, content in sent.items() if CANARY.search(content)} == set()
    assert {"settle", "run"} <= {span.name for _, span in spans}
    assert b"gateway_" in metrics


def _named(tables: dict[str, bytes], name: str) -> str:
    return next(one for one in tables if one.rpartition(".")[2] == name)
