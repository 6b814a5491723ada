"""What many ask for at once is found out once: whoever asks within a moment gets what was found last."""

import threading
import time
from collections.abc import Callable
from typing import Any

_FRESH_SECONDS = 2.0


class Recent:
    """Safe to use from many threads; while one finds something out, the others wait for it."""

    def __init__(self, fresh_seconds: float = _FRESH_SECONDS) -> None:
        self._fresh, self._lock = fresh_seconds, threading.Lock()
        self._known: dict[str, tuple[float, Any]] = {}

    def get(self, name: str, find_out: Callable[[], Any]) -> Any:
        with self._lock:
            at, known = self._known.get(name, (float("-inf"), None))
            if time.monotonic() - at >= self._fresh:
                known = find_out()
                self._known[name] = time.monotonic(), known
            return known
