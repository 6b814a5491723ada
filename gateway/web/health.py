"""Whether this process can do its work: asked by whoever watches it, so an answer comes at once, and a look never hangs twice."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

import structlog

from gateway.db import Database, takes_writes
from gateway.errors import GatewayError
from gateway.inference.models import Models
from gateway.serving.doorman import Doorman
from gateway.store import Store

_WAIT_SECONDS = 0.8
_logger = structlog.get_logger()


class Health:
    """`looks` by name; one of them that fails, or does not come to its end in time, is all that is needed not to be ready."""

    def __init__(self, looks: Mapping[str, Callable[[], bool]]) -> None:
        self._looks, self._lock = dict(looks), threading.Lock()
        self._threads = ThreadPoolExecutor(max(1, len(self._looks)), "health")
        self._under_way: dict[str, Future[bool]] = {}
        self._missing: frozenset[str] = frozenset()

    def missing(self) -> frozenset[str]:
        """The names of what is not ready; changes are logged."""
        with self._lock:
            for name, look in self._looks.items():
                if name not in self._under_way:
                    self._under_way[name] = self._threads.submit(_safely, look)
            found = frozenset(name for name in self._looks if not self._came(name))
            if found != self._missing:
                _logger.warning("web.ready" if not found else "web.not_ready", reason=", ".join(sorted(found)))
                self._missing = found
            return found

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _came(self, name: str) -> bool:
        try:
            answer = self._under_way[name].result(_WAIT_SECONDS)
        except Late:
            return False
        del self._under_way[name]
        return answer


def looks(db: Database, store: Store, models: Models | None, doorman: Doorman | None) -> dict[str, Callable[[], bool]]:
    """`models` of a process that works, `doorman` of one that receives."""
    found: dict[str, Callable[[], bool]] = {"database": lambda: takes_writes(db.kw["bind"]), "store": store.is_writable}
    if models is not None:
        found["triton"] = lambda: bool(models.ready())
    if doorman is not None:
        found["doors"] = lambda: doorman.is_open
    return found


def _safely(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except GatewayError:
        return False
    except Exception as error:  # noqa: BLE001 - boundary: what a driver raises while its server is away is the answer
        _logger.debug("web.look_failed", error=type(error).__name__)
        return False
