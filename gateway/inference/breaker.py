"""Breaker: while a model does not answer, one look at it now and then stands for every job that waits for it.

The first job that finds its model away says so in its row and comes back by itself. From then on this process takes no more work
for that model (the lanes ask `answers`): its jobs stay in their queue as they are, in their order. A thread looks until the model
answers again, and then all go on. Nothing of this is kept: a process that starts anew finds out by a job of its own.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from gateway import log
from gateway.errors import ModelUnavailable
from gateway.machine.bell import Bell
from gateway.pipeline import Arrays, Infer
from gateway.run import Identity

_FIRST_SECONDS, _AT_MOST_SECONDS = 1.0, 30.0
_SHARE = 3
"""A look that takes long (Triton is started for it, or hangs) is followed by so many times as long without one."""

_logger = structlog.get_logger()


class Asked(Protocol):
    """What the breaker wants of models.py."""

    def infer(self, model: str) -> Infer: ...
    def identity(self, model: str) -> Identity: ...
    def answers(self, model: str) -> bool: ...


class Breaker:
    """`infer` and `identity` of `models`, for jobs; looks after those that are away from `start` to `stop`."""

    def __init__(self, models: Asked, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._models, self._clock = models, clock
        self._look_at: dict[str, float] = {}
        """When to look at those that are away."""
        self._failures: dict[str, int] = {}
        """How often each went away without a right answer in between."""
        self._lock, self._bell = threading.Lock(), Bell()
        self._thread = threading.Thread(target=self._look_out, name="breaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """At once; a look that is under way ends with its models."""
        self._bell.end()

    def answers(self, model: str) -> bool:
        return model not in self._look_at

    def away(self, models: Iterable[str]) -> dict[str, bool]:
        """Of each, whether it is away."""
        return {model: not self.answers(model) for model in models}

    def infer(self, model: str) -> Infer:
        with self._watching(model):
            ask = self._models.infer(model)

        def watched(arrays: Arrays) -> Arrays:
            with self._watching(model):
                answer = ask(arrays)
            self._failures.pop(model, None)
            return answer

        return watched

    def identity(self, model: str) -> Identity:
        with self._watching(model):
            return self._models.identity(model)

    def look(self) -> float | None:
        """Ask those that are due; returns the seconds until the next are, None where none is away."""
        for model, at in self._away():
            began = self._clock()
            if at > began:
                break
            answers, took = self._asks(model), self._clock() - began
            with self._lock:
                if answers:
                    del self._look_at[model]
                else:
                    self._look_at[model] = began + took + min(max(_SHARE * took, _FIRST_SECONDS), _AT_MOST_SECONDS)
            if answers:
                _logger.warning("model.available", model=model)
        return next((max(0.0, at - self._clock()) for _, at in self._away()), None)

    def _asks(self, model: str) -> bool:
        try:
            return self._models.answers(model)
        except Exception as error:  # noqa: BLE001 - boundary: if looking ended, jobs would wait for ever
            _logger.error("model.not_looked_at", model=model, error=type(error).__name__, stack=log.stack_without_values(error))
            return False

    def _away(self) -> list[tuple[str, float]]:
        """Those that are, the next to look at first."""
        with self._lock:
            return sorted(self._look_at.items(), key=lambda one: one[1])

    @contextmanager
    def _watching(self, model: str) -> Iterator[None]:
        try:
            yield
        except ModelUnavailable as error:
            self._went_away(model, str(error))
            raise

    def _went_away(self, model: str, reason: str) -> None:
        """One that answers when it is looked at, but not when it is to work, is let alone for longer each time."""
        with self._lock:
            if model in self._look_at or self._bell.is_set():
                return
            failures = self._failures[model] = self._failures.get(model, 0) + 1
            seconds = min(_FIRST_SECONDS * 2 ** min(failures - 1, 30), _AT_MOST_SECONDS)
            self._look_at[model] = self._clock() + seconds
        _logger.warning("model.unavailable", model=model, reason=reason)
        self._bell.ring()

    def _look_out(self) -> None:
        seconds: float | None = None
        while not self._bell.wait(seconds):
            seconds = self.look()
