"""A bell: who waits for work with a thread that also looks by itself every so often is woken by it, or ended."""

import threading


class Bell:
    """Stands for the threading.Event that ends a thread, where that thread waits on it between two looks."""

    def __init__(self) -> None:
        self._rung, self._ended = threading.Event(), False

    def ring(self) -> None:
        self._rung.set()

    def end(self) -> None:
        self._ended = True
        self._rung.set()

    def is_set(self) -> bool:
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is rung; whether that was to end."""
        self._rung.wait(timeout)
        self._rung.clear()
        return self._ended
