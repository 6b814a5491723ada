"""Pages that keep themselves up to date, at next to no cost while nothing happens.

Whatever happens is told in the audit trail, so the position of its end is the version of the world. A part of a page (a
template's `live` macro) asks for itself again every two seconds with the version that it shows, and gets 204 while that is still
the one: no operation runs, and however many look, the database is asked twice a second.
"""

import threading
import time
from typing import Annotated

from fastapi import Depends, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import Database
from gateway.rows.trail import AuditEvent
from gateway.web.shared import is_live

_LOOK_SECONDS = 0.5
_PEOPLE = (Act.PERSON_SIGNED_IN, Act.PERSON_SIGNED_OUT, Act.PERSON_CHANGED)


class NothingNew(Exception):
    """The page shows the world as it is; answered with 204."""


class Shown(Exception):
    """Somebody else has just been shown the same."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Pulse:
    """The version of the world, looked up at most twice a second for all who ask; and which of them changed who may what."""

    def __init__(self, db: Database) -> None:
        self._db, self._lock = db, threading.Lock()
        self.latest, self.people, self._looked = 0, 0, -_LOOK_SECONDS
        """As of the last look; and the last version in which somebody came or went, or may something else than before."""

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._looked < _LOOK_SECONDS

    def version(self) -> int:
        with self._lock:
            if not self.is_fresh:
                with self._db() as session:
                    head = audit.head_of(session)
                    version = head.position if head else 0
                    if version < self.latest or _are_other_people(session, self.latest):
                        self.people = version
                self.latest, self._looked = version, time.monotonic()
            return self.latest


def _are_other_people(session: Session, since: int) -> bool:
    told = select(AuditEvent.id).where(AuditEvent.id > since, AuditEvent.act.in_(_PEOPLE))
    return since == 0 or session.scalar(told.limit(1)) is not None


async def version_of(pulse: Pulse) -> int:
    """Without a thread where somebody has looked just now."""
    return pulse.latest if pulse.is_fresh else await run_in_threadpool(pulse.version)


async def _news(request: Request, seen: Annotated[int | None, Query(ge=0)] = None) -> int:
    version = await version_of(request.app.state.site.pulse)
    if seen is not None and seen == version:
        raise NothingNew
    if seen is not None and is_live(request):
        shown = request.app.state.site.shared.find(request, version, seen)
        if shown is not None:
            raise NothingNew if shown.version == seen else Shown(shown.text)
    return version


News = Annotated[int, Depends(_news)]
"""The version that the answer shows; an operation that takes it answers 204 to who has seen it (`?seen=`)."""
