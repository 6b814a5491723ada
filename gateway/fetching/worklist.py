"""The worklist: how urgent the order behind a series is (Modality Worklist, PS3.4 K.6), asked of the peers that keep one.

It only says how soon; a worklist that is away, or knows nothing, changes nothing. One that does not answer is left alone for a
minute, so that no series waits for it twice.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from gateway.errors import DeliveryError
from gateway.peers import Peer
from gateway.peers.dimse import Dimse

_PAUSE = timedelta(minutes=1)
_ORDER = re.compile(r"[\x20-\x29\x2B-\x3E\x40-\x5B\x5D-\x7E]{1,16}")
"""SH in the default repertoire (PS3.5 6.2), without what would match other orders too (PS3.4 C.2.2.2.4)."""

_logger = structlog.get_logger()


class Worklist:
    """Of those of `peers()` with `worklist = true`."""

    def __init__(self, peers: Callable[[], Mapping[str, Peer]], *, clock: Callable[[], datetime]) -> None:
        self._peers, self._clock = peers, clock
        self._paused: dict[str, datetime] = {}

    def priorities(self, accession_number: str) -> set[str]:
        """RequestedProcedurePriority of the entries with this accession number; empty where nobody knows of one."""
        number, now, found = accession_number.strip(), self._clock(), set[str]()
        asked = self._peers() if _ORDER.fullmatch(number) else {}
        for name, peer in asked.items():
            if not (isinstance(peer, Dimse) and peer.worklist) or (name in self._paused and now < self._paused[name]):
                continue
            try:
                found |= peer.requested_priorities(number)
            except DeliveryError as error:
                self._paused[name] = self._clock() + _PAUSE
                _logger.warning("worklist.away", peer=name, reason=str(error))
        return found
