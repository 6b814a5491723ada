"""The notary: signs the head of the audit trail every so often, so that whoever rewrites the trail later is found out."""

from collections.abc import Callable
from datetime import datetime, timedelta

from gateway.auditing.seal import heads_file, key_file, private_key, seal
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.filing import told
from gateway.machine.rounds import Rounds

_NOT_SIGNED = "audit.not_signed"


class Notary:
    """From `start` to `stop`; making it makes the key where there is none. Raises ConfigError for a key that cannot be used."""

    def __init__(self, db: Database, config: Config, *, clock: Callable[[], datetime]) -> None:
        self._db, self._clock, self._key, self._heads = db, clock, private_key(key_file(config)), heads_file(config)
        every = timedelta(seconds=config.audit.sign_seconds)
        self._rounds = Rounds("notary", lambda: self._sign(every), again=every.total_seconds(), event=_NOT_SIGNED)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """Signs what is there a last time."""
        self._rounds.stop()
        with told(_NOT_SIGNED):
            self._sign(timedelta(0))

    def _sign(self, every: timedelta) -> None:
        seal(self._clock(), db=self._db, key=self._key, heads=self._heads, every=every)
