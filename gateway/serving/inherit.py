"""Inherit: what a process left in the store when it died is taken over by one that lives, without anybody acting.

A dead receiver's journals are filed, because what they hold was acknowledged; files that were only half written go.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress

import structlog

from gateway.filing import Books, Filing, told
from gateway.machine.folders import folders, holding
from gateway.machine.rounds import Rounds
from gateway.store import Store

_LOOK_SECONDS = 5.0

_logger = structlog.get_logger()


class Heir:
    """Looks once when it is told to, and every five seconds from `start` to `close`.

    `left(executors, dead)` is told of all receivers, living or not, that have folders now, and of those that had the folders
    which were taken over.
    """

    def __init__(self, store: Store, *, books: Books, left: Callable[[set[str], set[str]], None]) -> None:
        self._store, self._books, self._left = store, books, left
        self._rounds = Rounds("heir", self.look, again=_LOOK_SECONDS, event="inherit.failed")

    def start(self) -> None:
        self._rounds.start()

    def close(self) -> None:
        self._rounds.stop()

    def look(self) -> None:
        """A folder whose lock can be taken belongs to nobody who lives. One that cannot be filed is told in the log, holds up no
        other, and is tried again at the next look.
        """
        dead = set()
        for folder in folders(self._store.incoming):
            with told("inherit.failed"), suppress(BlockingIOError, FileNotFoundError), holding(folder):
                Filing(folder, self._books, self._books.positions()).finish()
                dead.add(owner(folder.name))
                _logger.info("journals.taken_over", executor=owner(folder.name))
        for folder in folders(self._store.work):
            with suppress(OSError), holding(folder):
                shutil.rmtree(folder, ignore_errors=True)
        self._left({owner(folder.name) for folder in folders(self._store.incoming)}, dead)


def owner(folder: str) -> str:
    """The executor whose folder it is: executor.number-and-more."""
    return folder.rpartition(".")[0]
