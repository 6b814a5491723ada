"""Who a cookie belongs to, remembered for pages that look for news: it costs no question to the database while nothing happens.

Every change of a person, a role or a sign-in is told in the audit trail, so it is forgotten when such a change was told there
(live.Pulse.people), and after half a minute in any case.
"""

import time
from collections import OrderedDict

from gateway.access.signin import Person

_SECONDS, _KEPT = 30.0, 1000


class Faces:
    """For the event loop's thread alone."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, float, Person]] = OrderedDict()

    def find(self, secret: str, version: int) -> Person | None:
        seen_at, until, person = self._known.get(secret, (-1, 0.0, None))
        return person if seen_at == version and time.monotonic() < until else None

    def keep(self, secret: str, version: int, person: Person | None) -> None:
        self._known.pop(secret, None)
        if person is not None:
            self._known[secret] = version, time.monotonic() + _SECONDS, person
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
