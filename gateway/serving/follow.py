"""Follow: what a person changed while the gateway serves is seen a second later, in every process of it."""

import threading
from collections.abc import Callable
from typing import Self

import structlog

from gateway import log
from gateway.attempt import AWAY

_SECONDS = 1.0

_logger = structlog.get_logger()


class Follower:
    """Has `look` look every second, while it is entered."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look, self._stopped = look, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopped.wait(_SECONDS):
            try:
                self._look()
            except AWAY:  # it is seen when the database is back; others tell that it is away
                continue
            except Exception as error:  # noqa: BLE001 - boundary: if this ended, no change would be seen any more
                _logger.error("follow.interrupted", error=type(error).__name__, stack=log.stack_without_values(error))
