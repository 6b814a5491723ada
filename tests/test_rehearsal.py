"""A synthetic study goes the whole way and leaves nothing behind; when it does not come through, people are told."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from gateway.auditing.audit import Act
from gateway.configuration.config import parse
from gateway.db import Database
from gateway.engine import Queues
from gateway.errors import ConfigError
from gateway.rows.tables import Association, Delivery, Instance, Job, OutputInstance, Series, Study
from gateway.rows.trail import AuditEvent, OpenAlarm, Rehearsed
from gateway.serving.plan import plan
from gateway.serving.rehearsal import Rehearsal, _synthetic
from gateway.store import Store
from tests.ports import free_port
from tests.rows_fixture import NOW
from tests.world import World

HERE = Path(__file__).parent
SECTION = {"every_minutes": 60, "within_minutes": 10, "pipeline": "bright"}


class Clock:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def rehearsal(db: Database, database_url: str, tmp_path: Path) -> Iterator[tuple[Rehearsal, Clock]]:
    """Of a gateway whose door nobody answers at."""
    config, clock, queues = parse(values(tmp_path), where="tests"), Clock(), Queues(database_url)
    made = Rehearsal(
        db, queues, config, peers=plan(config).peers, port=free_port(), store=Store(tmp_path / "store"), clock=clock
    )  # fmt: skip
    yield made, clock
    made.__exit__()
    queues.close()


def values(folder: Path, **section: object) -> dict[str, object]:
    return {
        "gateway": {"data_dir": str(folder), "pipelines": [str(HERE / "pipelines")]}, "synthetic": SECTION | section,
        "rules": {"file": str(folder / "rules.yaml")},
    }  # fmt: skip


def rows(db: Database) -> list[Rehearsed]:
    with db() as session:
        return list(session.scalars(select(Rehearsed).order_by(Rehearsed.begun_at)))


def told(db: Database) -> list[str]:
    with db() as session:
        acts = select(AuditEvent).where(AuditEvent.act.in_((Act.ALARM_RAISED, Act.ALARM_ENDED))).order_by(AuditEvent.id)
        return [f"{one.act}: {one.detail['reason']}" for one in session.scalars(acts)]


def arrive(db: Database, row: Rehearsed, *, job: str = "done", delivery: str = "proved") -> None:
    """What becomes of it where everything goes on."""
    with db.begin() as session:
        uid, study = row.series_instance_uid, row.study_instance_uid
        session.add(Study(study_instance_uid=study, patient_name="", patient_id="", patient_birth_date="", accession_number="", first_received_at=NOW))  # fmt: skip
        session.flush()
        session.add(Series(series_instance_uid=uid, study_instance_uid=study, modality="CT", state="complete", reason="", first_received_at=NOW, last_received_at=NOW, due_at=NOW))  # fmt: skip
        session.flush()
        made = Job(input_key=uid[:60], series_instance_uid=uid, revision=1, rules=[], pipeline="bright", model="bright", send_to=[], priority="background", state=job, created_at=NOW, due_at=NOW)  # fmt: skip
        session.add(made)
        session.flush()
        session.add(OutputInstance(sop_instance_uid=f"{uid[:60]}.1", job=made.id, study_instance_uid=study, series_instance_uid=uid, sop_class_uid="1.2", modality="SEG", sha256="8" * 64, size=1, created_at=NOW))  # fmt: skip
        session.flush()
        session.add(Delivery(sop_instance_uid=f"{uid[:60]}.1", study_instance_uid=study, job=made.id, peer="synthetic", state=delivery, created_at=NOW, due_at=NOW))  # fmt: skip


def begun(db: Database, made: Rehearsal, at) -> Rehearsed:
    """As if it had been sent."""
    row = Rehearsed(series_instance_uid=f"2.25.{at.timestamp():.0f}", study_instance_uid="2.25.7", begun_at=at, reason="")
    with db.begin() as session:
        session.add(row)
    made._sent.add(row.series_instance_uid)
    return row


def test_a_door_that_does_not_take_it_is_told_and_it_is_tried_again_when_it_is_due(db: Database, rehearsal) -> None:
    made, clock = rehearsal
    made.look()
    made.look()
    (row,) = rows(db)
    assert row.reason.startswith("our own door does not take it: ")
    assert len(told(db)) == 1
    assert told(db)[0].startswith("alarm.raised: the synthetic study did not come through: our own door")

    clock.now += timedelta(minutes=60)
    made.look()

    assert len(rows(db)) == 2
    assert len(told(db)) == 1  # it is on already


def test_one_that_is_proved_ends_the_alarm_and_is_taken_away(db: Database, rehearsal, tmp_path: Path) -> None:
    made, clock = rehearsal
    made.look()
    clock.now += timedelta(minutes=1)
    row = begun(db, made, clock.now)
    made.look()
    assert rows(db)[1].ended_at is None

    arrive(db, row)
    (tmp_path / "store-synthetic" / row.study_instance_uid).mkdir(parents=True)
    clock.now += timedelta(minutes=1)
    made.look()
    made.look()

    assert [one.split(":")[0] for one in told(db)] == ["alarm.raised", "alarm.ended"]
    assert rows(db)[1].removed_at == clock.now
    assert not list((tmp_path / "store-synthetic").iterdir())
    with db() as session:
        assert session.scalars(select(OutputInstance.gone_at)).one() == clock.now


def test_what_its_peer_is_not_to_get_keeps_nobody_from_proving_the_rest(db: Database, rehearsal) -> None:
    made, clock = rehearsal
    arrive(db, row := begun(db, made, NOW))
    with db.begin() as session:
        uid, job = row.series_instance_uid, session.scalars(select(Job)).one().id
        session.add(OutputInstance(sop_instance_uid=f"{uid[:60]}.2", job=job, study_instance_uid="2.25.7", series_instance_uid=uid, sop_class_uid="1.2", modality="SR", sha256="9" * 64, size=1, created_at=NOW))  # fmt: skip
        session.flush()
        session.add(Delivery(sop_instance_uid=f"{uid[:60]}.2", study_instance_uid="2.25.7", job=job, peer="synthetic", state="unwanted", created_at=NOW, due_at=NOW))  # fmt: skip
    clock.now += timedelta(minutes=1)

    made.look()

    assert (rows(db)[0].ended_at, rows(db)[0].reason) == (clock.now, "")


@pytest.mark.parametrize(
    ("job", "delivery", "reason"),
    [
        ("failed", "queued", "a job is failed"),
        ("done", "held", "a delivery is held"),
        ("done", "sent", "its results are not proved, 10 minutes after it was sent"),
        ("done", "unwanted", "its results are not proved, 10 minutes after it was sent"),
        ("running", "queued", "its job is not done, 10 minutes after it was sent"),
    ],
)
def test_one_that_does_not_come_through_says_how_far_it_came(
    db: Database, rehearsal, job: str, delivery: str, reason: str
) -> None:
    made, clock = rehearsal
    arrive(db, begun(db, made, NOW), job=job, delivery=delivery)
    clock.now += timedelta(minutes=11)
    made.look()

    assert rows(db)[0].reason == reason
    assert told(db) == [f"alarm.raised: the synthetic study did not come through: {reason}"]


def test_one_that_a_dead_process_had_not_sent_is_no_alarm(db: Database, rehearsal) -> None:
    made, _ = rehearsal
    begun(db, made, NOW)
    made._sent.clear()
    made.look()

    assert rows(db)[0].ended_at is not None
    assert told(db) == []


def test_whoever_sees_it_sees_what_it_is() -> None:
    instances = list(_synthetic(NOW))

    assert {one.PatientID for one in instances} == {"SYNTHETIC"}
    assert {str(one.PatientName) for one in instances} == {"SYNTHETIC^NO PATIENT"}
    assert {one.QualityControlImage for one in instances} == {"YES"}
    assert len({one.SOPInstanceUID for one in instances}) == len(instances)
    later = next(_synthetic(NOW + timedelta(minutes=1)))
    assert later.SeriesInstanceUID != instances[0].SeriesInstanceUID


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"pipeline": ""}, "every_minutes expects a pipeline"),
        ({"pipeline": "lung"}, r"\[synthetic\] pipeline: expected one of .*bright"),
        ({"peer": "test"}, r"\[synthetic\] peer: expected one of"),
    ],
)
def test_what_is_wrong_with_it_is_told_at_the_start(tmp_path: Path, section: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        plan(parse(values(tmp_path, **section), where="tests"))


def test_it_goes_the_whole_way_of_a_gateway_to_nobody_else_and_leaves_rows_only(tmp_path: Path, triton: str) -> None:
    often = "from gateway.serving import rehearsal; rehearsal._LOOK_SECONDS = 0.5"
    url, settings = f"sqlite:///{tmp_path / 'gateway.db'}", {"synthetic": SECTION}
    with World(tmp_path, url, triton, settings=settings, but=often) as world:
        world.start()
        with world.database() as db:
            world.wait_until(lambda: [one for one in rows(db) if one.removed_at], 120)
            (row,) = rows(db)
            with db() as session:
                origins = set(session.scalars(select(Association.calling_ae_title)))
                gone = [*session.scalars(select(Instance.gone_at)), *session.scalars(select(OutputInstance.gone_at))]
                alarms, peers = session.scalars(select(OpenAlarm.kind)).all(), set(session.scalars(select(Delivery.peer)))
        held = [path for path in (tmp_path / "var" / "store").rglob("*.dcm") if dcmread(path, stop_before_pixels=True)]

    assert (row.reason, origins, peers) == ("", {"SYNTHETIC"}, {"synthetic"})
    assert len(gone) == 64 + 2 and all(gone)
    assert "synthetic study failed" not in alarms
    assert world.pacs_files() == []
    assert held == []
    assert not list((tmp_path / "var" / "store-synthetic").iterdir())
