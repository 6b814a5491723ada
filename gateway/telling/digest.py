"""A digest: what has happened since the last notice, however much it is; all of it is counted, the latest is told in full."""

from collections import Counter, deque
from dataclasses import dataclass, field

from gateway.telling.happening import Happening

SHOWN = 20


@dataclass
class Digest:
    """Its size does not grow with what it holds: two hundred failures, or those of a week without a mail server."""

    latest: deque[Happening] = field(default_factory=lambda: deque(maxlen=SHOWN))
    counts: Counter[str] = field(default_factory=Counter)
    first: Happening | None = None

    def add(self, one: Happening) -> None:
        self.first = self.first or one
        self.latest.append(one)
        self.counts[one.kind] += 1

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def last(self) -> Happening:
        return self.latest[-1]
