"""A bell: who waits for work with a thread that also looks by itself every so often is woken by it, held back, or ended."""

import threading
from collections.abc import Callable


class Bell:
    """Stands for the threading.Event that ends a thread, where that thread waits on it between two looks."""

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self._rung, self._ended, self._ready = threading.Event(), False, ready

    def ring(self) -> None:
        self._rung.set()

    def end(self) -> None:
        self._ended = True
        self._rung.set()

    def is_set(self) -> bool:
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is rung or the time is up, and longer while it is not ready; whether that was to end."""
        while True:
            self._rung.wait(timeout)
            self._rung.clear()
            if self._ended or self._ready():
                return self._ended
