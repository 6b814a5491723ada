"""Retrieve: the instances of a series that a peer has and we do not, each through the door like any other (PS3.18 10.4).

The whole series is asked for at once where nothing of it is here, because archives answer that fastest; what is missing then is
asked for by instance over several connections. What was promised stays promised, so that a retrieval that broke off goes on where
it ended. Nothing is held in memory but a piece of the network's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from uuid import uuid4

from gateway.dicom.instance import Origin
from gateway.doors.door import Door
from gateway.errors import DeliveryError, GatewayError, NotUnderstood, OutOfResources, Refused, Unreachable
from gateway.ingest import Terms
from gateway.ingest._multipart import Malformed, Multipart, TooMuch, is_boundary, media_type
from gateway.ingest._stow import Outcome, Part, Submission, TooLarge
from gateway.ingest.move import MOVE

INGEST, PRIOR = "retrieve", "prior"
"""Of what somebody sent to a peer; and of what a job wants of the past, which starts none."""
LENT = (PRIOR, MOVE)
"""Of what was asked for by us alone, or is said to be."""
_HEADER_BYTES, _PARTS = 16 * 1024, 100_000
_ALL = ""

Open = Callable[[str], AbstractContextManager[tuple[str, Iterator[bytes]]]]
"""Content-Type and body of one instance of the series, by its SOP Instance UID; or of all of them (""). Raises DeliveryError."""


@dataclass
class Retrieved:
    """What came of it; threads share it. `error` is why it ended early: it may go on later."""

    taken: set[str] = field(default_factory=set)
    """SOP Instance UIDs that were promised."""
    refused: dict[str, Refused] = field(default_factory=dict)
    """Those that will never be taken, and why."""
    error: GatewayError | None = None

    def note(self, outcomes: Sequence[Outcome], asked: str = "") -> None:
        """`asked`: the instance that was asked for, where it was one."""
        for one in outcomes:
            if one.error is None:
                self.taken.add(one.sop_instance_uid)
            elif one.error.retryable:
                self.error = self.error or one.error
            else:
                self.refused[asked or one.sop_instance_uid] = one.error


def retrieve(
    wanted: Sequence[str],
    open_: Open,
    *,
    door: Door,
    peer: str,
    terms: Terms,
    connections: int,
    at_once: bool,
    is_stopping: Callable[[], bool] = lambda: False,
    origins: set[str] | None = None,
    ingest: str = INGEST,
) -> Retrieved:
    """Take the instances `wanted`; with `at_once` the whole series is asked for first.

    `origins` holds the associations while they are open (threads that work for one retrieval have one each).
    """
    found, origins = Retrieved(), set() if origins is None else origins
    left: SimpleQueue[str] = SimpleQueue()
    lines = [Origin(ingest, str(uuid4()), address=peer) for _ in range(max(1, min(connections, len(wanted))))]
    origins.update(line.association for line in lines)
    try:
        if at_once:
            _all(open_, found, _Line(door, lines[0], terms, is_stopping))
        for uid in wanted:
            if uid not in found.taken and uid not in found.refused:
                left.put(uid)
        if not (_has_to_wait(found.error) or is_stopping() or left.empty()):
            found.error = None
            with ThreadPoolExecutor(len(lines), thread_name_prefix="retrieve") as pool:
                working = [pool.submit(_each, left, open_, found, _Line(door, line, terms, is_stopping)) for line in lines]
            for one in working:
                one.result()
    finally:
        for line in lines:
            door.end(line)
    return found


def _has_to_wait(error: GatewayError | None) -> bool:
    return isinstance(error, OutOfResources) or (isinstance(error, Unreachable) and error.after is not None)


@dataclass(frozen=True)
class _Line:
    """One connection's worth of a retrieval."""

    door: Door
    origin: Origin
    terms: Terms
    is_stopping: Callable[[], bool]

    def take(self, open_: Open, instance: str) -> Iterator[list[Outcome]]:
        """What became of the parts of one answer, as they end. Raises DeliveryError."""
        with open_(instance) as (content_type, body):
            kind, parameters = _kind(content_type)
            if kind == "application/dicom":
                yield [self._single(body)]
                return
            outcomes: list[Outcome] = []
            multipart = Multipart(parameters["boundary"], maximum_header_bytes=_HEADER_BYTES, maximum_parts=_PARTS)
            submission = Submission(self.door, self.origin, multipart, self.terms, outcomes)
            try:
                for chunk in self._watched(body):
                    submission.take(chunk)
                    if outcomes:
                        yield outcomes.copy()
                        outcomes.clear()
                submission.finish(b"")
            except (Malformed, TooMuch) as error:
                raise Unreachable("the peer's answer is not whole") from error
            finally:
                submission.discard()

    def _single(self, body: Iterator[bytes]) -> Outcome:
        part = Part(self.door, self.origin, self.terms, {})
        try:
            for chunk in self._watched(body):
                part.write(memoryview(chunk))
            outcome = part.finish()
        finally:
            part.discard()
        if isinstance(outcome.error, NotUnderstood) and not isinstance(outcome.error, TooLarge):
            # Without a length, one that was cut off looks like this.
            raise Unreachable("the peer's answer is not whole, or no DICOM")
        if outcome.error is not None:
            self.door.refuse(self.origin, outcome.error)
        return outcome

    def _watched(self, body: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in body:
            if self.is_stopping():
                raise Unreachable("the gateway stops")
            yield chunk


def _all(open_: Open, found: Retrieved, line: _Line) -> None:
    """What fails here is asked for again, by instance."""
    try:
        for outcomes in line.take(open_, _ALL):
            found.note(outcomes)
            if found.error is not None:
                return
    except DeliveryError as error:
        found.error = error


def _each(left: "SimpleQueue[str]", open_: Open, found: Retrieved, line: _Line) -> None:
    """One after another until there are no more, or one of the lines has failed."""
    with suppress(Empty):
        while found.error is None:
            uid = left.get_nowait()
            try:
                for outcomes in line.take(open_, uid):
                    found.note(outcomes, uid)
            except DeliveryError as error:
                found.error = error
                return


def _kind(content_type: str) -> tuple[str, Mapping[str, str]]:
    try:
        kind, parameters = media_type(content_type)
    except Malformed:
        kind, parameters = "", {}
    if kind == "application/dicom" or (kind == "multipart/related" and is_boundary(parameters.get("boundary", ""))):
        return kind, parameters
    raise Unreachable("expected instances (multipart/related or application/dicom) from the peer")
