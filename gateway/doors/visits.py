"""How much callers may: connections, associations and bytes, counted; threads and ingest processes share it. No I/O, no clock."""

import threading
from array import array
from collections import Counter
from collections.abc import Callable, MutableSequence
from math import inf
from typing import Self

from gateway.doors.policy import ANYONE, Caller, Policy, Rejection
from gateway.machine.crowd import crowded

_CONGESTED, _OVER_LIMIT = (2, 3, 1), (2, 3, 2)
DISPLACED = "expected an association before more connections came"
_MEGABYTE, _MINUTE, _BURST_SECONDS = 1_000_000, 60.0, 1.0


class Limits:
    """What is counted, of one ingest process among `processes`; threads share it.

    Connections (of an address, half open) are counted by each process for itself: those limits guard its threads and
    descriptors. Associations and rates are counted by all of them together where `shared` is memory that they share: `size`
    signed 64-bit numbers, zero at first, such as memoryview(mmap).cast("q"). A process writes its own counts only, so one that
    died leaves none behind once its successor of the same number has begun. Processes take no lock of each other: two that
    begin in the same instant may both be let in at the last place.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        maximum_associations: int,
        maximum_per_address: int,
        maximum_half_open: int,
        process: int = 0,
        processes: int = 1,
        shared: MutableSequence[int] | None = None,
    ) -> None:
        self.draining = ""
        """Why no association is taken for now; empty: they are."""
        self._names = {caller.name: 1 + number for number, caller in enumerate(policy.callers or (ANYONE,))}
        self._process, self._processes, self._width = process, processes, 2 + processes
        self._maximum, self._maximum_per_address, self._maximum_half_open = (
            maximum_associations, maximum_per_address, maximum_half_open,
        )  # fmt: skip
        # A row for all associations and one for each caller: when its next association and its next byte are due
        # (nanoseconds), then its associations in each process.
        self._table = array("q", bytes(8 * self.size(policy, processes))) if shared is None else shared
        self._lock = threading.Lock()
        self._addresses: Counter[str] = Counter()
        self._half_open: dict[Visit, None] = {}  # oldest first
        for row in range(1 + len(self._names)):
            self._table[self._own(row)] = 0

    @staticmethod
    def size(policy: Policy, processes: int) -> int:
        """How many numbers the processes share."""
        return (1 + len(policy.callers or (ANYONE,))) * (2 + processes)

    def enter(self, address: str, make_room: Callable[[], None] = lambda: None) -> "Visit | Rejection":
        """A connection was accepted. A rejection here comes before any PDU: the connection is closed.

        Where too many are half open, the oldest of the address that has most of them is called to `make_room`, and never begins.
        """
        visit, oldest = Visit(self, address, make_room), None
        with self._lock:
            if self._addresses[address] >= self._maximum_per_address:
                return Rejection(*_OVER_LIMIT, "expected fewer connections of this address")
            self._addresses[address] += 1
            self._half_open[visit] = None
            if len(self._half_open) > self._maximum_half_open:
                half_open = list(self._half_open)
                oldest = half_open[crowded([one.address for one in half_open])]
                oldest.is_displaced = True
                del self._half_open[oldest]
        if oldest is not None:
            oldest.make_room()
        return visit

    def begin(self, visit: "Visit", caller: Caller, now: float) -> Rejection | None:
        """Called by Visit.begin."""
        with self._lock:
            if visit.is_displaced:
                return Rejection(*_OVER_LIMIT, DISPLACED)
            if self.draining:
                return Rejection(*_CONGESTED, self.draining)
            if self._open(0) >= self._maximum:
                return Rejection(*_OVER_LIMIT, "expected fewer associations")
            rejection = self._let_in(caller, now)
            if rejection is None:
                del self._half_open[visit]
                self._table[self._own(0)] += 1
        return rejection

    def begin_request(self, caller: Caller, now: float) -> Rejection | None:
        """A request over HTTP is an association of its caller until `end_request`, and counts for nothing else here."""
        with self._lock:
            return self._let_in(caller, now)

    def end_request(self, caller: Caller) -> None:
        """Of one that was not rejected, once."""
        with self._lock:
            self._table[self._own(self._names[caller.name])] -= 1

    def pause(self, caller: Caller, received_bytes: int, now: float) -> float:
        """As Visit.pause, which calls it."""
        if caller.megabytes_per_second is None:
            return 0.0
        row = self._names[caller.name]
        with self._lock:
            self._advance(row, 1, received_bytes / (caller.megabytes_per_second * _MEGABYTE), now)
            return max(0.0, self._ahead(row, 1, now) - _BURST_SECONDS)

    def leave(self, visit: "Visit") -> None:
        """Called by Visit.leave."""
        with self._lock:
            self._addresses[visit.address] -= 1
            if not self._addresses[visit.address]:
                del self._addresses[visit.address]
            if visit.caller is None:
                self._half_open.pop(visit, None)
                return
            for counted in (0, self._names[visit.caller.name]):
                self._table[self._own(counted)] -= 1

    def _let_in(self, caller: Caller, now: float) -> Rejection | None:
        """One more association, where the caller's own limits allow it."""
        row, most = self._names[caller.name], caller.maximum_associations
        if self._open(row) >= (inf if most is None else most):
            return Rejection(*_OVER_LIMIT, f"expected fewer associations of caller {caller.name}")
        if caller.associations_per_minute is not None:
            spacing = _MINUTE / caller.associations_per_minute
            if self._ahead(row, 0, now) + spacing > _MINUTE * (1 + 1e-9):
                return Rejection(*_OVER_LIMIT, f"expected fewer associations a minute of caller {caller.name}")
            self._advance(row, 0, spacing, now)
        self._table[self._own(row)] += 1
        return None

    def _own(self, row: int) -> int:
        return row * self._width + 2 + self._process

    def _open(self, row: int) -> int:
        start = row * self._width + 2
        return sum(self._table[place] for place in range(start, start + self._processes))

    def _ahead(self, row: int, rate: int, now: float) -> float:
        """Seconds by which what was let in is ahead of its rate (a token bucket, kept as the time at which it is full)."""
        return max(0.0, self._table[row * self._width + rate] / 1e9 - now)

    def _advance(self, row: int, rate: int, seconds: float, now: float) -> None:
        self._table[row * self._width + rate] = round((now + self._ahead(row, rate, now) + seconds) * 1e9)


class Visit:
    """One connection, from its accept to its close. As a context manager it gives back whatever it was counted for."""

    def __init__(self, limits: Limits, address: str, make_room: Callable[[], None]) -> None:
        self._limits, self._gone = limits, False
        self.address, self.make_room = address, make_room
        self.caller: Caller | None = None
        self.is_displaced = False
        """It has made room for another before it associated."""

    def begin(self, caller: Caller, now: float) -> Rejection | None:
        """Count the association of an admitted caller, once; rejected, the connection goes on counting as half open."""
        rejection = self._limits.begin(self, caller, now)
        if rejection is None:
            self.caller = caller
        return rejection

    def pause(self, received_bytes: int, now: float) -> float:
        """Seconds to wait before reading on, so that the caller's megabytes (10^6 bytes) a second hold over all it sends."""
        return 0.0 if self.caller is None else self._limits.pause(self.caller, received_bytes, now)

    def leave(self) -> None:
        """The connection was closed; a second time does nothing."""
        if not self._gone:
            self._gone = True
            self._limits.leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
