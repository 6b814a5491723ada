"""An archive for tests, on pynetdicom: it stores, is queried for what it holds, and commits to keep it; each as told, right or wrong."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from ssl import SSLContext
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)
from pynetdicom.transport import ThreadedAssociationServer

References = Sequence[tuple[str, str]]
_UNIQUE_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
NO_SUCH_INSTANCE = 0x0112


@dataclass(frozen=True)
class Held:
    """An instance as it came."""

    sop_class_uid: str
    data: bytes
    transfer_syntax: Any

    @cached_property
    def dataset(self) -> Dataset:
        syntax = self.transfer_syntax
        return decode(BytesIO(self.data), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


@dataclass
class ScriptedScp:
    """`statuses` are its next answers to C-STORE, 0x0000 when there are no more; so are those to C-FIND (the last one) and N-ACTION.

    `held` is what it has by SOP Instance UID, and a test may take from it; `loses` so many of the next that it says it has stored.
    `patient_id` is what it says in place of the stored ones. `report_to` (port, AE title) is told of each commitment at once, over
    a new association; `report_before_answer` sends the report over the association of the request, before its answer.
    """

    statuses: list[int] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    associations: int = 0
    port: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    loses: int = 0
    patient_id: str | None = None
    find_statuses: list[int] = field(default_factory=list)
    queries: list[Dataset] = field(default_factory=list)
    action_statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, References]] = field(default_factory=list)
    report_to: tuple[int, str] | None = None
    report_before_answer: bool = False
    aborted: threading.Event = field(default_factory=threading.Event)
    reporting: list[threading.Thread] = field(default_factory=list)

    @property
    def handlers(self) -> list[tuple[Any, Any]]:
        return [
            (evt.EVT_C_STORE, self.on_c_store),
            (evt.EVT_C_FIND, self.on_c_find),
            (evt.EVT_N_ACTION, self.on_n_action),
            (evt.EVT_ACCEPTED, self.on_accepted),
            (evt.EVT_ABORTED, lambda _: self.aborted.set()),
        ]

    def on_c_store(self, event: Any) -> int:
        data = event.request.DataSet.getvalue()
        self.received.append(data)
        status = self.statuses.pop(0) if self.statuses else 0x0000
        if status == 0x0000 or status >> 12 == 0xB:
            if self.loses:
                self.loses -= 1
            else:
                self.held[str(event.request.AffectedSOPInstanceUID)] = Held(
                    str(event.request.AffectedSOPClassUID), data, event.context.transfer_syntax
                )
        return status

    def on_c_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        self.queries.append(query)
        for match in self.matches(query):
            yield 0xFF00, match
        yield (self.find_statuses.pop(0) if self.find_statuses else 0x0000), None

    def matches(self, query: Dataset) -> Iterator[Dataset]:
        """One for each instance or, at the level of studies, for each study."""
        level = _UNIQUE_KEYS[: 1 if query.QueryRetrieveLevel == "STUDY" else 3]
        found: dict[tuple[str, ...], Dataset] = {}
        for held in list(self.held.values()):
            ds = held.dataset
            if all(ds[keyword].value == query[keyword].value for keyword in level if query.get(keyword)):
                found.setdefault(tuple(ds[keyword].value for keyword in level), ds)
        for ds in found.values():
            match = Dataset()
            match.QueryRetrieveLevel = query.QueryRetrieveLevel
            for element in query:
                if element.keyword in ds:
                    match[element.tag] = ds[element.tag]
            if "SpecificCharacterSet" in ds:
                match.SpecificCharacterSet = ds.SpecificCharacterSet
            if self.patient_id is not None and "PatientID" in query:
                match.PatientID = self.patient_id
            yield match

    def on_n_action(self, event: Any) -> tuple[int, None]:
        ds = event.action_information
        references = [(str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in ds.ReferencedSOPSequence]
        self.requests.append((str(ds.TransactionUID), references))
        status = self.action_statuses.pop(0) if self.action_statuses else 0x0000
        if self.report_before_answer:
            self._report_over(event)
        if status == 0x0000 and self.report_to is not None:
            self.reporting.append(threading.Thread(target=self.report, args=(len(self.requests) - 1,)))
            self.reporting[-1].start()
        return status, None

    def on_accepted(self, event: Any) -> None:
        self.associations += 1

    def outcome(self, request: int = -1) -> tuple[int, Dataset]:
        """Event type and event information: committed is what is held."""
        transaction_uid, references = self.requests[request]
        ds = Dataset()
        ds.TransactionUID = transaction_uid
        committed, failed = [], []
        for sop_class, uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            if uid not in self.held:
                item.FailureReason = NO_SUCH_INSTANCE
            (committed if uid in self.held else failed).append(item)
        if committed:
            ds.ReferencedSOPSequence = committed
        if failed:
            ds.FailedSOPSequence = failed
        return (2 if failed else 1), ds

    def report(self, request: int = -1) -> int:
        """Report to `report_to` over a new association; the status of the answer, -1 where none came."""
        assert self.report_to is not None
        port, called = self.report_to
        ae = AE("SCP")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = ae.associate("127.0.0.1", port, ae_title=called, ext_neg=[role])
        if not association.is_established:
            return -1
        event_type, information = self.outcome(request)
        answer, _ = association.send_n_event_report(
            information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        return int(answer.get("Status", -1))

    def _report_over(self, event: Any) -> None:
        event_type, information = self.outcome()
        report = N_EVENT_REPORT()
        report.MessageID, report.EventTypeID = 1, event_type
        report.AffectedSOPClassUID = StorageCommitmentPushModel
        report.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
        report.EventInformation = BytesIO(encode(information, is_implicit_vr=True, is_little_endian=True) or b"")
        event.assoc.dimse.send_msg(report, event.context.context_id)


def add_contexts(ae: AE, *, finds: bool = True, commits: bool = True) -> None:
    """What a ScriptedScp does besides storage."""
    if finds:
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    if commits:
        ae.add_supported_context(StorageCommitmentPushModel)


@dataclass
class Listener:
    """Hears reports of storage commitment: each Transaction UID, and the failure reasons by SOP Instance UID; 0 is success."""

    port: int
    reports: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    heard: threading.Event = field(default_factory=threading.Event)

    def on_n_event_report(self, event: Any) -> tuple[int, None]:
        ds = event.event_information
        told = {one.ReferencedSOPInstanceUID: 0 for one in ds.get("ReferencedSOPSequence", ())}
        told |= {one.ReferencedSOPInstanceUID: one.FailureReason for one in ds.get("FailedSOPSequence", ())}
        self.reports.append((str(ds.TransactionUID), told))
        self.heard.set()
        return 0x0000, None


@contextmanager
def accepting(ae: AE, port: int, handlers: Sequence[tuple[Any, ...]], context: SSLContext | None = None) -> Iterator[None]:
    """As `ae.start_server` does, which looks only every half second whether it shall end."""
    server = ae.make_server(
        ("127.0.0.1", port), evt_handlers=list(handlers), server_class=ThreadedAssociationServer, ssl_context=context
    )
    ae._servers.append(server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()


@contextmanager
def running_listener(port: int, ae_title: str = "AIGATEWAY") -> Iterator[Listener]:
    listener = Listener(port)
    ae = AE(ae_title)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, listener.on_n_event_report)]
    with accepting(ae, port, handlers):
        yield listener
