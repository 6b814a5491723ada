"""A PACS for tests that answers queries, and takes, forgets, or says no as it is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from tests.scp_fixture import accepting


@dataclass
class Archive:
    """What it holds by UID, and what came, in its order.

    `statuses` are its next answers to C-STORE; it holds what it answers with success or a warning, unless it forgets. With
    `silent` it keeps the next ones and aborts instead of answering.
    """

    statuses: list[int] = field(default_factory=list)
    forgets: bool = False
    silent: int = 0
    received: list[tuple[str, bytes]] = field(default_factory=list)
    held: dict[str, bytes] = field(default_factory=dict)

    def on_c_store(self, event: evt.Event) -> int:
        uid, data = str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()
        self.received.append((uid, data))
        status = self.statuses.pop(0) if self.statuses else 0x0000
        if status >> 12 in (0x0, 0xB) and status != 0x0122 and not self.forgets:
            self.held[uid] = data
        if self.silent:
            self.silent -= 1
            event.assoc.abort()
        return status

    def on_c_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        if wanted.QueryRetrieveLevel == "IMAGE" and wanted.SOPInstanceUID in self.held:
            yield 0xFF00, wanted


@contextmanager
def archive(port: int, *statuses: int, **behaviour: object) -> Iterator[Archive]:
    pacs = Archive(list(statuses), **behaviour)
    ae = AE("PACS")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    handlers = [(evt.EVT_C_STORE, pacs.on_c_store), (evt.EVT_C_FIND, pacs.on_c_find)]
    with accepting(ae, port, handlers):
        yield pacs
