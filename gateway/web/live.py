"""Pages that keep themselves up to date, at next to no cost while nothing happens.

Whatever happens is told in the audit trail, so the position of its end is the version of the world. A part of a page (a
template's `live` macro) asks for itself again every two seconds with the version that it shows, and gets 204 while that is still
the one: no operation runs, and however many look, the database is asked twice a second.
"""

import threading
import time
from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from gateway import audit
from gateway.db import Database

_LOOK_SECONDS = 0.5


class NothingNew(Exception):
    """The page shows the world as it is; answered with 204."""


class Pulse:
    """The version of the world, looked up at most twice a second for all who ask."""

    def __init__(self, db: Database) -> None:
        self._db, self._lock = db, threading.Lock()
        self._version, self._looked = 0, -_LOOK_SECONDS

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._looked < _LOOK_SECONDS

    @property
    def latest(self) -> int:
        """As of the last look."""
        return self._version

    def version(self) -> int:
        with self._lock:
            if not self.is_fresh:
                with self._db() as session:
                    head = audit.head_of(session)
                self._version, self._looked = head.position if head else 0, time.monotonic()
            return self._version


async def version_of(pulse: Pulse) -> int:
    """Without a thread where somebody has looked just now."""
    return pulse.latest if pulse.is_fresh else await run_in_threadpool(pulse.version)


async def _news(request: Request, seen: Annotated[int | None, Query(ge=0)] = None) -> int:
    version = await version_of(request.app.state.site.pulse)
    if seen is not None and seen == version:
        raise NothingNew
    return version


News = Annotated[int, Depends(_news)]
"""The version that the answer shows; an operation that takes it answers 204 to who has seen it (`?seen=`)."""
