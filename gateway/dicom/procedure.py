"""A Unified Procedure Step as a data set: what is asked for, and what became of it (PS3.3 C.30, PS3.4 CC.2.5).

What comes from outside is bounded before it is read: its depth and how many attributes it has. Nothing is fetched: a value
that is only named (BulkDataURI) is refused.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread

from gateway.dicom.part10 import file_meta, part10
from gateway.dicom.uids import is_uid
from gateway.dicom.values import texts
from gateway.errors import GatewayError

SOP_CLASS_UID = "1.2.840.10008.5.1.4.34.6.1"
"""Of every Unified Procedure Step, whichever service made it."""
SCHEME = "99CAIGW"
"""Of work item codes that are names of pipelines."""
PERFORMED, PROGRESS = "UnifiedProcedureStepPerformedProcedureSequence", "ProcedureStepProgressInformationSequence"
_PRIORITIES = {"HIGH": "stat", "MEDIUM": "routine", "LOW": "background"}
_READINESS = ("READY", "INCOMPLETE", "UNAVAILABLE")
_NOT_CHANGED = (
    "SOPClassUID", "SOPInstanceUID", "ProcedureStepState", "TransactionUID", "PatientName", "PatientID", "PatientBirthDate",
    "PatientSex", "StudyInstanceUID",
)  # fmt: skip
_NOT_CREATED = (PERFORMED, PROGRESS, "TransactionUID")
_WHEN_DONE = ("PerformedStationNameCodeSequence", "PerformedProcedureStepStartDateTime", "PerformedWorkitemCodeSequence",
              "PerformedProcedureStepEndDateTime")  # fmt: skip
_DEEP, _MANY = 16, 5000
_NAMELESS = "2.25.0"
"""A request's data set is no instance."""


class BadWorkitem(GatewayError):
    """A data set that is no workitem, or not one that may be; the text says what was expected."""


@dataclass(frozen=True)
class Requested:
    """What a workitem orders of us. `peers` are AE titles where its results are wanted, `sources` those of who has its input."""

    pipeline: str
    study: str
    series: tuple[str, ...]
    sources: tuple[str, ...]
    peers: tuple[str, ...]
    priority: str
    is_ready: bool


def parse(body: bytes) -> Dataset:
    """One data set in the DICOM JSON Model (PS3.18 F.2), alone or as the one of an array. Raises BadWorkitem."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadWorkitem("expected JSON") from error
    if isinstance(found, list) and len(found) == 1:
        (found,) = found
    if not isinstance(found, dict):
        raise BadWorkitem("expected one data set in the DICOM JSON Model")
    _bound(found)
    try:
        return load(dump(Dataset.from_json(found)))
    except Exception as error:  # foreign bytes: pydicom raises many things, and their texts carry values
        raise BadWorkitem("expected attributes with values as in PS3.18 F.2 and PS3.5 6.2") from error


def dump(workitem: Dataset) -> bytes:
    """As a PS3.10 file."""
    workitem.SpecificCharacterSet = "ISO_IR 192"
    workitem.file_meta = file_meta(SOP_CLASS_UID, workitem.get("SOPInstanceUID") or _NAMELESS)
    return part10(workitem)


def load(file: bytes) -> Dataset:
    """Every value of it can be told as JSON."""
    found: Dataset = dcmread(BytesIO(file))
    json.dumps(found.to_json_dict(), allow_nan=False).encode()
    return found


def created(asked: Dataset, uid: str, now: datetime) -> tuple[Dataset, bool]:
    """A new workitem, and whether something was added that was not asked for (N-CREATE, table CC.2.5-3). Raises BadWorkitem."""
    for keyword, expected in (("SOPInstanceUID", uid), ("SOPClassUID", SOP_CLASS_UID), ("ProcedureStepState", "SCHEDULED")):
        if texts(asked, keyword) not in ((), (expected,)):
            raise BadWorkitem(f"expected {keyword} {expected}")
    for keyword in ("ProcedureStepState", "ProcedureStepLabel", "ScheduledProcedureStepStartDateTime"):
        if not any(texts(asked, keyword)):
            raise BadWorkitem(f"expected {keyword}")
    _check_words(asked, needed=True)
    if any(texts(asked, keyword) for keyword in _NOT_CREATED):
        raise BadWorkitem(f"expected no values in {', '.join(_NOT_CREATED)}")
    is_modified = not any(texts(asked, "WorklistLabel"))
    if is_modified:
        asked.WorklistLabel = "AI"
    asked.SOPClassUID, asked.SOPInstanceUID, asked.ProcedureStepState = SOP_CLASS_UID, uid, "SCHEDULED"
    asked.ScheduledProcedureStepModificationDateTime = moment(now)
    asked.pop("TransactionUID", None)
    return asked, is_modified


def changed(workitem: Dataset, changes: Dataset, now: datetime) -> Dataset:
    """With each attribute of `changes` in place of its own (N-SET). Raises BadWorkitem."""
    if not len(changes) or any(keyword in changes for keyword in _NOT_CHANGED if keyword != "TransactionUID"):
        raise BadWorkitem(f"expected attributes to change, and among them none of {', '.join(_NOT_CHANGED)}")
    _check_words(changes, needed=False)
    workitem.update({element.tag: element for element in changes if element.keyword != "TransactionUID"})
    workitem.ScheduledProcedureStepModificationDateTime = moment(now)
    return workitem


def lacks(workitem: Dataset, state: str) -> list[str]:
    """What it needs before it can be COMPLETED or CANCELED (final state requirements, table CC.2.5-3)."""
    if state == "CANCELED":
        progress = items(workitem, PROGRESS)
        needed = "ProcedureStepDiscontinuationReasonCodeSequence"
        return [] if any(items(one, needed) for one in progress) else [f"{PROGRESS}.{needed}"]
    performed = items(workitem, PERFORMED)[:1]
    lacking = [keyword for keyword in _WHEN_DONE if not any(texts(one, keyword) for one in performed)]
    if not any("OutputInformationSequence" in one for one in performed):
        lacking.append("OutputInformationSequence")
    return [f"{PERFORMED}.{keyword}" for keyword in lacking]


def requested(workitem: Dataset, pipelines: Collection[str], ae_title: str) -> Requested | None:
    """None where it orders nothing of us: its work item code names no pipeline here, or it is meant for another station."""
    codes = items(workitem, "ScheduledWorkitemCodeSequence")
    named = [_value(code) for code in codes if code.get("CodingSchemeDesignator") == SCHEME]
    stations = [_value(code) for code in items(workitem, "ScheduledStationNameCodeSequence")]
    pipeline = next((name for name in named if name in pipelines), None)
    if pipeline is None or (stations and ae_title not in stations):
        return None
    inputs = items(workitem, "InputInformationSequence")
    places = [place for one in inputs for place in items(one, "DICOMRetrievalSequence")]
    return Requested(
        pipeline,
        next(_uids(inputs, "StudyInstanceUID"), ""),
        tuple(dict.fromkeys(_uids(inputs, "SeriesInstanceUID"))),
        tuple(dict.fromkeys(title for place in places for title in texts(place, "RetrieveAETitle"))),
        tuple(dict.fromkeys(_peers(workitem))),
        _PRIORITIES.get(str(workitem.get("ScheduledProcedureStepPriority")), "routine"),
        workitem.get("InputReadinessState") == "READY",
    )


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    if len(value) > 16:
        code.LongCodeValue = value
    else:
        code.CodeValue = value
    code.CodingSchemeDesignator, code.CodeMeaning = scheme, meaning[:64]
    return code


def moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000")


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return [*(dataset.get(keyword) or ())]


def _uids(inputs: Sequence[Dataset], keyword: str) -> Iterator[str]:
    """What is none as in PS3.5 9.1 names nothing."""
    return (uid for one in inputs for uid in texts(one, keyword) if is_uid(uid))


def _value(code: Dataset) -> str:
    return str(code.get("CodeValue") or code.get("LongCodeValue") or "")


def _peers(workitem: Dataset) -> Iterator[str]:
    for place in items(workitem, "OutputDestinationSequence"):
        for storage in items(place, "DICOMStorageSequence"):
            yield from texts(storage, "DestinationAE")


def _check_words(asked: Dataset, *, needed: bool) -> None:
    for keyword, words in (("ScheduledProcedureStepPriority", tuple(_PRIORITIES)), ("InputReadinessState", _READINESS)):
        found = texts(asked, keyword)
        if (needed or keyword in asked) and (len(found) != 1 or found[0] not in words):
            raise BadWorkitem(f"expected {keyword}: {', '.join(words)}")


def _bound(found: Mapping[str, Any]) -> None:
    """Without recursion, which is what a deep one would break."""
    left: list[tuple[int, Any]] = [(0, found)]
    seen = 0
    while left:
        depth, one = left.pop()
        seen += 1
        if depth > 3 * _DEEP or seen > _MANY:
            raise BadWorkitem(f"expected at most {_DEEP} sequences in each other and {_MANY} attributes and values")
        if isinstance(one, dict):
            if "BulkDataURI" in one:
                raise BadWorkitem("expected every value in the data set itself, and no BulkDataURI")
            left += [(depth + 1, value) for value in one.values()]
        elif isinstance(one, list):
            left += [(depth + 1, value) for value in one]
