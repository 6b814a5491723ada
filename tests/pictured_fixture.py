"""A chest CT in the store, and the job, the segmentation and the report that were made of it: what pages show, files and rows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydicom import Dataset

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.rows.tables import Association, Delivery, Instance, Job, JobInstance, OutputInstance, RuleOutcome, Series, Study
from gateway.store import Store
from tests.results_fixture import encoding, headers, lung_outputs, lungs
from tests.synthetic import ct_series, part10

HOSTILE = "<img src=x onerror=alert(1)>^\"'&"
"""A patient's name that a page has to show as it is."""
MATCHED = {"conditions": [{"line": 5, "text": "Modality is CT", "held": True, "why": "it is"}]}
UNMATCHED = {
    "conditions": [
        {
            "line": 11, "text": "all", "held": False, "why": "1 of 2 holds",
            "conditions": [
                {"line": 12, "text": "Modality is CT", "held": True, "why": "it is"},
                {"line": 13, "text": "BodyPartExamined is HEAD", "held": False, "why": "it is ['CHEST']"},
            ],
        }
    ]
}  # fmt: skip


def a_pictured_job(
    db: Database, store: Store, *, now: datetime | None = None, slices: int = 12, seed: int = 1
) -> tuple[int, list[Dataset]]:
    """The number of the job, and the source, feet to head."""
    now = now or datetime.now(UTC)
    source = ct_series(slices, 64, 64, seed=seed)
    clean = headers(source)
    segmentation, report = lung_outputs(clean, lungs(clean))
    making = encoding(clean, [segmentation, report])
    made = [making.dataset(segmentation), making.dataset(report)]
    _came(db, store, source, now)
    with db.begin() as session:
        first = source[0]
        job = Job(input_key=f"{seed:064}", series_instance_uid=first.SeriesInstanceUID, revision=1, rules=["chest CT"], pipeline="lungs", model="lungs", send_to=["pacs"], priority="routine", state="done", attempts=1, created_at=now - timedelta(seconds=20), due_at=now, started_at=now - timedelta(seconds=19), inferred_at=now - timedelta(seconds=9), encoded_at=now - timedelta(seconds=7), ended_at=now - timedelta(seconds=6), provenance={"name": "lungs", "version": "1", "manufacturer": "somebody", "model": "lungs", "model_version": "1", "weights": "a" * 64})  # fmt: skip
        session.add(job)
        session.flush()
        for one in source:
            digest = store.put([part10(one)]).sha256
            session.add(JobInstance(job=job.id, sop_instance_uid=one.SOPInstanceUID, sha256=digest))
        for number, output in enumerate(made):
            stored = store.put([part10(output)])
            session.add(OutputInstance(sop_instance_uid=output.SOPInstanceUID, job=job.id, study_instance_uid=output.StudyInstanceUID, series_instance_uid=output.SeriesInstanceUID, sop_class_uid=output.SOPClassUID, modality=output.Modality, sha256=stored.sha256, size=stored.size, created_at=now))  # fmt: skip
            session.flush()
            is_proved = number == 0
            session.add(Delivery(sop_instance_uid=output.SOPInstanceUID, study_instance_uid=output.StudyInstanceUID, job=job.id, peer="pacs", state="proved" if is_proved else "failed", attempts=1 if is_proved else 3, status=0 if is_proved else 0xA900, reason="" if is_proved else "the peer says 0xA900", created_at=now - timedelta(seconds=6), due_at=now, sent_at=now - timedelta(seconds=4) if is_proved else None, proved_at=now - timedelta(seconds=1) if is_proved else None, proof="query" if is_proved else ""))  # fmt: skip
            audit.record(session, Act.DELIVERY_PROVED if is_proved else Act.DELIVERY_FAILED, at=now, outcome=0 if is_proved else audit.SERIOUS, series=first.SeriesInstanceUID, instance=output.SOPInstanceUID, job=job.id, peer="pacs")  # fmt: skip
        return job.id, source


def _came(db: Database, store: Store, source: Sequence[Dataset], now: datetime) -> None:
    first, association = source[0], f"a{source[0].SOPInstanceUID[-30:]}"
    with db.begin() as session:
        session.add(Study(study_instance_uid=first.StudyInstanceUID, patient_name=HOSTILE, patient_id="ID<b>7</b>", patient_birth_date="19500101", accession_number="ACC'1", first_received_at=now - timedelta(seconds=60)))  # fmt: skip
        session.add(Association(id=association, ingest="dimse", calling_ae_title="CT1", called_ae_title="AIGATEWAY", address="127.0.0.1", executor="x", began_at=now, ended_at=now))  # fmt: skip
        session.flush()
        session.add(Series(series_instance_uid=first.SeriesInstanceUID, study_instance_uid=first.StudyInstanceUID, modality="CT", state="complete", reason="the association ended; matched chest CT", first_received_at=now - timedelta(seconds=60), last_received_at=now - timedelta(seconds=22), due_at=now, complete_at=now - timedelta(seconds=20)))  # fmt: skip
        session.flush()
        for one in source:
            stored = store.put([part10(one)])
            session.add(Instance(sop_instance_uid=one.SOPInstanceUID, series_instance_uid=first.SeriesInstanceUID, association=association, sop_class_uid=one.SOPClassUID, transfer_syntax_uid=one.file_meta.TransferSyntaxUID, sha256=stored.sha256, size=stored.size, received_at=now))  # fmt: skip
        for rule, matched in (("chest CT", True), ("head CT", False)):
            session.add(RuleOutcome(series_instance_uid=first.SeriesInstanceUID, revision=1, rule=rule, matched=matched, explanation=MATCHED if matched else UNMATCHED, rules_digest="6" * 64, at=now))  # fmt: skip
        audit.record(session, Act.SERIES_COMPLETE, at=now, study=first.StudyInstanceUID, series=first.SeriesInstanceUID, instances=len(source))  # fmt: skip
