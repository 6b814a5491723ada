"""Reread: a gateway.toml that was changed is read again while the gateway serves.

Peers and the log's level are taken up at once. What else was changed needs a start, and the trail and the log name the sections.
A file with anything wrong in it changes nothing: the configuration that was read last stays, and what is wrong is told.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from gateway import log
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.configuration.config import load
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.dicom.uids import digest
from gateway.errors import ConfigError
from gateway.machine.marks import marks
from gateway.roster import Roster
from gateway.serving.plan import plan

_AT_ONCE = {"peers", "log"}

_logger = structlog.get_logger()


class Reread:
    """Of one file, by one process, which works by `config` so far."""

    def __init__(
        self, file: Path | None, config: Config, *, roster: Roster, db: Database, clock: Callable[[], datetime], executor: str
    ) -> None:
        self._file, self._config, self._roster, self._db = file, config, roster, db
        self._clock, self._executor = clock, executor
        self._stamp = file and marks(file)

    def look(self) -> bool:
        """Whether the peers may be others now. Raises what the database raises, and then looks again."""
        stamp = self._file and marks(self._file)
        if self._file is None or stamp == self._stamp:
            return False
        try:
            config = load(self._file)
            plan(config, added=self._roster.names, with_rules=False)
        except ConfigError as error:
            self._tell(Act.CONFIG_REFUSED, self._config, outcome=audit.MINOR, reason="; ".join(error.problems))
            self._stamp = stamp
            return False
        before = self._config
        self._roster.adopt(config)
        if config.log != before.log:
            log.configure(config.log.level, config.log.format)
        changed, late = _changed(before, config), _late(before, config)
        self._tell(Act.CONFIG_READ, config, before=_digest(before), changed=changed, needs_start=late)
        self._config, self._stamp = config, stamp
        return True

    def _tell(self, act: Act, config: Config, *, outcome: int = 0, **detail: Any) -> None:
        late = detail.get("needs_start")
        reason = detail.get("reason") or (f"what was changed in {late} needs a start" if late else None)
        _logger.log(logging.WARNING if reason else logging.INFO, str(act), path=str(self._file), reason=reason)
        with self._db.begin() as session:
            audit.record(
                session, act, at=self._clock(), outcome=outcome, executor=self._executor, after=_digest(config), **detail
            )  # fmt: skip


def _changed(before: Config, after: Config) -> list[str]:
    return [name for name in Config.model_fields if getattr(before, name) != getattr(after, name)]


def _late(before: Config, after: Config) -> str:
    """The sections that count from the next start on."""
    return ", ".join(f"[{name}]" for name in _changed(before, after) if name not in _AT_ONCE)


def _digest(config: Config) -> str:
    """Without what may hold secrets: a short one could be guessed from it."""
    return digest(config.model_dump(mode="json", exclude={"peers", "notices", "web"}))
