"""Archives: the peers that are asked for what they have of a patient, and how a series of theirs comes in."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import structlog

from gateway.dicom.instance import Origin
from gateway.doors.door import Door
from gateway.errors import Unreachable
from gateway.fetching import fetch
from gateway.fetching.take import Surroundings, Takes
from gateway.ingest.move import MOVE
from gateway.ingest.retrieve import PRIOR, retrieve
from gateway.rows.searches import Prior
from gateway.views.stories import here
from gateway.work.lent import was_moved

_PAUSE, _CONNECTIONS = timedelta(minutes=1), 4
_UNFILED, _LOOK_SECONDS = timedelta(seconds=10), 0.2
"""How long what was promised, by whichever door, may take to be filed after what came before it."""
_NOT_ALL = "not every instance of it came"
_SENT = "it came under another AE title than the peer's, or names no Move Originator: it may start jobs of its own"

T = TypeVar("T")

_logger = structlog.get_logger()


class Archive(Protocol):
    """A peer that says what it has of a patient, by keyword; series come over HTTP (`retrieving`), or as `fetch` says."""

    def studies_of(self, patient_id: str) -> Sequence[Mapping[str, str]]: ...
    def series_of(self, study_instance_uid: str) -> Sequence[Mapping[str, str]]: ...


class Archives:
    """The sources among `peers()`; what they give comes in as `around()` says, which is asked when it is needed first."""

    def __init__(self, peers: Callable[[], Mapping[str, object]], around: Callable[[], Surroundings]) -> None:
        self._peers, self._look_around = peers, around
        self._paused: dict[str, tuple[datetime, str]] = {}

    @cached_property
    def _around(self) -> Surroundings:
        return self._look_around()

    @cached_property
    def _takes(self) -> Takes:
        return Takes("priors", self._around)

    @property
    def associations(self) -> set[str]:
        return self._takes.associations

    def ask(self, name: str, act: Callable[[Archive], T]) -> T:
        """What the peer answers. Raises Unreachable or Rejected; one that was away a moment ago is not asked."""
        peer, now = self._peer(name), self._around.clock()
        until, reason = self._paused.get(name, (now, ""))
        if now < until:
            raise Unreachable(reason)
        try:
            return act(peer)
        except Unreachable as error:
            self._paused[name] = self._around.clock() + _PAUSE, str(error)
            _logger.warning("source.away", peer=name, reason=str(error))
            raise

    def fetch(self, prior: Prior, until: datetime) -> None:
        """The instances that are not here. Raises Unreachable or Rejected."""
        peer = self._peer(prior.peer)
        if getattr(peer, "fetch", "") == MOVE:
            self._move(prior, peer, until)
        elif hasattr(peer, "get"):
            self._get(prior, peer, until)
        else:
            self._retrieve(prior, peer, until)

    def _peer(self, name: str) -> Any:
        peer = self._peers().get(name)
        if not hasattr(peer, "studies_of"):
            raise Unreachable("expected a peer that answers queries: dimse, dicomweb or orthanc, and not disabled")
        return peer

    def _retrieve(self, prior: Prior, peer: Any, until: datetime) -> None:
        study, series, around = prior.study_instance_uid, prior.series_instance_uid, self._around
        listing = peer.listing(study, series)
        missing, is_new = fetch.missing(series, listing, db=around.db, again=True)
        if not missing:
            return
        with peer.retrieving(_CONNECTIONS) as retrieving:
            found = self._takes.take(
                lambda door: retrieve(
                    missing, lambda uid: retrieving(study, series, listing.get(uid, "")), door=door, peer=prior.peer,
                    terms=around.terms, connections=_CONNECTIONS, at_once=is_new and getattr(peer, "at_once", True), ingest=PRIOR,
                    is_stopping=lambda: around.clock() > until,
                )
            )  # fmt: skip
        if around.clock() > until:
            raise Unreachable("its deadline came before all of it")
        if found.error is not None or fetch.missing(series, listing, db=around.db, again=True)[0]:
            raise Unreachable(str(found.error or _NOT_ALL))

    def _get(self, prior: Prior, peer: Any, until: datetime) -> None:
        """All of it or none: C-GET knows no part of a series that is here already."""
        study, series = prior.study_instance_uid, prior.series_instance_uid
        count = peer.instances_of(study, series)
        if count is not None and count <= len(here(self._around.db, series)):
            return
        origin, most = Origin(PRIOR, str(uuid4()), address=prior.peer), self._around.terms.maximum_instance_bytes

        def get(door: Door) -> int:
            opened, refuse = partial(door.open, origin=origin, maximum_bytes=most), partial(door.refuse, origin)
            try:
                syntaxes, over = self._around.terms.transfer_syntaxes, lambda: self._around.clock() > until
                return int(peer.get(study, series, prior.modality, syntaxes, opened, refuse, over))
            finally:
                door.end(origin)

        failures = self._takes.take(get)
        if failures or (count is not None and len(here(self._around.db, series)) < count):
            raise Unreachable(_NOT_ALL)

    def _move(self, prior: Prior, peer: Any, until: datetime) -> None:
        """To our doors, of whichever machine: rows tell what has come, and that of the prior, there before, that we asked."""
        study, series, clock = prior.study_instance_uid, prior.series_instance_uid, self._around.clock

        def arrived() -> int:
            return len(here(self._around.db, series))

        count, came = peer.instances_of(study, series), arrived()
        if count is not None and count <= came:
            return
        sent = peer.move(study, series, arrived, lambda: clock() > until)
        expected, last = count or sent or 1, clock()
        while (now := arrived()) < expected:
            if now != came:
                came, last = now, clock()
            if clock() > min(until, last + _UNFILED):
                raise Unreachable(
                    f"it says that it has sent it, and {now} of {expected} instances came: expected it to have host and port of"
                    f" our listener for our AE title {peer.calling_ae_title}"
                )
            time.sleep(_LOOK_SECONDS)
        with self._around.db() as session:
            if not was_moved(session, series, peer.ae_title.strip()):
                _logger.warning("prior.counts_as_sent", peer=prior.peer, series_instance_uid=series, reason=_SENT)


def title_of(peers: Mapping[str, object], name: str) -> str:
    """The AE title of a peer that sends to our doors what we ask it for; empty where it does not."""
    peer = peers.get(name)
    return str(getattr(peer, "ae_title", "")).strip() if getattr(peer, "fetch", "") == MOVE else ""
