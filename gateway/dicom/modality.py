"""Modality Performed Procedure Step (PS3.4 F.7): its UID, and what of its two messages counts here. No I/O.

Of a step only UIDs and its status are read: which study it is of, and which instances each of its series has.
"""

from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset

from gateway.dicom.commitment import decoded, foreign, items, uid_of
from gateway.errors import InvalidArgument, InvalidAttribute, MissingAttribute

PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


class StepState(StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


FINAL = (StepState.COMPLETED, StepState.DISCONTINUED)


@dataclass(frozen=True)
class Step:
    """`state` is empty where a message does not change it; `instances`: Series and SOP Instance UIDs, None where it has none."""

    state: str
    study_instance_uid: str
    instances: tuple[tuple[str, str], ...] | None


def read_created(data: bytes, transfer_syntax_uid: str) -> Step:
    """The attributes of an N-CREATE (PS3.4 table F.7.2-1); raises InvalidAttribute or MissingAttribute."""
    step = read_changed(data, transfer_syntax_uid)
    if not step.state or not step.study_instance_uid:
        raise MissingAttribute("expected a Performed Procedure Step Status and a Study Instance UID")
    if step.state != StepState.IN_PROGRESS:
        raise InvalidAttribute("expected a Performed Procedure Step Status of IN PROGRESS")
    return step


def read_changed(data: bytes, transfer_syntax_uid: str) -> Step:
    """Those of an N-SET; raises InvalidAttribute."""
    try:
        with foreign("expected the attributes of PS3.4 table F.7.2-1"):
            ds = decoded(data, transfer_syntax_uid)
            scheduled = items(ds, "ScheduledStepAttributesSequence")
            study = uid_of(scheduled[0], "StudyInstanceUID") if scheduled else ""
            step = Step(_status(ds), study, _instances(ds) if "PerformedSeriesSequence" in ds else None)
    except InvalidArgument as error:
        raise InvalidAttribute(str(error)) from error
    if step.state and step.state not in [*StepState]:
        raise InvalidAttribute("expected a Performed Procedure Step Status as in PS3.3 C.4.14")
    return step


def _instances(ds: Dataset) -> tuple[tuple[str, str], ...]:
    found = [
        (uid_of(series, "SeriesInstanceUID"), uid_of(one, "ReferencedSOPInstanceUID"))
        for series in items(ds, "PerformedSeriesSequence")
        for keyword in _REFERENCES
        for one in items(series, keyword)
    ]
    return tuple(dict.fromkeys(found))


def _status(ds: Dataset) -> str:
    """As it stands in the bytes: pydicom's conversion would warn and quote it."""
    if "PerformedProcedureStepStatus" not in ds:
        return ""
    value = ds.get_item("PerformedProcedureStepStatus").value
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value or "")).strip(" \0")
