"""Take: what we fetch from a peer, promised by a door of our own and filed like everything else while it comes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from gateway.db import Database
from gateway.doors.door import Door
from gateway.engine import Queues
from gateway.filing import Books, Filing, own_door, told
from gateway.ingest import Terms
from gateway.ingest.dimse import STORAGE, TRANSFER_SYNTAXES

_FILE_SECONDS = 0.1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What everybody works with who fetches. `incoming` has the folders of doors; `executor` is the process that answers."""

    db: Database
    queues: Queues
    books: Books
    clock: Callable[[], datetime]
    incoming: Path
    executor: str
    order: Callable[..., object]
    """A pipeline on a series (order.py), its pipelines and peers bound."""
    keep_free_bytes: int
    terms: Terms


def terms(maximum_instance_bytes: int) -> Terms:
    """What is taken of what comes, wherever we fetched it."""
    return Terms(STORAGE, TRANSFER_SYNTAXES, maximum_instance_bytes)


class Takes:
    """A door for each `take`; `name` tells whose they are."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self._owner, self._around = f"{around.executor}.{name}", around
        self._filings: set[Filing] = set()

    @property
    def associations(self) -> set[str]:
        return set().union(*(filing.associations for filing in list(self._filings)))

    def take(self, go: Callable[[Door], T]) -> T:
        """What `go` returns; all that it promised to its door is filed then. Raises what filing raises: then it is later."""
        around, mine = self._around, set[Filing]()
        with ExitStack() as stack:
            stack.callback(self._filings.difference_update, mine)
            door, filing = stack.enter_context(
                own_door(around.books, around.incoming, self._owner, clock=around.clock, keep_free_bytes=around.keep_free_bytes)
            )
            mine.add(filing)
            self._filings |= mine
            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="take"))
            going = pool.submit(go, door)
            while wait([going], _FILE_SECONDS).not_done:
                with told("receive.failed", filing):
                    filing.file()
            return going.result()
