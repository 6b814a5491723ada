"""Scanners: each sends study after study by C-STORE, and sends again what nobody acknowledged, as long as it takes.
Whose association broke comes back in any case, with its last image.

Between two images it waits a little, as one that reconstructs them does: so there is always somebody in the middle of a study.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from gateway.errors import DeliveryError
from gateway.peers._association import associate
from gateway.peers._part10 import read_part10
from tests.benchmarks.mixture import Sample

_PAUSE_SECONDS = 0.2
_TIMEOUT_SECONDS = 60.0


class Scanners:
    """`count` of them share the studies. `ports` are those of the receivers, of which a scanner takes another after a break.

    `may_go_on()` holds them back before a study while there is too much on its way.
    """

    def __init__(
        self, samples: Sequence[Sample], ports: Sequence[int], count: int, may_go_on: Callable[[], bool], *, pause: float = 0
    ) -> None:
        self._left, self._ports, self._may_go_on, self._pause = iter(samples), ports, may_go_on, pause
        self.acknowledged: dict[Path, float] = {}
        """When each was, monotonic."""
        self.studies: list[Sample] = []
        """Those of which everything is acknowledged."""
        self.sent = 0
        """C-STORE requests, with those that nobody acknowledged."""
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._scan, args=(n,), name=f"scanner {n}", daemon=True) for n in range(count)]

    @property
    def ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _scan(self, number: int) -> None:
        ports = itertools.cycle([*self._ports[number % len(self._ports) :], *self._ports[: number % len(self._ports)]])
        while (sample := self._next()) is not None:
            while not self._may_go_on() and not self._stopping.wait(_PAUSE_SECONDS):
                pass
            self._send(sample, ports, f"SCANNER{number}")

    def _next(self) -> Sample | None:
        with self._lock:
            return None if self._stopping.is_set() else next(self._left, None)

    def _send(self, sample: Sample, ports: Iterator[int], calling: str) -> None:
        left, port = list(sample.instances), next(ports)
        while left and not self._stopping.is_set():
            taken, is_released = self._store(left, port, calling)
            with self._lock:
                self.acknowledged = dict.fromkeys(taken, time.monotonic()) | self.acknowledged
            left = [path for path in left if path not in taken]
            if not left and not is_released:
                left = taken[-1:]
            if left:
                port = next(ports)
                self._stopping.wait(_PAUSE_SECONDS)
        if not left:
            with self._lock:
                self.studies.append(sample)

    def _store(self, paths: Sequence[Path], port: int, calling: str) -> tuple[list[Path], bool]:
        """Over one association; those that were acknowledged, and whether the other side agreed to its end."""
        instances, taken = [read_part10(path) for path in paths], []
        contexts = dict.fromkeys((instance.sop_class_uid, instance.transfer_syntax_uid) for instance in instances)
        with (
            suppress(DeliveryError),
            associate(
                ("127.0.0.1", port), contexts, called="AIGATEWAY", calling=calling, timeout=_TIMEOUT_SECONDS
            ) as association,
        ):
            for instance in instances:
                with self._lock:
                    self.sent += 1
                if association.store(instance) == 0x0000:
                    taken.append(instance.path)
                self._stopping.wait(self._pause)
        return taken, bool(taken) and association.is_released
