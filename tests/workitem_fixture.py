"""Workitems as another system orders them (PS3.18 11.4), by keyword."""

from typing import Any

from pydicom import Dataset

from gateway.dicom.procedure import coded

TRANSACTION = "2.25.111"


def json_of(**attributes: Any) -> list[dict[str, Any]]:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return [dataset.to_json_dict()]


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def order(pipeline: str = "bright", series: str = "", study: str = "1.2", **more: Any) -> list[dict[str, Any]]:
    """Of a pipeline of ours on a series; more attributes take the place of these."""
    inputs = [item(TypeOfInstances="DICOM", StudyInstanceUID=study, SeriesInstanceUID=series)] if series else []
    asked = {
        "ProcedureStepState": "SCHEDULED", "ProcedureStepLabel": "chest", "WorklistLabel": "reading room",
        "ScheduledProcedureStepPriority": "MEDIUM", "InputReadinessState": "READY", "PatientName": "CANARY^NAME",
        "PatientID": "CANARY-ID", "ScheduledProcedureStepStartDateTime": "20260102101112",
        "ScheduledWorkitemCodeSequence": [coded(pipeline, "99CAIGW", pipeline)], "InputInformationSequence": inputs,
    }  # fmt: skip
    return json_of(**(asked | more))


def performed(**more: Any) -> list[dict[str, Any]]:
    """What a performer tells when it is done (final state requirements of PS3.4 CC.2.5)."""
    step = {
        "PerformedStationNameCodeSequence": [coded("OTHER", "99X", "another performer")],
        "PerformedProcedureStepStartDateTime": "20260102101112", "PerformedProcedureStepEndDateTime": "20260102101212",
        "PerformedWorkitemCodeSequence": [coded("other", "99X", "other")], "OutputInformationSequence": [],
    }  # fmt: skip
    return json_of(UnifiedProcedureStepPerformedProcedureSequence=[item(**(step | more))])


def state(to: str, transaction: str = TRANSACTION) -> list[dict[str, Any]]:
    return json_of(ProcedureStepState=to, TransactionUID=transaction)
