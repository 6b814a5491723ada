"""A walk over the audit trail that somebody asked for: goes on beside everything else, and tells how far it has come."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway import log
from gateway.auditing import seal
from gateway.auditing.chain import Entry, Finding
from gateway.configuration.sections import Config
from gateway.db import Database

_TELL_EVERY = 2000

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Walk:
    """`seen` of `total` events; `found` when it has come to its end, `problem` where it could not."""

    actor: str
    began_at: datetime
    seen: int = 0
    total: int = 0
    ended_at: datetime | None = None
    found: Finding | None = None
    heads: int = 0
    problem: str = ""

    @property
    def percent(self) -> int:
        return 100 * self.seen // self.total if self.total else 0


class Verification:
    """One walk at a time in this process."""

    def __init__(self, db: Database, config: Config, *, clock: Callable[[], datetime]) -> None:
        self._db, self._config, self._clock, self._lock = db, config, clock, threading.Lock()
        self.latest: Walk | None = None

    def begin(self, actor: str) -> bool:
        """False while one is under way."""
        with self._lock:
            if self.latest is not None and self.latest.ended_at is None:
                return False
            self.latest = Walk(actor, self._clock())
        threading.Thread(target=self._go, args=(self.latest,), name="verification", daemon=True).start()
        return True

    def _go(self, walk: Walk) -> None:
        try:
            heads = seal.heads(self._config)
            found = seal.verify(self._db, heads, watch=self._watch)
            walk = replace(self.latest or walk, found=found, heads=len(heads.signed))
            seal.verified(self._db, found, actor=walk.actor, now=self._clock())
        except SQLAlchemyError as error:
            walk = replace(walk, problem=f"the database did not let it ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - boundary: a walk that ends without a word would be waited for
            _logger.error("audit.not_verified", error=type(error).__name__, stack=log.stack_without_values(error))
            walk = replace(walk, problem=str(error) or type(error).__name__)
        self.latest = replace(walk, ended_at=self._clock())

    def _watch(self, entries: Iterable[Entry], total: int) -> Iterator[Entry]:
        for number, entry in enumerate(entries, 1):
            if number % _TELL_EVERY == 1 or number == total:
                assert self.latest is not None
                self.latest = replace(self.latest, seen=number, total=total)
            yield entry
