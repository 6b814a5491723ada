"""The worklist: how urgent the order behind a series is (Modality Worklist, PS3.4 K.6), asked of the peers that keep one.

It only says how soon; a worklist that is away, or knows nothing, changes nothing. One that does not answer is left alone for a
minute, so that no series waits for it twice.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from gateway.errors import DeliveryError
from gateway.peers import Peer
from gateway.peers.dimse import Dimse

_PAUSE = timedelta(minutes=1)

_logger = structlog.get_logger()


class Worklist:
    """Of the peers with `worklist = true`."""

    def __init__(self, peers: Mapping[str, Peer], *, clock: Callable[[], datetime]) -> None:
        self._peers = {name: peer for name, peer in peers.items() if isinstance(peer, Dimse) and peer.worklist}
        self._clock = clock
        self._paused: dict[str, datetime] = {}

    def priorities(self, accession_number: str) -> set[str]:
        """RequestedProcedurePriority of the entries with this accession number; empty where nobody knows of one."""
        found: set[str] = set()
        for name, peer in self._peers.items() if accession_number.strip() else ():
            if self._clock() < self._paused.get(name, datetime.min.replace(tzinfo=self._clock().tzinfo)):
                continue
            try:
                found |= peer.requested_priorities(accession_number.strip())
            except DeliveryError as error:
                self._paused[name] = self._clock() + _PAUSE
                _logger.warning("worklist.away", peer=name, reason=str(error))
        return found
