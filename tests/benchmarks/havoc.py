"""Havoc: SIGKILLs of gateway processes and restarts of PostgreSQL, at random moments all along a run."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self

from tests.benchmarks.cluster import Cluster
from tests.benchmarks.keeper import Kept

_LOOK_SECONDS = 0.05
_AT_ONCE = 0.25


class Havoc:
    """`progress()` is how far the run has come, 0 to 1: so the blows are spread over it however long it takes."""

    def __init__(
        self,
        progress: Callable[[], float],
        kept: Sequence[Kept],
        cluster: Cluster,
        *,
        kills: int,
        restarts: int,
        chance: random.Random,
    ) -> None:
        self._progress, self._kept, self._cluster, self._chance = progress, kept, cluster, chance
        blows: list[Callable[[int], None]] = [*(kills * [self._kill]), *(restarts * [self._restart])]
        self._plan = sorted(((chance.uniform(0.02, 0.97), blow) for blow in blows), key=lambda one: one[0])
        self.kills: dict[str, int] = {}
        self.restarts: list[str] = []
        self.moments: list[tuple[float, str]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._wreak, name="havoc", daemon=True)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _wreak(self) -> None:
        counts: Counter[Callable[[int], None]] = Counter()
        for at, blow in self._plan:
            while self._progress() < at:
                if self._stopping.wait(_LOOK_SECONDS):
                    return
            self._stopping.wait(self._chance.uniform(0, _AT_ONCE))  # progress moves with commits: not always just after one
            blow(counts[blow])
            counts[blow] += 1

    def _kill(self, number: int) -> None:
        """Receivers and workers in turn; one of those that serve, or else of all: it may be hit while it starts."""
        roles = sorted({one.role for one in self._kept})
        among = [one for one in self._kept if one.role == roles[number % len(roles)]]
        chosen = self._chance.choice([one for one in among if one.is_up] or among)
        chosen.kill()
        name = chosen.role or "gateway"
        self.kills[name] = self.kills.get(name, 0) + 1
        self.moments.append((time.time(), f"SIGKILL {chosen.world.folder.name}"))

    def _restart(self, number: int) -> None:
        mode = ("immediate", "fast")[number % 2]
        self.moments.append((time.time(), f"PostgreSQL {mode}"))
        self._cluster.restart(mode)
        self.restarts.append(mode)
