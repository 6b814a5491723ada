"""Attempt: one run of a stage, guarded: whatever it raises is written down, and a database that is away is waited for."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from gateway import log

AWAY = (DBAPIError, NoConnectionFree)
FAILING = (OperationalError, InternalError, NoConnectionFree)
"""It is away, full, or can only be read: what else a database says is no trouble of its own."""
_REFUSED = (DataError, IntegrityError)
"""The database is there, and cannot hold what it was told: repeated for ever, it would stop a lane."""

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Stage:
    """`act(key)` does one attempt; `failed(key, error)` writes down what `act` did not expect."""

    name: str
    act: Callable[[str], None]
    failed: Callable[[str, Exception], None]


def guarded(stage: Stage, key: str) -> None:
    """The worker's boundary: nothing that a stage raises may be lost or stop the worker."""
    try:
        stage.act(key)
    except Exception as error:  # boundary (habit 25)
        if isinstance(error, AWAY) and not isinstance(error, _REFUSED):
            raise
        _logger.error("stage.failed", error=type(error).__name__, stack=log.stack_without_values(error))
        stage.failed(key, error)


def named(error: Exception) -> str:
    """What the database's own driver calls it."""
    return type(getattr(error, "orig", error)).__name__


def until_the_database_answers(act: Callable[[], None], stopping: threading.Event) -> None:
    """A stage is safe to repeat; while the database is away it is repeated, its row cannot say anything else."""
    wait = 0.5
    while True:
        try:
            return act()
        except AWAY as error:
            _logger.warning("database.unavailable", error=named(error), seconds=wait)
            if stopping.wait(wait):
                raise
            wait = min(2 * wait, 30)
