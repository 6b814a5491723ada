"""Sources: how many instances of a series the system has that it came from (PS3.4 C.3.4, PS3.18 10.6), as [completeness] says.

A source that is away, or does not say, changes nothing. One that does not answer is left alone for a minute, so that no series
waits for it twice.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

import structlog

from gateway.errors import DeliveryError
from gateway.peers import Peer

_PAUSE = timedelta(minutes=1)

_logger = structlog.get_logger()


@runtime_checkable
class Counts(Protocol):
    """A peer that can be asked; None: it does not say. Raises Unreachable or Rejected."""

    def instances_of(self, study_instance_uid: str, series_instance_uid: str) -> int | None: ...


class Sources:
    def __init__(self, peers: Mapping[str, Peer], *, clock: Callable[[], datetime]) -> None:
        self._peers, self._clock = peers, clock
        self._paused: dict[str, datetime] = {}

    def count(self, name: str, study_instance_uid: str, series_instance_uid: str) -> int | None:
        """None also where the peer is away, or its protocol has no queries."""
        peer, now = self._peers.get(name), self._clock()
        if not isinstance(peer, Counts) or (name in self._paused and now < self._paused[name]):
            return None
        try:
            return peer.instances_of(study_instance_uid, series_instance_uid)
        except DeliveryError as error:
            self._paused[name] = self._clock() + _PAUSE
            _logger.warning("source.away", peer=name, reason=str(error))
            return None
