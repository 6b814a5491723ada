"""What the door of one ingest process promised, filed in its order until there is no more, whatever became of the process."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from pathlib import Path

import structlog

from gateway import log
from gateway.attempt import FAILING, named
from gateway.doors.door import Door
from gateway.doors.entry import Ended, Full, Kept, promise
from gateway.doors.journal import entries, release, segments
from gateway.errors import OutOfResources
from gateway.machine.folders import claim
from gateway.receive import Found

_BATCH, _BATCH_BYTES = 500, 64 * 1024**2
_TELL_SECONDS = 60.0

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Books:
    """Where what was promised goes: bound to the database in app.py."""

    receive: Callable[[Sequence[Found]], None]
    positions: Callable[[], Mapping[str, int]]
    """How far each segment was read."""
    forget: Callable[[Sequence[str]], None]
    """Segments that are no more."""
    lost: Callable[[str], None]
    """An association whose process has died before it ended."""
    closed: Callable[[str], None]
    """The doors were closed, for this reason, or opened again ("")."""
    filed: Callable[[datetime | None, datetime | None], None] = lambda _filed, _opened: None
    """Everything that was promised until then is, and the doors have been open since then; None: nothing more will be."""


class Filing:
    """Of one door's folder. Where `file` raises, nothing is lost, and it may be called again."""

    def __init__(self, folder: Path, books: Books, positions: Mapping[str, int] = {}) -> None:
        self.folder, self._books, self._positions = folder, books, dict(positions)
        self._left: set[str] = set()
        self.associations: set[str] = set()
        """Those over which instances came and which have not ended."""
        self.oldest: datetime | None = None
        """When that was promised which is to be filed now."""
        self.told_at = -_TELL_SECONDS
        """When it was last told that disk or database are away."""

    def file(self) -> bool:
        """File one batch; whether there was one."""
        found = self._found()
        self.oldest = min((one.at for _, one in found), default=None)
        if not found:
            return False
        self.associations |= {one.origin.association for _, one in found if isinstance(one, Kept)}
        self._books.receive(found)
        self.associations -= {one.origin.association for _, one in found if isinstance(one, Ended)}
        self._positions |= {lies.segment.stem: lies.end for lies, _ in found}
        left = [lies.segment for lies, one in found if isinstance(one, Full)]
        for segment in left:
            release(segment)
            del self._positions[segment.stem]
        if left:
            self._books.forget([segment.stem for segment in left])
        return True

    def finish(self) -> None:
        """The process has ended: file the rest and remove the folder; what has no record was not acknowledged."""
        while self.file():
            pass
        for association in self.associations:
            self._books.lost(association)
        self._left |= {segment.stem for segment in segments(self.folder)}
        shutil.rmtree(self.folder, ignore_errors=True)  # it may be gone already, where this is done again
        self._books.forget(sorted(self._left))

    def _found(self) -> list[Found]:
        """What is not filed yet, in the order it came, as much as makes a batch: an association may go on in another segment."""
        found: list[Found] = []
        size = 0
        unread = [self._unread(segment) for segment in segments(self.folder)]
        for lies, one in merge(*unread, key=lambda one: one[1].at):
            found.append((lies, one))
            size += lies.data_size
            if len(found) == _BATCH or size > _BATCH_BYTES:
                break
        return found

    def _unread(self, segment: Path) -> Iterator[Found]:
        return ((lies, promise(lies.record)) for lies in entries(segment, self._positions.get(segment.stem, 0)))


@contextmanager
def told(event: str, filing: Filing | None = None) -> Iterator[None]:
    """Boundary: database or disk are away; nothing is lost, they come back, and then it is done.

    That is told in a sentence, and of a `filing`, which is tried again all the time, once a minute.
    """
    try:
        yield
    except (OutOfResources, *FAILING) as error:
        now = time.monotonic()
        if filing is None or now >= filing.told_at + _TELL_SECONDS:
            _logger.error(event, reason=str(error) if isinstance(error, OutOfResources) else _away(error))
            if filing is not None:
                filing.told_at = now
    except Exception as error:  # noqa: BLE001
        _logger.error(event, error=type(error).__name__, stack=log.stack_without_values(error))


def _away(error: Exception) -> str:
    name = named(error)
    what = "can only be read" if name == "ReadOnlySqlTransaction" else "does not answer"
    return f"the database {what} ({name}); what is acknowledged is kept meanwhile"


@contextmanager
def own_door(
    books: Books, incoming: Path, name: str, *, clock: Callable[[], datetime], keep_free_bytes: int
) -> Iterator[tuple[Door, Filing]]:
    """A door of this process; at the end everything that it promised is filed, here or, where that fails, by who takes over."""
    folder, alive = claim(incoming, name)
    with alive:
        filing, door = Filing(folder, books), Door(folder, clock=clock, keep_free_bytes=keep_free_bytes)
        try:
            yield door, filing
        finally:
            door.close()
            filing.finish()
