"""How much one address or one person may ask of the console, in this process."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

_KEPT = 10_000


@dataclass
class _Bucket:
    left: float
    at: float


@dataclass
class Allowance:
    """`burst` at once, and `per_second` from then on, for each key; what is not known of a key is kept of the latest only."""

    burst: float
    per_second: float
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, key: str) -> float:
        """Take one; seconds until there is one where there is none, else 0."""
        with self._lock:
            moment = time.monotonic()
            bucket = self._buckets.pop(key, None) or _Bucket(self.burst, moment)
            bucket.left = min(self.burst, bucket.left + (moment - bucket.at) * self.per_second)
            bucket.at = moment
            self._buckets[key] = bucket
            while len(self._buckets) > _KEPT:
                self._buckets.popitem(last=False)
            if bucket.left < 1:
                return (1 - bucket.left) / self.per_second
            bucket.left -= 1
            return 0.0

    def give_back(self, key: str) -> None:
        with self._lock:
            if key in self._buckets:
                self._buckets[key].left = min(self.burst, self._buckets[key].left + 1)


@dataclass
class Limits:
    """Requests of an address, and its sign-ins that fail: those of an account are counted in the database (signin.py).

    A viewer asks by DICOMweb for every frame of a study, as fast as it gets them, and shows a hole where it is told to wait.
    """

    requests: Allowance = field(default_factory=lambda: Allowance(600, 100))
    dicomweb: Allowance = field(default_factory=lambda: Allowance(10_000, 1000))
    sign_ins: Allowance = field(default_factory=lambda: Allowance(20, 0.2))
