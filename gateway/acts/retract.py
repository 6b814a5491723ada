"""Retract: a result of ours is taken back by a rejection note, which goes where the result went (IHE IOCM, PS3.3 A.35.4)."""

from collections.abc import Sequence
from datetime import datetime

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway import conformance
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock
from gateway.dicom.part10 import part10
from gateway.engine import Queues
from gateway.errors import BadOutput, ConfigError, Damaged
from gateway.outputs import Algorithm, Encoding, Equipment
from gateway.outputs.rejection import REASONS, Rejection, key, note_uid
from gateway.rows.tables import Delivery, DeliveryState, Job, OutputInstance, Study
from gateway.store import Store, Stored
from gateway.work import delivery as rows

_NOT_IN_ROWS = ("PatientSex", "StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName")
_NOT_GONE_OUT = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.FAILED)
_ENDED_UNSENT = (DeliveryState.CANCELLED, DeliveryState.UNWANTED)


def retract(
    db: Database,
    queues: Queues,
    *,
    job: int | None = None,
    sop_instance_uid: str | None = None,
    reason: str,
    actor: str,
    now: datetime,
    equipment: Equipment,
    store: Store,
) -> list[str]:
    """One note for each result, once; what has not gone out never will. Returns a sentence for each. Raises ConfigError."""
    if reason not in REASONS:
        raise ConfigError([f"expected a reason, one of: {', '.join(REASONS)}"])
    with db() as session:
        outputs = rows.made_by(session, job=job, sop_instance_uid=sop_instance_uid)
        known = {one.sop_instance_uid for one in outputs if session.get(OutputInstance, note_uid(one.sop_instance_uid))}
    if any(one.retracts for one in outputs):
        raise ConfigError(["expected a result, not the note that takes one back"])
    said = []
    for output in outputs:
        uid = output.sop_instance_uid
        peers = None if uid in known else _retract(output, reason, actor, now, equipment, store, db, queues)
        said.append(f"{uid} was retracted already" if peers is None else f"{uid} is retracted{_where(peers)}")
    return said


def _retract(
    output: OutputInstance,
    reason: str,
    actor: str,
    now: datetime,
    equipment: Equipment,
    store: Store,
    db: Database,
    queues: Queues,
) -> Sequence[str] | None:
    """The peers that get the note; None where somebody else was first."""
    note, stored = _note(output, reason, now, equipment, store, db)
    crash_point("retract.stored")
    with db.begin() as session:
        job = lock(session, Job, output.job)  # its results may just be given further peers
        lock(session, OutputInstance, output.sop_instance_uid)
        if not _insert(session, output, note, stored, now):
            return None
        mine = select(Delivery.id).where(Delivery.sop_instance_uid == output.sop_instance_uid).order_by(Delivery.id)
        peers = [peer for one in session.scalars(mine).all() if (peer := _take_back(session, one, actor, now, queues))]
        session.flush()
        row = session.get_one(OutputInstance, str(note.SOPInstanceUID))
        for peer in peers:
            rows.make(session, row, peer, now, job=job, queues=queues)
        audit.record(
            session, Act.OUTPUT_RETRACTED, at=now, actor=actor, study=output.study_instance_uid,
            series=output.series_instance_uid, instance=output.sop_instance_uid, job=output.job, reason=reason,
            note=row.sop_instance_uid, peers=peers,
        )  # fmt: skip
    crash_point("retract.committed")
    return peers


def _note(
    output: OutputInstance, reason: str, now: datetime, equipment: Equipment, store: Store, db: Database
) -> tuple[Dataset, Stored]:
    """Encoded from the header of the result itself, or where its file is gone from rows, and stored. Raises ConfigError."""
    rejected: Dataset
    try:
        rejected = dcmread(store.check(output.sha256), stop_before_pixels=True)
    except Damaged as error:
        known = _from_rows(output, db)
        if known is None:
            raise ConfigError([f"{output.sop_instance_uid}: the note needs its header: {error}"]) from error
        rejected = known
    rejection = Rejection(reason)
    by = Algorithm(equipment.model_name, equipment.version, equipment.manufacturer, "", "", "")  # the note names none
    encoding = Encoding([rejected], [rejection], by, equipment, key(output.sop_instance_uid), now)
    note = encoding.dataset(rejection)
    problems = conformance.problems([note], encoding=encoding)
    if problems:
        raise BadOutput("; ".join(problems))
    return note, store.put([part10(note)])


def _from_rows(output: OutputInstance, db: Database) -> Dataset | None:
    """What the note needs of a result whose file retention took; what no row has is empty, as type 2 allows (PS3.5 7.4.3)."""
    with db() as session:
        study = session.get(Study, output.study_instance_uid)
    if study is None:
        return None
    rejected = Dataset()
    rejected.SpecificCharacterSet = "ISO_IR 192"
    rejected.SOPClassUID, rejected.SOPInstanceUID = output.sop_class_uid, output.sop_instance_uid
    rejected.StudyInstanceUID, rejected.SeriesInstanceUID = output.study_instance_uid, output.series_instance_uid
    rejected.PatientName, rejected.PatientID = study.patient_name, study.patient_id
    rejected.PatientBirthDate, rejected.AccessionNumber = study.patient_birth_date, study.accession_number
    rejected.Modality, rejected.file_meta = output.modality, FileMetaDataset()
    rejected.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in _NOT_IN_ROWS:
        setattr(rejected, keyword, "")
    return rejected


def _insert(session: Session, output: OutputInstance, note: Dataset, stored: Stored, now: datetime) -> bool:
    return insert_once(
        session, OutputInstance, sop_instance_uid=note.SOPInstanceUID, job=output.job, sha256=stored.sha256, size=stored.size,
        created_at=now, study_instance_uid=note.StudyInstanceUID, series_instance_uid=note.SeriesInstanceUID,
        sop_class_uid=note.SOPClassUID, modality=note.Modality, retracts=output.sop_instance_uid,
    )  # fmt: skip


def _take_back(session: Session, delivery_id: int, actor: str, now: datetime, queues: Queues) -> str:
    """The delivery's peer where it has the result, or may have it; one that has not gone out is cancelled."""
    delivery = lock(session, Delivery, delivery_id)
    may_have_it = delivery.state not in (*_NOT_GONE_OUT, *_ENDED_UNSENT) or delivery.sent_at or delivery.unanswered
    if delivery.state in _NOT_GONE_OUT:
        delivery.state, delivery.reason = DeliveryState.CANCELLED, f"retracted by {actor}"
        rows.tell(session, Act.DELIVERY_CANCELLED, delivery, now, actor=actor)
        session.flush()
        rows.follow(session, delivery.peer, delivery.study_instance_uid, now, queues=queues)
    return delivery.peer if may_have_it else ""


def _where(peers: Sequence[str]) -> str:
    return f"; the note goes to {', '.join(peers)}" if peers else "; it went to nobody, and nobody gets the note"
