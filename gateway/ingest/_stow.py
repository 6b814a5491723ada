"""One Store request (PS3.18 10.5): its parts through the door, and what became of each. Blocks on the disk; knows no HTTP."""

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from gateway.dicom import scan
from gateway.dicom.filemeta import FOREIGN_PREAMBLE, Meta, read_meta
from gateway.dicom.instance import Incoming, Origin
from gateway.doors.door import Arrival, Door
from gateway.errors import Mismatch, NotSupported, NotUnderstood, Refused
from gateway.ingest import Terms
from gateway.ingest._multipart import Ended, Malformed, Multipart, media_type

_UNCODED = {"binary", "8bit", "7bit"}


class SyntaxNotSupported(NotSupported):
    """PS3.18 table I.2-2."""

    dimse_status = 0xC122


class OtherStudy(Mismatch):
    """PS3.18 I.2.2 has no code for it and allows others; in A9xx senders take it for final. Other servers answer it too."""

    dimse_status = 0xA901


class OtherType(NotUnderstood):
    """A part that is no application/dicom."""


class TooLarge(NotUnderstood):
    """An instance of more bytes than we take."""


@dataclass(frozen=True)
class Outcome:
    """What became of a part; UIDs are empty where none could be read. `error` is None where it is stored."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    error: Refused | None = None


class Submission:
    """A request's body, handed in piece by piece by `take` and `finish`; `end` gives up what is not finished.

    The calls may come from any thread. `outcomes` grows by one with each part; what was stored stays stored, whatever comes
    afterwards.
    """

    def __init__(self, door: Door, origin: Origin, multipart: Multipart, terms: Terms, outcomes: list[Outcome]) -> None:
        self._door, self._origin, self._multipart, self._terms, self._outcomes = door, origin, multipart, terms, outcomes
        self._lock, self._gone, self._is_whole = threading.Lock(), False, False
        self._part: Part | None = None

    def take(self, data: bytes) -> None:
        """Raises Malformed and TooMuch; what is wrong with one part alone becomes its outcome."""
        with self._lock:
            if self._gone:
                return
            for event in self._multipart.feed(data):
                if isinstance(event, memoryview):
                    assert self._part is not None
                    self._part.write(event)
                elif isinstance(event, Ended):
                    self._settle()
                else:
                    self._part = Part(self._door, self._origin, self._terms, event)

    def finish(self, data: bytes) -> None:
        """Take the last piece; raise Malformed where the body is not whole with it."""
        self.take(data)
        self._multipart.finish()
        self._is_whole = True

    def end(self) -> None:
        """Discard a part that did not come to its end, and tell the door; whoever sent a body that is not whole may come back."""
        if self.discard():
            self._door.end(self._origin, broken=not self._is_whole)

    def discard(self) -> bool:
        """A part that did not come to its end, the first time; the association goes on."""
        with self._lock:
            if self._gone:
                return False
            self._gone = True
            if self._part is not None:
                self._part.discard()
            return True

    def _settle(self) -> None:
        assert self._part is not None
        part, self._part = self._part, None
        outcome = part.finish()
        self._outcomes.append(outcome)
        if outcome.error is not None:
            self._door.refuse(self._origin, outcome.error, outcome.sop_instance_uid)


class Part:
    """A part on its way in. What is refused is read to its end all the same, for the parts behind it."""

    def __init__(self, door: Door, origin: Origin, terms: Terms, headers: Mapping[str, str]) -> None:
        self._door, self._origin, self._terms = door, origin, terms
        self._head = b""
        self._meta: Meta | None = None
        self._arrival: Arrival | None = None
        self._opened = ExitStack()
        self._size = 0
        self._error = _headers_error(headers)

    def write(self, data: memoryview) -> None:
        if self._error is None:
            try:
                self._write(data)
            except Refused as error:
                self._error = error
                self.discard()

    def finish(self) -> Outcome:
        if self._error is None:
            try:
                self._keep()
            except Refused as error:
                self._error = error
        self.discard()
        if self._meta is None:
            return Outcome(error=self._error)
        return Outcome(self._meta.sop_class_uid, self._meta.sop_instance_uid, self._error)

    def discard(self) -> None:
        """Nothing is left of it, unless it was kept."""
        self._opened.close()

    def _write(self, data: memoryview) -> None:
        if self._arrival is None:
            data = memoryview(self._head + data) if self._head else data
            self._meta = read_meta(data)
            if self._meta is None:
                self._head = bytes(data)
                return
            self._arrival, self._head = self._open(self._meta), b""
            data = data[self._meta.offset :]
        self._size += len(data)
        if self._size > self._terms.maximum_instance_bytes:
            raise TooLarge(f"expected at most {self._terms.maximum_instance_bytes} bytes")
        self._arrival.write(data)

    def _open(self, meta: Meta) -> Arrival:
        if meta.sop_class_uid not in self._terms.sop_classes:
            raise NotSupported("expected a SOP class of Storage, and one that this caller may send")
        if meta.transfer_syntax_uid not in self._terms.transfer_syntaxes:
            raise SyntaxNotSupported("expected a transfer syntax that the gateway can decode")
        incoming = Incoming(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)
        arrival = self._door.open(incoming, self._origin, maximum_bytes=self._terms.maximum_instance_bytes)
        return self._opened.enter_context(arrival)

    def _keep(self) -> None:
        if self._arrival is None:
            raise NotUnderstood("expected a PS3.10 file with a data set")
        if self._terms.study_instance_uid:
            self._check_study(self._arrival)
        self._arrival.keep()
        if self._meta is not None and not self._meta.preamble_is_plain:
            self._door.alarm(self._origin, self._arrival.incoming, FOREIGN_PREAMBLE)

    def _check_study(self, arrival: Arrival) -> None:
        """Before it is promised."""
        read = arrival.read  # the door's own scan comes too late: with it the instance is kept
        found = scan.scan(read, self._size, arrival.incoming.transfer_syntax_uid)
        if found.text(scan.STUDY_INSTANCE_UID) != self._terms.study_instance_uid:
            raise OtherStudy("expected the Study Instance UID of the request in the data set")


def _headers_error(headers: Mapping[str, str]) -> Refused | None:
    """A part without Content-Type is taken for what the whole says it is."""
    try:
        kind, _ = media_type(headers.get("content-type", "application/dicom"))
    except Malformed:
        kind = ""
    coding = headers.get("content-transfer-encoding", "binary").lower()
    if kind != "application/dicom" or coding not in _UNCODED or "content-encoding" in headers:
        return OtherType("expected a part of type application/dicom, not encoded")
    return None
