"""Tally: what ingest processes have done, counted in memory that they share with the gateway; no I/O.

A process writes its own numbers only. One that takes the place of a dead one counts on where that ended, so that no number ever
goes back.
"""

import threading
from array import array
from collections.abc import Mapping, MutableSequence

_STATUSES = (0xA700, 0xA900, 0x0117, 0x0122, 0x0213, 0xC000)
OTHER = "other"
NAMES = (
    "associations", "rejected", "instances", "bytes", *(f"0x{status:04X}" for status in _STATUSES), OTHER,
)  # fmt: skip
STATUSES = NAMES[4:]
"""Of refusals: those that have a number of their own, and all others together."""
_PLACES = {name: place for place, name in enumerate(NAMES)}


class Tally:
    """Of one process among `processes`; threads share it. `shared`: `size` signed 64-bit numbers, zero at first."""

    def __init__(self, shared: MutableSequence[int] | None = None, *, process: int = 0, processes: int = 1) -> None:
        self._numbers = array("q", bytes(8 * self.size(processes))) if shared is None else shared
        self._first, self._processes, self._lock = process * len(NAMES), processes, threading.Lock()

    @staticmethod
    def size(processes: int) -> int:
        return processes * len(NAMES)

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._numbers[self._first + _PLACES[name]] += count

    def refused(self, status: int) -> None:
        name = f"0x{status:04X}"
        self.add(name if name in _PLACES else OTHER)

    def totals(self) -> Mapping[str, int]:
        """Of all processes together."""
        return {
            name: sum(self._numbers[process * len(NAMES) + place] for process in range(self._processes))
            for name, place in _PLACES.items()
        }
