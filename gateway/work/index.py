"""The index of instances: association, study, series and instance rows for what was filed, and what is kept apart from them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import insert_new, lock
from gateway.dicom.instance import Identity, Origin
from gateway.doors.entry import Kept
from gateway.engine import SETTLE, Queues, settle_attempt
from gateway.rows.repetition import Repetition
from gateway.rows.tables import Association, Instance, Series, SeriesState, Study, Version


class Receipt(StrEnum):
    NEW = "new"
    REPEATED = "repeated"
    VERSION = "version"
    """Other bytes under a SOP Instance UID that is held already."""
    STRAY = "stray"
    """Its series belongs to another study."""


@dataclass(frozen=True)
class Known:
    """An instance in its place in the store, and whose it is."""

    entry: Kept
    sha256: str
    whose: Identity

    @property
    def uid(self) -> str:
        return self.entry.incoming.sop_instance_uid

    @property
    def series(self) -> str:
        return self.whose.series_instance_uid


_ACTS = {
    Receipt.NEW: Act.INSTANCE_RECEIVED, Receipt.REPEATED: Act.INSTANCE_REPEATED, Receipt.VERSION: Act.INSTANCE_VERSION,
    Receipt.STRAY: Act.INSTANCE_STRAY,
}  # fmt: skip
_APART = {
    Receipt.VERSION: "other bytes under a SOP Instance UID that is held already",
    Receipt.STRAY: "its series belongs to another study",
}

_logger = structlog.get_logger()


def index(
    session: Session, known: Sequence[Known], now: datetime, *, queues: Queues, quiet: timedelta, executor: str
) -> list[Receipt]:
    """Write the rows of what was filed, and enqueue settle for each series that is new or grows again."""
    if not known:
        return []
    made = _insert_parents(session, known, quiet, executor)
    held = {uid: lock(session, Series, uid) for uid in sorted({one.series for one in known})}
    receipts = _insert_instances(session, known, held)
    for one, receipt in zip(known, receipts, strict=True):
        _record(session, one, receipt)
    new = [one for one, receipt in zip(known, receipts, strict=True) if receipt is Receipt.NEW]
    for one in _of_another_patient(session, new):
        _alarm(session, one, "its Patient ID is not the one under which its study is known here: one of the two may be a mix-up")
    for uid, series in held.items():
        times = [one.entry.at for one in new if one.series == uid]
        if times and (_grow(session, series, max(times), now, quiet) or uid in made):
            attempt = settle_attempt(series.revision, series.due_at)
            queues.enqueue(session, SETTLE, uid, attempt=attempt, lane=SETTLE, delay=quiet)
    return receipts


def _insert_parents(session: Session, known: Sequence[Known], quiet: timedelta, executor: str) -> set[str]:
    """Rows that instances point to; returns the series that are new."""
    associations: dict[str, dict[str, object]] = {}
    studies: dict[str, dict[str, object]] = {}
    series: dict[str, dict[str, object]] = {}
    for one in known:
        origin, at, patient = one.entry.origin, one.entry.at, asdict(one.whose)
        series_uid, modality = patient.pop("series_instance_uid"), patient.pop("modality")
        associations.setdefault(origin.association, _association(origin, at, executor))
        studies.setdefault(one.whose.study_instance_uid, {"first_received_at": at, **patient})
        series.setdefault(
            series_uid,
            {"series_instance_uid": series_uid, "study_instance_uid": one.whose.study_instance_uid, "modality": modality,
             "first_received_at": at, "last_received_at": at, "due_at": at + quiet},
        )  # fmt: skip
    insert_new(session, Association, [associations[key] for key in sorted(associations)])
    insert_new(session, Study, [studies[key] for key in sorted(studies)])
    return insert_new(session, Series, [series[key] for key in sorted(series)])


def _association(origin: Origin, began_at: datetime, executor: str) -> dict[str, object]:
    values = asdict(origin)
    return {"id": values.pop("association"), **values, "executor": executor, "began_at": began_at}


def _insert_instances(session: Session, known: Sequence[Known], held: Mapping[str, Series]) -> list[Receipt]:
    """One instance a SOP Instance UID; the first bytes are the instance, others are kept apart."""
    rows: dict[str, dict[str, object]] = {}
    for one in known:
        if held[one.series].study_instance_uid == one.whose.study_instance_uid:
            rows.setdefault(
                one.uid,
                {**_bytes(one), "association": one.entry.origin.association, "sop_class_uid": one.entry.incoming.sop_class_uid,
                 "transfer_syntax_uid": one.entry.incoming.transfer_syntax_uid},
            )  # fmt: skip
    fresh = insert_new(session, Instance, list(rows.values()))
    digests = dict(
        session.execute(
            select(Instance.sop_instance_uid, Instance.sha256).where(Instance.sop_instance_uid.in_(rows))
        ).all()
    )  # fmt: skip
    receipts = [_receipt(one, held, digests, fresh) for one in known]
    apart = [
        {**_bytes(one), "reason": _APART[receipt]}
        for one, receipt in zip(known, receipts, strict=True)
        if receipt in _APART
    ]  # fmt: skip
    insert_new(session, Version, apart)
    again = {
        (one.entry.origin.association, one.series) for one, how in zip(known, receipts, strict=True) if how is Receipt.REPEATED
    }
    insert_new(session, Repetition, [{"association": one, "series_instance_uid": uid} for one, uid in sorted(again)])
    return receipts


def _receipt(one: Known, held: Mapping[str, Series], digests: Mapping[str, str], fresh: set[str]) -> Receipt:
    if held[one.series].study_instance_uid != one.whose.study_instance_uid:
        return Receipt.STRAY
    if digests[one.uid] != one.sha256:
        return Receipt.VERSION
    if one.uid in fresh:
        fresh.remove(one.uid)  # the second time in one batch it is a repetition
        return Receipt.NEW
    return Receipt.REPEATED


def _bytes(one: Known) -> dict[str, object]:
    return {
        "sop_instance_uid": one.uid, "series_instance_uid": one.series, "sha256": one.sha256, "size": one.entry.size,
        "received_at": one.entry.at,
    }  # fmt: skip


def _grow(session: Session, series: Series, latest: datetime, now: datetime, quiet: timedelta) -> bool:
    """A series that grows is younger; one that was settled is received again, as a new revision that settle looks at."""
    series.last_received_at = max(series.last_received_at, latest)
    if series.state == SeriesState.RECEIVING:
        return False
    series.state, series.revision, series.due_at, series.reason = SeriesState.RECEIVING, series.revision + 1, now + quiet, ""
    audit.record(
        session, Act.SERIES_REOPENED, at=now, study=series.study_instance_uid, series=series.series_instance_uid
    )  # fmt: skip
    return True


def _of_another_patient(session: Session, new: Sequence[Known]) -> list[Known]:
    """Of each series the last one whose Patient ID is not its study's."""
    studies = select(Study.study_instance_uid, Study.patient_id).where(
        Study.study_instance_uid.in_({one.whose.study_instance_uid for one in new})
    )
    ids = dict(session.execute(studies).all())
    return list({one.series: one for one in new if one.whose.patient_id != ids[one.whose.study_instance_uid]}.values())


def _alarm(session: Session, one: Known, reason: str) -> None:
    origin = one.entry.origin
    _logger.warning("instance.alarming", series_instance_uid=one.series, reason=reason)
    audit.record(
        session, Act.INSTANCE_ALARMING, at=one.entry.at, actor=origin.calling_ae_title or origin.ingest, outcome=audit.MINOR,
        study=one.whose.study_instance_uid, series=one.series, instance=one.uid, reason=reason, association=origin.association,
    )  # fmt: skip


def _record(session: Session, one: Known, receipt: Receipt) -> None:
    if receipt in _APART:
        _logger.warning("instance.kept_apart", series_instance_uid=one.series, reason=_APART[receipt])
    origin = one.entry.origin
    audit.record(
        session, _ACTS[receipt], at=one.entry.at, actor=origin.calling_ae_title or origin.ingest,
        outcome=audit.MINOR if receipt in _APART else 0, study=one.whose.study_instance_uid, series=one.series,
        instance=one.uid, sha256=one.sha256, association=origin.association,
    )  # fmt: skip
