"""Rows as the conveyor would have left them, for tests of what a person sees and does."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, event

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.engine import DELIVER, RUN, Queues, model_lane, peer_lane
from gateway.rows.tables import Association, Delivery, Instance, Job, JobInstance, OutputInstance, RuleOutcome, Series, Study

NOW = datetime(2026, 1, 2, 10, 11, 12, tzinfo=UTC)
STUDY = "2.25." + "1" * 59
SERIES = "2.25." + "2" * 59
OUTPUT = "2.25." + "3" * 59
SOURCE = "2.25." + "4" * 59
EXPLANATION = {
    "conditions": [
        {
            "line": 4,
            "text": "all",
            "held": False,
            "why": "1 of 2 holds",
            "conditions": [
                {"line": 5, "text": "Modality is CT", "held": True, "why": "it is"},
                {"line": 6, "text": "fact slices at least 20", "held": False, "why": "there are [12]"},
            ],
        }
    ]
}


def a_series(db: Database) -> None:
    with db.begin() as session:
        session.add(Study(study_instance_uid=STUDY, patient_name="CANARY^NAME", patient_id="CANARY-ID", patient_birth_date="19500101", accession_number="CANARYACC", first_received_at=NOW))  # fmt: skip
        session.add(Association(id="a", ingest="dimse", calling_ae_title="CT1", called_ae_title="AIGATEWAY", address="127.0.0.1", executor="x", began_at=NOW))  # fmt: skip
        session.flush()
        session.add(Series(series_instance_uid=SERIES, study_instance_uid=STUDY, modality="CT", state="complete", reason="the association ended, 12 of 12", first_received_at=NOW, last_received_at=NOW, due_at=NOW))  # fmt: skip
        session.flush()
        session.add(Instance(sop_instance_uid=SOURCE, series_instance_uid=SERIES, association="a", sop_class_uid="1.2", transfer_syntax_uid="1.2", sha256="5" * 64, size=2_500_000, received_at=NOW))  # fmt: skip
        session.add(RuleOutcome(series_instance_uid=SERIES, revision=1, rule="chest CT", matched=False, explanation=EXPLANATION, rules_digest="6" * 64, at=NOW))  # fmt: skip
        audit.record(session, Act.SERIES_COMPLETE, at=NOW, series=SERIES, instances=12)


def a_job(db: Database, queues: Queues | None = None, **values: object) -> int:
    """A job of that series; with `queues` it waits for an hour."""
    row = {
        "input_key": "7" * 64, "series_instance_uid": SERIES, "revision": 1, "rules": ["chest CT"], "pipeline": "bright",
        "model": "bright", "send_to": ["pacs"], "priority": "routine", "state": "queued", "created_at": NOW, "due_at": NOW,
    }  # fmt: skip
    with db.begin() as session:
        job = Job(**(row | values))
        session.add(job)
        session.flush()
        session.add(JobInstance(job=job.id, sop_instance_uid=SOURCE, sha256="5" * 64))
        if queues is not None:
            lane = model_lane(job.model, job.priority)
            queues.enqueue(session, RUN, str(job.id), attempt=job.ticket, lane=lane, delay=timedelta(hours=1))
        return job.id


def a_delivery(db: Database, job: int, queues: Queues | None = None, **values: object) -> int:
    row = {
        "sop_instance_uid": OUTPUT,
        "study_instance_uid": STUDY,
        "job": job,
        "peer": "pacs",
        "ticket": "0",
        "state": "queued",
        "created_at": NOW,
        "due_at": NOW,
    }
    with db.begin() as session:
        if session.get(OutputInstance, OUTPUT) is None:
            session.add(OutputInstance(sop_instance_uid=OUTPUT, job=job, study_instance_uid=STUDY, series_instance_uid=SERIES, sop_class_uid="1.2", modality="SEG", sha256="8" * 64, size=1_250_000, created_at=NOW))  # fmt: skip
            session.flush()
        delivery = Delivery(**(row | values))
        session.add(delivery)
        session.flush()
        audit.record(
            session,
            Act.DELIVERY_RETRIED,
            at=NOW,
            outcome=audit.MINOR,
            instance=OUTPUT,
            job=job,
            peer=delivery.peer,
            reason="no connection",
        )
        if queues is not None:
            lane = peer_lane(delivery.peer)
            queues.enqueue(session, DELIVER, str(delivery.id), attempt=delivery.ticket, lane=lane, delay=timedelta(hours=1))
        return delivery.id


@contextmanager
def only_read(db: Database) -> Iterator[None]:
    """Meanwhile nothing can be written there, as where its disk is full or it is a standby."""
    engine = db.kw["bind"]

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON" if engine.dialect.name == "sqlite" else "SET TRANSACTION READ ONLY")

    def end(connection: Connection) -> None:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only=OFF")

    listeners = (("begin", begin), ("commit", end), ("rollback", end))
    for name, listener in listeners:
        event.listen(engine, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(engine, name, listener)
