"""What became of a Unified Procedure Step, written into its data set: how far it is, what was made, why it was canceled
(PS3.3 C.30.2 and C.30.3).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset

from gateway.dicom.procedure import PERFORMED, PROGRESS, SCHEME, coded, items, moment


@dataclass(frozen=True)
class Result:
    """One object that was made; `peers` are the AE titles of those that have proved to hold it, `url` where we give it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    url: str
    peers: tuple[str, ...]


def tell(workitem: Dataset, text: str, percent: int) -> None:
    """How far it is (Procedure Step Progress Information Sequence)."""
    progress = _first(workitem, PROGRESS)
    progress.ProcedureStepProgress, progress.ProcedureStepProgressDescription = str(percent), text


def told(workitem: Dataset) -> str:
    return str(next((one.get("ProcedureStepProgressDescription", "") for one in items(workitem, PROGRESS)), ""))


def cancel(workitem: Dataset, reason: str, now: datetime, codes: Sequence[Dataset] = ()) -> None:
    progress = _first(workitem, PROGRESS)
    progress.ProcedureStepCancellationDateTime, progress.ReasonForCancellation = moment(now), reason[:10240]
    if codes or "ProcedureStepDiscontinuationReasonCodeSequence" not in progress:
        given = [*codes] or [coded("110513", "DCM", "Discontinued for unspecified reason")]
        progress.ProcedureStepDiscontinuationReasonCodeSequence = given


def ask_to_cancel(workitem: Dataset, request: Dataset) -> None:
    """What a cancel request says is kept with the workitem, where who performs it reads it (PS3.4 CC.2.2)."""
    progress = _first(workitem, PROGRESS)
    for keyword in ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence"):
        if keyword in request:
            progress[keyword] = request[keyword]
    contact = Dataset()
    for keyword in ("ContactURI", "ContactDisplayName"):
        if keyword in request:
            contact[keyword] = request[keyword]
    if len(contact):
        progress.ProcedureStepCommunicationsURISequence = [contact]


def perform(workitem: Dataset, pipeline: str, ae_title: str, began: datetime, results: Iterable[Result]) -> None:
    """What was done by us so far (Unified Procedure Step Performed Procedure Sequence)."""
    performed = _first(workitem, PERFORMED)
    performed.PerformedStationNameCodeSequence = [coded(ae_title, SCHEME, "Clinical AI Gateway")]
    performed.PerformedProcedureStepStartDateTime = moment(began)
    performed.PerformedWorkitemCodeSequence = [coded(pipeline, SCHEME, pipeline)]
    performed.OutputInformationSequence = [*_outputs(results)]


def end(workitem: Dataset, now: datetime) -> None:
    _first(workitem, PERFORMED).PerformedProcedureStepEndDateTime = moment(now)


def _outputs(results: Iterable[Result]) -> Iterator[Dataset]:
    """An item a series."""
    by_series: dict[str, list[Result]] = {}
    for one in results:
        by_series.setdefault(one.series_instance_uid, []).append(one)
    for series, some in by_series.items():
        item, where = Dataset(), Dataset()
        item.TypeOfInstances, item.StudyInstanceUID, item.SeriesInstanceUID = "DICOM", some[0].study_instance_uid, series
        item.ReferencedSOPSequence = [_reference(one) for one in some]
        where.RetrieveURL = some[0].url
        item.WADORSRetrievalSequence = [where]
        everywhere = set(some[0].peers).intersection(*(one.peers for one in some))
        item.DICOMRetrievalSequence = [_held_by(title) for title in sorted(everywhere)]
        if not everywhere:
            del item.DICOMRetrievalSequence
        yield item


def _reference(result: Result) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = result.sop_class_uid, result.sop_instance_uid
    return reference


def _held_by(ae_title: str) -> Dataset:
    held = Dataset()
    held.RetrieveAETitle = ae_title
    return held


def _first(workitem: Dataset, keyword: str) -> Dataset:
    """The one item of a sequence, made where there is none."""
    if not items(workitem, keyword):
        setattr(workitem, keyword, [Dataset()])
    return items(workitem, keyword)[0]
