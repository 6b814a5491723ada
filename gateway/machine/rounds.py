"""Rounds: something looks again and again in a thread of its own, until it is stopped."""

import threading
from collections.abc import Callable
from typing import Self

import structlog

from gateway import log

_logger = structlog.get_logger()


class Rounds:
    """`look` says in how many seconds it looks next: `again`, where it says nothing or raises.

    What it raises ends nothing; the log tells it as `event`.
    """

    def __init__(
        self, name: str, look: Callable[[], float | None], *, again: float, event: str, first: float | None = None
    ) -> None:
        self._look, self._again, self._event = look, again, event
        self._first = again if first is None else first
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when a look that is under way has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        seconds: float | None = self._first
        while not self._stopped.wait(self._again if seconds is None else seconds):
            try:
                seconds = self._look()
            except Exception as error:  # noqa: BLE001 - a worker's loop: what nobody foresaw must not end it
                _logger.error(self._event, error=type(error).__name__, stack=log.stack_without_values(error))
                seconds = None
