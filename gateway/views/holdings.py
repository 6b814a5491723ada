"""What the gateway holds, images and results alike, as DICOMweb searches it (PS3.18 10.6): what has a file is held.

Rows narrow a search down, headers decide: of each study or series one file is read, of instances each. A search that would read
too many of them ends with Broad, not with half an answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from sqlalchemy import Select, Subquery, exists, func, select, union_all
from sqlalchemy.orm import Session, aliased

from gateway.db import Database
from gateway.dicom.query import Broad, Query, uids
from gateway.rows.tables import Instance, OutputInstance, Series, Study

STUDY = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "StudyDescription",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
)  # fmt: skip
SERIES = (
    "Modality", "TimezoneOffsetFromUTC", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "StudyInstanceUID",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "SeriesDate", "SeriesTime", "BodyPartExamined",
)  # fmt: skip
INSTANCE = (
    "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "StudyInstanceUID",
    "SeriesInstanceUID",
)  # fmt: skip
_CHUNK, _READ_AT_MOST = 100, 5000
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True)
class Held:
    """One instance whose file is there; `sha256` is its name in the store."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    sha256: str
    size: int


def held(db: Database, study: str, series: str = "", instance: str = "") -> list[Held]:
    """All instances of a study, a series or one, in the order in which they came."""
    rows = _held()
    query = select(rows).where(rows.c.study == study).order_by(rows.c.at, rows.c.instance)
    if series:
        query = query.where(rows.c.series == series)
    if instance:
        query = query.where(rows.c.instance == instance)
    with db() as session:
        return [Held(row.study, row.series, row.instance, row.sop_class, row.sha256, row.size) for row in session.execute(query)]


def search(db: Database, level: str, query: Query, path: Callable[[str], Path]) -> list[Dataset]:
    """The answers of one page; `level` is studies, series or instances, `path` says where a file lies. Raises Broad."""
    found = {"studies": _studies, "series": _series, "instances": _instances}[level]
    with db() as session:
        fitting = (one for one in found(session, query, _Reader(path)) if query.fits(one))
        return list(islice(fitting, query.offset, query.offset + query.limit))


class _Reader:
    """Headers, so many and no more."""

    def __init__(self, path: Callable[[str], Path]) -> None:
        self._path, self._left = path, _READ_AT_MOST

    def __call__(self, sha256: str, keywords: Sequence[str], query: Query) -> Dataset:
        """What a header says of `keywords` and of what the query names; UIDs and counts are the caller's to set."""
        if not self._left:
            raise Broad(f"expected a search that fits fewer than {_READ_AT_MOST}: name a patient, a study, an accession number")
        self._left -= 1
        wanted = [*dict.fromkeys((*keywords, *query.include, *query.wanted, "SpecificCharacterSet"))]
        try:
            header = dcmread(self._path(sha256), stop_before_pixels=True, specific_tags=wanted)
        except Exception:  # noqa: BLE001 - foreign bytes, or a file that retention took meanwhile: the rows still know the UIDs
            return Dataset()
        answer = Dataset()
        for element in header:
            if element.VR != "SQ" and element.keyword != "SpecificCharacterSet":
                answer.add(element)
        answer.SpecificCharacterSet = "ISO_IR 192"
        answer.InstanceAvailability = "ONLINE"
        return answer


def _studies(session: Session, query: Query, read: _Reader) -> Iterator[Dataset]:
    rows = _held()
    for chunk in _chunks(session, query):
        grouped = (
            select(
                rows.c.study, func.count(rows.c.series.distinct()).label("series"), func.count().label("instances"),
                func.min(rows.c.sha256).label("sha256"),
            ).where(rows.c.study.in_(chunk)).group_by(rows.c.study)
        )  # fmt: skip
        found = {row.study: row for row in session.execute(grouped)}
        modalities: dict[str, set[str]] = {}
        for study, modality in session.execute(select(rows.c.study, rows.c.modality).where(rows.c.study.in_(chunk)).distinct()):
            modalities.setdefault(study, set()).add(modality)
        for study in (study for study in chunk if study in found):
            answer = read(found[study].sha256, STUDY, query)
            answer.StudyInstanceUID = study
            answer.ModalitiesInStudy = sorted(modalities[study])
            answer.NumberOfStudyRelatedSeries, answer.NumberOfStudyRelatedInstances = found[study].series, found[study].instances
            yield answer


def _series(session: Session, query: Query, read: _Reader) -> Iterator[Dataset]:
    rows = _held()
    for chunk in _chunks(session, query):
        grouped = (
            select(
                rows.c.study, rows.c.series, rows.c.modality, func.count().label("instances"),
                func.min(rows.c.sha256).label("sha256"),
            ).where(rows.c.study.in_(chunk)).group_by(rows.c.study, rows.c.series, rows.c.modality).order_by(func.min(rows.c.at))
        )  # fmt: skip
        for row in session.execute(_narrowed(grouped, rows, query)).all():
            answer = read(row.sha256, (*SERIES, *STUDY), query)
            answer.StudyInstanceUID, answer.SeriesInstanceUID, answer.Modality = row.study, row.series, row.modality
            answer.NumberOfSeriesRelatedInstances = row.instances
            yield answer


def _instances(session: Session, query: Query, read: _Reader) -> Iterator[Dataset]:
    rows = _held()
    for chunk in _chunks(session, query):
        some = select(rows).where(rows.c.study.in_(chunk)).order_by(rows.c.at, rows.c.instance)
        for row in session.execute(_narrowed(some, rows, query)).all():
            answer = read(row.sha256, (*INSTANCE, *SERIES, *STUDY), query)
            answer.StudyInstanceUID, answer.SeriesInstanceUID = row.study, row.series
            answer.SOPInstanceUID, answer.SOPClassUID = row.instance, row.sop_class
            yield answer


def _chunks(session: Session, query: Query) -> Iterator[list[str]]:
    """Study Instance UIDs that may fit, the newest first, some at a time."""
    some, after = _candidates(query).limit(_CHUNK), 0
    while chunk := [row.study_instance_uid for row in session.execute(some.offset(after))]:
        yield chunk
        after += _CHUNK


def _candidates(query: Query) -> Select[Any]:
    rows = _held()
    found = select(Study.study_instance_uid).order_by(Study.first_received_at.desc(), Study.study_instance_uid)
    columns = {"PatientID": Study.patient_id, "PatientName": Study.patient_name, "AccessionNumber": Study.accession_number}
    for keyword, value in query.wanted.items():
        if keyword in columns and value not in ("", "*"):
            found = found.where(columns[keyword].ilike(_like(value), escape="\\"))
        if keyword in _UIDS and value not in ("", "*"):
            column = rows.c[{"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "SOPInstanceUID": "instance"}[keyword]]
            found = found.where(Study.study_instance_uid.in_(select(rows.c.study).where(column.in_(uids(value)))))
        if keyword in ("Modality", "ModalitiesInStudy") and value.isalnum():
            found = found.where(Study.study_instance_uid.in_(_with_modality(value)))
    return found


def _with_modality(modality: str) -> Any:
    ours = select(OutputInstance.study_instance_uid).where(OutputInstance.modality == modality)
    return union_all(select(Series.study_instance_uid).where(Series.modality == modality), ours)


def _narrowed(some: Select[Any], rows: Subquery, query: Query) -> Select[Any]:
    """Within a study not every file is read where the rows tell already which ones are asked for."""
    for keyword, column in (("SeriesInstanceUID", rows.c.series), ("SOPInstanceUID", rows.c.instance)):
        value = query.wanted.get(keyword, "")
        if value not in ("", "*"):
            some = some.where(column.in_(uids(value)))
    return some


def _held() -> Subquery:
    """A result of ours that came back in is held twice, and told once; one that was retracted is not told (IHE IOCM)."""
    note = aliased(OutputInstance)
    retracted = exists().where(note.job == OutputInstance.job, note.retracts == OutputInstance.sop_instance_uid)
    ours = exists().where(OutputInstance.sop_instance_uid == Instance.sop_instance_uid, OutputInstance.gone_at.is_(None))
    sources = (
        select(
            Series.study_instance_uid.label("study"), Instance.series_instance_uid.label("series"),
            Instance.sop_instance_uid.label("instance"), Instance.sop_class_uid.label("sop_class"),
            Series.modality.label("modality"), Instance.sha256.label("sha256"), Instance.size.label("size"),
            Instance.received_at.label("at"),
        ).join(Series, Series.series_instance_uid == Instance.series_instance_uid).where(Instance.gone_at.is_(None), ~ours)
    )  # fmt: skip
    results = select(
        OutputInstance.study_instance_uid, OutputInstance.series_instance_uid, OutputInstance.sop_instance_uid,
        OutputInstance.sop_class_uid, OutputInstance.modality, OutputInstance.sha256, OutputInstance.size,
        OutputInstance.created_at,
    ).where(OutputInstance.gone_at.is_(None), ~retracted)  # fmt: skip
    return union_all(sources, results).subquery("held")


def _like(value: str) -> str:
    """A DICOM wildcard as SQL's; what SQL would take for one is escaped."""
    escaped = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
