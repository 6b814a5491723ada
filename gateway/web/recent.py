"""What many ask for at once is found out once: whoever asks within a moment gets what was found last."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_FRESH_SECONDS = 2.0


@dataclass
class _Found:
    what: Any = None
    at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Recent:
    """Safe to use from many threads; while one finds something out, others who want the same wait for it, and nobody else."""

    def __init__(self, fresh_seconds: float = _FRESH_SECONDS) -> None:
        self._fresh, self._lock = fresh_seconds, threading.Lock()
        self._found: dict[str, _Found] = {}

    def get(self, name: str, find_out: Callable[[], Any]) -> Any:
        with self._lock:
            self._found = {known: one for known, one in self._found.items() if one.lock.locked() or self._is_fresh(one)}
            mine = self._found.setdefault(name, _Found())
        with mine.lock:
            if not self._is_fresh(mine):
                mine.what = find_out()
                mine.at = time.monotonic()
            return mine.what

    def _is_fresh(self, one: _Found) -> bool:
        return time.monotonic() - one.at < self._fresh
