"""The notary: signs the head of the audit trail every so often, so that whoever rewrites the trail later is found out."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from gateway.auditing.seal import heads_file, key_file, private_key, seal
from gateway.configuration.sections import Config
from gateway.db import Database
from gateway.filing import told


class Notary:
    """From `start` to `stop`; making it makes the key where there is none. Raises ConfigError for a key that cannot be used."""

    def __init__(self, db: Database, config: Config, *, clock: Callable[[], datetime]) -> None:
        self._db, self._clock, self._key, self._heads = db, clock, private_key(key_file(config)), heads_file(config)
        self._every = timedelta(seconds=config.audit.sign_seconds)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notary", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Signs what is there a last time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._sign(timedelta(0))

    def _run(self) -> None:
        while not self._stopping.wait(self._every.total_seconds()):
            self._sign(self._every)

    def _sign(self, every: timedelta) -> None:
        with told("audit.not_signed"):
            seal(self._clock(), db=self._db, key=self._key, heads=self._heads, every=every)
