"""Watch: what comes to a peer that keeps a log of it (Orthanc) is taken from there, without anybody sending it.

The log is read on from where it was read last, whichever side was restarted; who pokes us only makes that sooner. Of the gateways
on one database one watches. What comes in is promised by a door of our own and filed like everything else.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, runtime_checkable

import structlog

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.dicom.uids import digest
from gateway.errors import ConfigError, DeliveryError, Unreachable
from gateway.fetching import fetch
from gateway.fetching.fetch import Offered
from gateway.fetching.take import Surroundings, Takes
from gateway.filing import told
from gateway.ingest.retrieve import Retrieved, retrieve
from gateway.rows.retrieval import Retrieval
from gateway.turn import Turn
from gateway.work import progress

_LOOK_SECONDS, _AWAY_SECONDS, _GRACE_SECONDS = 1.0, 5.0, 5.0
_PATIENCE = timedelta(minutes=5)

_logger = structlog.get_logger()


@runtime_checkable
class Watched(Protocol):
    """A peer whose series are taken where `take` is not "nothing": peers/orthanc.py says what each of these does."""

    take: str
    quiet_seconds: float
    connections: int
    at_once: bool

    def newest(self) -> int: ...
    def news(self, position: int) -> Any: ...
    def series(self, resource: str) -> Any: ...
    def listing(self, study_instance_uid: str, series_instance_uid: str) -> Mapping[str, str]: ...
    def retrieving(self, connections: int) -> AbstractContextManager[Any]: ...
    def write_state(self, study_instance_uid: str, series_instance_uid: str, state: str) -> None: ...


class Watch:
    """One peer's, from `start` to `stop`, in a thread of its own."""

    def __init__(self, name: str, peer: Watched, around: Surroundings) -> None:
        self._name, self.peer, self._around = name, peer, around
        self._takes = Takes("watch", around)
        self._was_asked = self._was_told = False
        self._away_since: datetime | None = None
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A series that is being retrieved is left, and gone on with after the next start; who hangs is not waited for."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_GRACE_SECONDS)

    def poke(self) -> None:
        """There may be something new."""
        self._wake.set()

    @property
    def associations(self) -> set[str]:
        return self._takes.associations

    def _run(self) -> None:
        turn = Turn(self._around.db, f"watch-{digest(self._name)[:16]}")
        while not self._stopping.is_set():
            seconds = _AWAY_SECONDS
            with told("watch.failed"):
                seconds = self._look(turn)
            self._wake.wait(seconds)
            self._wake.clear()
        turn.give_back()

    def _look(self, turn: Turn) -> float:
        """One round; returns the seconds to the next."""
        if not turn.is_mine():
            return _AWAY_SECONDS
        try:
            self._read_on()
            self._get_due()
            self._pass_orders_on()
            self._tell_states()
        except DeliveryError as error:
            self._note_away(str(error))
            return _AWAY_SECONDS
        self._note_back()
        return _LOOK_SECONDS

    def _note_away(self, reason: str) -> None:
        """People are told when it lasts: nothing comes from there, and who sends to it does not notice."""
        now, self._was_asked = self._around.clock(), False
        if self._away_since is None:
            self._away_since = now
            _logger.warning("watch.away", peer=self._name, reason=reason)
        if not self._was_told and now - self._away_since >= _PATIENCE:
            with self._around.db.begin() as session:
                audit.record(session, Act.SOURCE_AWAY, at=now, outcome=audit.SERIOUS, peer=self._name, reason=reason)
            self._was_told = True

    def _note_back(self) -> None:
        if self._away_since is None:
            return
        _logger.info("watch.back", peer=self._name)
        if self._was_told:
            with self._around.db.begin() as session:
                audit.record(session, Act.SOURCE_BACK, at=self._around.clock(), peer=self._name)
        self._away_since, self._was_told = None, False

    def _read_on(self) -> None:
        """The peer's log to its end. The first time ever it begins with what comes from now on."""
        peer, db, clock = self.peer, self._around.db, self._around.clock
        reached = fetch.position(self._name, db=db)
        if not self._was_asked:
            newest = peer.newest()
            if reached is None:
                reached = newest
                fetch.move_on(self._name, reached, (), clock(), db=db)
            elif newest < reached:
                reached = self._begin_anew()
            self._was_asked = True
        assert reached is not None
        is_more = True
        while is_more and not self._stopping.is_set():
            news = peer.news(reached)
            if news.position < reached:  # it was put there between two looks
                reached = self._begin_anew()
                continue
            now = clock()
            if news.series or news.position != reached:
                fetch.move_on(self._name, news.position, self._wanted(news.series, now), now, db=db)
            reached, is_more = news.position, news.more

    def _begin_anew(self) -> int:
        """It is another log: nothing in it was read."""
        _logger.warning("watch.log_is_new", peer=self._name)
        fetch.move_on(self._name, 0, (), self._around.clock(), db=self._around.db)
        return 0

    def _wanted(self, series: Mapping[str, bool], now: datetime) -> list[Offered]:
        later = now + timedelta(seconds=self.peer.quiet_seconds)
        found = ((self.peer.series(resource), is_stable) for resource, is_stable in series.items())
        return [
            Offered(one.study_instance_uid, one.series_instance_uid, now if is_stable else later)
            for one, is_stable in found
            if one is not None
        ]

    def _get_due(self) -> None:
        """What is due; one that fails is put off, and one that does not answer ends the round."""
        db, clock = self._around.db, self._around.clock
        for row in fetch.due(self._name, clock(), db=db):
            if self._stopping.is_set():
                return
            try:
                self._get(row)
            except DeliveryError as error:
                after = error.after if isinstance(error, Unreachable) else None
                fetch.failed(row, str(error), clock(), after=after, db=db)
                if isinstance(error, Unreachable):
                    raise

    def _pass_orders_on(self) -> None:
        """Results go to the peer that the series came from."""
        for row in fetch.ordered(self._name, db=self._around.db):
            problems: list[str] = []
            for one in row.orders:
                try:
                    self._around.order(
                        row.series_instance_uid, pipeline=one["pipeline"], send_to=[row.peer], actor=one["by"],
                        now=self._around.clock(),
                    )  # fmt: skip
                except ConfigError as error:
                    problems += error.problems
            if reason := "; ".join(problems):
                uid = row.series_instance_uid
                _logger.warning("order.refused", peer=self._name, series_instance_uid=uid, reason=reason)
            fetch.fulfilled(row, reason, db=self._around.db)

    def _tell_states(self) -> None:
        for row, state in progress.states(self._name, db=self._around.db):
            self.peer.write_state(row.study_instance_uid, row.series_instance_uid, state)
            progress.note(row, state, db=self._around.db)

    def _get(self, row: Retrieval) -> None:
        """Raises DeliveryError where the peer does not give it."""
        db, clock, began = self._around.db, self._around.clock, time.monotonic()
        listing = self.peer.listing(row.study_instance_uid, row.series_instance_uid)
        absent = partial(fetch.missing, row.series_instance_uid, listing, db=db, again=bool(row.orders))
        missing, is_new = absent()
        found = Retrieved()
        if missing:
            fetch.announce(row, len(listing), clock(), db=db)
            found = self._retrieve(row, listing, missing, at_once=is_new and self.peer.at_once)
            missing, _ = absent()
        left = [uid for uid in missing if uid not in found.refused]
        if not left:
            fetch.done(row, len(listing) - len(missing), len(missing), clock(), db=db, queues=self._around.queues)
            _logger.info(
                "series.retrieved", peer=self._name, series_instance_uid=row.series_instance_uid, instances=len(listing),
                seconds=round(time.monotonic() - began, 3),
            )  # fmt: skip
        elif isinstance(found.error, DeliveryError):
            raise found.error
        else:
            reason = str(found.error or "expected every instance that the peer lists")
            fetch.failed(row, reason, clock(), db=db)

    def _retrieve(self, row: Retrieval, listing: Mapping[str, str], wanted: Sequence[str], *, at_once: bool) -> Retrieved:
        """Raises what filing raises: then it is later."""
        study, series, peer = row.study_instance_uid, row.series_instance_uid, self.peer
        with peer.retrieving(peer.connections) as retrieving:
            return self._takes.take(
                lambda door: retrieve(
                    wanted, lambda uid: retrieving(study, series, listing.get(uid, "")), door=door, peer=self._name,
                    terms=self._around.terms, connections=peer.connections, at_once=at_once, is_stopping=self._stopping.is_set,
                )
            )  # fmt: skip


class Watches:
    """Those of all peers that are watched; `peers()` are the ones that something may come from now."""

    def __init__(self, peers: Callable[[], Mapping[str, object]], around: Surroundings) -> None:
        self._peers, self._around = peers, around
        self._watches: Mapping[str, Watch] = {}

    def follow(self) -> None:
        """Watch those that are new or changed, and no longer those that are gone."""
        wanted = {name: peer for name, peer in self._peers().items() if isinstance(peer, Watched) and peer.take != "nothing"}
        kept = {name: watch for name, watch in self._watches.items() if watch.peer == wanted.get(name)}
        for name, watch in self._watches.items():
            if name not in kept:
                watch.stop()
        new = {name: Watch(name, peer, self._around) for name, peer in wanted.items() if name not in kept}
        self._watches = {**kept, **new}
        for watch in new.values():
            watch.start()

    def stop(self) -> None:
        for watch in self._watches.values():
            watch.stop()

    def poke(self) -> None:
        for watch in self._watches.values():
            watch.poke()

    @property
    def names(self) -> set[str]:
        """Of the peers."""
        return set(self._watches)

    @property
    def associations(self) -> set[str]:
        return set().union(*(watch.associations for watch in self._watches.values()))
