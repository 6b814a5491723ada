"""Instances in a store, with the rows that the conveyor makes of them: what DICOMweb and pictures are made from."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from pydicom import Dataset

from gateway.db import Database, insert_once
from gateway.rows.tables import Association, Instance, Job, OutputInstance, Series, Study
from gateway.store import Store
from tests.synthetic import part10

NOW = datetime(2026, 1, 2, 10, 11, 12, tzinfo=UTC)


def hold(db: Database, store: Store, instances: Iterable[Dataset]) -> None:
    """As sources, received one after the other."""
    with db.begin() as session:
        insert_once(session, Association, id="held", ingest="dimse", calling_ae_title="CT1", called_ae_title="AIGATEWAY", address="127.0.0.1", executor="x", began_at=NOW)  # fmt: skip
        for number, instance in enumerate(instances):
            kept, at = store.put([part10(instance)]), NOW + timedelta(milliseconds=number)
            insert_once(session, Study, study_instance_uid=instance.StudyInstanceUID, patient_name=str(instance.PatientName), patient_id=instance.PatientID, patient_birth_date=instance.PatientBirthDate, accession_number=instance.AccessionNumber, first_received_at=at)  # fmt: skip
            insert_once(session, Series, series_instance_uid=instance.SeriesInstanceUID, study_instance_uid=instance.StudyInstanceUID, modality=instance.Modality, state="complete", first_received_at=at, last_received_at=at, due_at=at)  # fmt: skip
            insert_once(session, Instance, sop_instance_uid=instance.SOPInstanceUID, series_instance_uid=instance.SeriesInstanceUID, association="held", sop_class_uid=instance.SOPClassUID, transfer_syntax_uid=instance.file_meta.TransferSyntaxUID, sha256=kept.sha256, size=kept.size, received_at=at)  # fmt: skip


def hold_result(db: Database, store: Store, result: Dataset, *, of: str) -> None:
    """As an output of a job on the series `of`."""
    kept = store.put([part10(result)])
    with db.begin() as session:
        job = Job(input_key=kept.sha256, series_instance_uid=of, revision=1, rules=["r"], pipeline="ct_lung", model="ct_lung", send_to=["pacs"], priority="routine", state="done", created_at=NOW, due_at=NOW)  # fmt: skip
        session.add(job)
        session.flush()
        session.add(OutputInstance(sop_instance_uid=result.SOPInstanceUID, job=job.id, study_instance_uid=result.StudyInstanceUID, series_instance_uid=result.SeriesInstanceUID, sop_class_uid=result.SOPClassUID, modality=result.Modality, sha256=kept.sha256, size=kept.size, created_at=NOW))  # fmt: skip
