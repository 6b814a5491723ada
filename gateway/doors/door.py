"""The door of one ingest process: bytes and a record into the journal, one sync, then the answer (PS3.4 B.2.3).

Nothing else stands between the last byte of an instance and 0x0000: no database, no lock of another process. The journal's
entry is the promise; `receive` makes a file and rows of it within milliseconds, or after a crash. What has no entry was not
acknowledged.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import structlog

from gateway.crash import crash_point
from gateway.dicom import scan
from gateway.dicom.commitment import Outcome
from gateway.dicom.instance import Incoming, Origin, check, part10_header
from gateway.dicom.modality import Step
from gateway.doors.entry import (
    Alarming,
    Asked,
    Declined,
    Ended,
    Full,
    Kept,
    Performed,
    Promise,
    Reported,
    TurnedAway,
    identifying,
    record,
)
from gateway.doors.journal import Segment, new_segment, unwritable
from gateway.doors.steps import Steps
from gateway.doors.tally import Tally
from gateway.errors import GatewayError, NotUnderstood, OutOfResources, ResourceLimitation

_FEWEST_FREE_FILES = 1000
_LOOK_SECONDS = 0.1
_SECOND, _MOST_TOLD = timedelta(seconds=1), 20
_MOST_PUT_OFF = 10_000

_logger = structlog.get_logger()


class Door:
    """Everything that an ingest does for good goes through here; threads share it. `folder` belongs to this process alone.

    The calls for one association (Origin.association) come from one thread at a time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], datetime],
        keep_free_bytes: int,
        wake: Callable[[], None] = lambda: None,
        tally: Tally | None = None,
        steps: Path | None = None,
    ) -> None:
        """`steps` is the folder of procedure steps that all doors share."""
        self._steps = Steps(steps or folder / "steps")
        self.tally = tally or Tally()
        self._folder, self._clock, self._keep_free, self._wake = folder, clock, keep_free_bytes, wake
        self._segments: dict[str, Segment] = {}
        self._idle: list[Segment] = []
        self._told: dict[str, list[datetime]] = {}
        self._put_off: dict[str, set[str]] = {}
        self._room, self._looked_at = True, -_LOOK_SECONDS
        self._noting = threading.Lock()
        self.closed = ""
        """Why nothing is taken for now; empty: the door is open."""

    def open(self, incoming: Incoming, origin: Origin, *, maximum_bytes: int) -> "Arrival":
        """Room for the bytes of `incoming`; raise OutOfResources where there is none."""
        if self.closed:
            raise OutOfResources(self.closed)
        try:
            if not self._has_room():
                raise OutOfResources("the store's disk is nearly full")
            return Arrival(self._segment(origin.association), self, incoming, origin, maximum_bytes)
        except OSError as error:
            raise unwritable("store", error) from error

    def _has_room(self) -> bool:
        """Looked at every tenth of a second while there is: what comes meanwhile is far less than is kept free."""
        now = time.monotonic()
        if not self._room or now > self._looked_at + _LOOK_SECONDS:
            space = os.statvfs(self._folder)
            free_files = space.f_favail if space.f_files else _FEWEST_FREE_FILES
            self._room = space.f_bavail * space.f_frsize >= self._keep_free and free_files >= _FEWEST_FREE_FILES
            self._looked_at = now
        return self._room

    def promise(self, origin: Origin, entry: Asked | Reported | Performed) -> None:
        """Durable when this returns; raise OutOfResources where it cannot be made so."""
        self._segment(origin.association).commit(record(entry))
        self._wake()

    def kept(self, arrival: "Arrival", found: scan.Scan) -> None:
        """In the segment that has its bytes, and in no other, though that one may have broken since."""
        kept = Kept(self._clock(), arrival.origin, arrival.incoming, arrival.size, identifying(found))
        arrival.segment.commit(record(kept))
        if arrival.origin.association in self._put_off:
            self._put_off[arrival.origin.association].discard(arrival.incoming.sop_instance_uid)
        self._wake()
        self.tally.add("instances")
        self.tally.add("bytes", arrival.size)

    def ask(self, origin: Origin, transaction_uid: str, instances: tuple[tuple[str, str], ...]) -> None:
        """A request for storage commitment, kept before it is answered; raise ResourceLimitation where that fails."""
        self._hear(origin, Asked(self._clock(), origin, transaction_uid, instances))

    def report(self, origin: Origin, outcome: Outcome) -> None:
        """What a peer tells of a storage commitment of ours, kept before it is answered; raise ResourceLimitation as above."""
        committed, failed = tuple(outcome.committed), tuple(outcome.failed)
        self._hear(origin, Reported(self._clock(), origin, outcome.transaction_uid, committed, failed))

    def begin_step(self, origin: Origin, sop_instance_uid: str, step: Step) -> None:
        """A procedure step, kept before it is answered; raise DuplicateInstance, or ResourceLimitation as above."""
        self._keep_step(self._steps.begin(sop_instance_uid), origin, sop_instance_uid, step)

    def change_step(self, origin: Origin, sop_instance_uid: str, step: Step) -> None:
        """As above; raise NoSuchInstance where it was not begun, NotChangeable where it has ended."""
        self._keep_step(self._steps.change(sop_instance_uid, step.state), origin, sop_instance_uid, step)

    def _keep_step(self, kept: AbstractContextManager[None], origin: Origin, sop_instance_uid: str, step: Step) -> None:
        """First in the journal: what a crash then leaves unanswered comes again, and is the same."""
        entry = Performed(self._clock(), origin, sop_instance_uid, step.state, step.study_instance_uid, step.instances)
        try:
            with kept:
                self._hear(origin, entry)
                crash_point("step.promised")
        except OSError as error:
            raise ResourceLimitation("the store cannot be written") from error

    def _hear(self, origin: Origin, entry: Asked | Reported | Performed) -> None:
        try:
            self.promise(origin, entry)
        except (OSError, OutOfResources) as error:
            raise ResourceLimitation("the store cannot be written") from error

    def refuse(self, origin: Origin, error: GatewayError, sop_instance_uid: str = "") -> None:
        """Told in the trail; where there is no room for that, the other side's log has to do.

        What may come again is remembered until it does: an association that ends before counts as broken.
        """
        self.tally.refused(error.dimse_status)
        _logger.warning(
            "instance.refused", status=f"0x{error.dimse_status:04X}", reason=str(error), association=origin.association
        )
        if error.retryable:
            waited_for = self._put_off.setdefault(origin.association, set())
            waited_for.add(sop_instance_uid if len(waited_for) < _MOST_PUT_OFF else "")
        else:
            self._note(origin.association, Declined(self._clock(), origin, error.dimse_status, str(error)))

    def turn_away(self, origin: Origin, reason: str) -> None:
        """Who floods the door must not flood the trail as well: of each address some twenty a second are told there."""
        self.tally.add("rejected")
        who = {"calling_ae_title": origin.calling_ae_title, "called_ae_title": origin.called_ae_title}
        _logger.warning("association.rejected", address=origin.address, reason=reason, **(who if any(who.values()) else {}))
        now = self._clock()
        with self._noting:
            self._told = {key: times for key, times in self._told.items() if now - times[-1] < _SECOND}
            times = [at for at in self._told.get(origin.address, []) if now - at < _SECOND]
            if len(times) < _MOST_TOLD:
                self._told[origin.address] = [*times, now]
                self._note("", TurnedAway(now, origin, reason))

    def alarm(self, origin: Origin, incoming: Incoming, reason: str) -> None:
        """Of an instance that was kept."""
        _logger.warning("instance.alarming", reason=reason, association=origin.association)
        self._note(origin.association, Alarming(self._clock(), origin, incoming.sop_instance_uid, reason))

    def end(self, origin: Origin, *, whole: bool = False, broken: bool = False) -> None:
        """Its segment goes to the next association. `whole`, `broken` as in Ended: broken too is what lacks what was put off."""
        broken = bool(self._put_off.pop(origin.association, None)) or broken
        if origin.association in self._segments:
            self._note(origin.association, Ended(self._clock(), origin, whole, broken), last=True)
            segment = self._segments.pop(origin.association, None)
            if segment is not None:
                self._idle.append(segment)

    def close(self) -> None:
        for segment in [*self._segments.values(), *self._idle]:
            segment.close()

    def _segment(self, association: str, *, last: bool = False) -> Segment:
        """That of the association, or another where that is of no more use; a full one takes its `last` entry. Raises OSError."""
        held = self._segments.get(association) or self._take()
        while held is not None and (held.is_broken or (held.is_full and not last)):
            self._segments.pop(association, None)
            if held.is_full and not held.is_broken:
                held.commit(record(Full(self._clock())), durable=False)
            held.close()
            held = self._take()
        self._segments[association] = held or new_segment(self._folder)
        return self._segments[association]

    def _take(self) -> Segment | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _note(self, association: str, entry: Promise, *, last: bool = False) -> None:
        try:
            self._segment(association, last=last).commit(record(entry), durable=False)
        except (OSError, OutOfResources) as error:
            _logger.error("journal.failed", reason=str(unwritable("journal", error) if isinstance(error, OSError) else error))
        self._wake()


class Arrival:
    """An instance on its way in. As a context manager it leaves nothing behind unless it was kept."""

    def __init__(self, segment: Segment, door: Door, incoming: Incoming, origin: Origin, maximum_bytes: int) -> None:
        self.segment, self._door, self.incoming, self.origin = segment, door, incoming, origin
        header = part10_header(incoming)
        self._offset, self._maximum = len(header), maximum_bytes
        self.size = len(header)
        """Bytes of the PS3.10 file so far."""
        self._header = header
        """Goes to the disk with the first bytes of the data set."""
        segment.begin()

    def write(self, *parts: bytes | memoryview) -> None:
        """The next bytes of the data set; raise NotUnderstood when they are too many, OutOfResources when the disk is full."""
        self.size += sum(map(len, parts))
        if self.size - self._offset > self._maximum:
            raise NotUnderstood(f"expected at most {self._maximum} bytes")
        self.segment.write(self._header, *parts)
        self._header = b""

    def keep(self) -> None:
        """Check what came, and promise it; raise Refused and keep nothing otherwise."""
        self.segment.write(self._header)
        found = scan.scan(self.read, self.size - self._offset, self.incoming.transfer_syntax_uid)
        check(self.incoming, found)
        self._door.kept(self, found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OutOfResources):
            self.segment.begin()

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the data set that were written."""
        return self.segment.read(self._offset + offset, count)
