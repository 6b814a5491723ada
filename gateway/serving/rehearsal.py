"""Rehearsal: a synthetic study goes the whole way now and then; a way that is blocked is found out before a patient needs it.

A phantom CT, marked as such and under no patient's ID, comes in through our own door by C-STORE; its pipeline runs; its results
go to a folder of our own, or to a test peer, and nowhere else. When they are proved everything of it is taken away again: our
files, and what a test peer has, by rejection notes. Where that does not come to be in time, or somebody says no, people are told.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import structlog
from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.acts.retract import retract
from gateway.configuration.sections import SYNTHETIC, Config
from gateway.db import Database
from gateway.engine import Queues
from gateway.errors import DeliveryError
from gateway.imaging.phantom import chest_ct
from gateway.machine.rounds import Rounds
from gateway.peers import Peer, Proof, own_listener, send_many
from gateway.rows.tables import Delivery, DeliveryState, Job, JobState, Series, SeriesState
from gateway.rows.trail import Rehearsed
from gateway.serving.stages import equipment
from gateway.store import Store
from gateway.telling.alarms import Alarm, compare
from gateway.telling.happening import Kind
from gateway.turn import Turn
from gateway.work.retention import take

_LOOK_SECONDS = 5.0
_SLICES, _ROWS = 64, 128
_INTERRUPTED = "the gateway was stopped before it was sent"
_WHY = "it was synthetic"

_logger = structlog.get_logger()


class Rehearsal:
    """While it is entered, where [synthetic] asks for it; `port` is that of our listener. Of the processes one does it."""

    def __init__(
        self,
        db: Database,
        queues: Queues,
        config: Config,
        *,
        peers: Mapping[str, Peer],
        port: int,
        store: Store,
        clock: Callable[[], datetime],
    ) -> None:
        self._db, self._queues, self._config, self._port, self._store = db, queues, config, port, store
        self._settings, self._clock = config.synthetic, clock
        own = [Path(table["path"]) for table in config.peers if table.get("name") == SYNTHETIC]
        self._peers, self._folder = peers, own[0] if own else None
        self._turn, self._sent = Turn(db, "synthetic"), set[str]()
        self._rounds = Rounds("synthetic", self.look, again=_LOOK_SECONDS, event="synthetic.interrupted")

    def __enter__(self) -> Self:
        if self._settings.every_minutes:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._rounds.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rounds.stop()
        self._turn.give_back()

    def look(self) -> None:
        """Go on with the one under way, take away what is over, begin the next when it is due."""
        if not self._turn.is_mine():
            return
        now = self._clock()
        with self._db() as session:
            last = session.scalars(select(Rehearsed).order_by(Rehearsed.begun_at.desc()).limit(1)).first()
            over = session.scalars(select(Rehearsed).where(Rehearsed.ended_at.is_not(None), Rehearsed.removed_at.is_(None))).all()
        if last is not None and last.ended_at is None:
            self._watch(last, now)
            return
        for one in (row for row in over if not row.reason):
            self._take_away(one, now)
        if last is None or now >= last.begun_at + timedelta(minutes=self._settings.every_minutes):
            self._begin(now)

    def _begin(self, now: datetime) -> None:
        """The row first: settle knows the study by it."""
        series = list(_synthetic(now))
        uid, study = str(series[0].SeriesInstanceUID), str(series[0].StudyInstanceUID)
        with self._db.begin() as session:
            session.add(Rehearsed(series_instance_uid=uid, study_instance_uid=study, begun_at=now, reason=""))
        self._sent.add(uid)
        peer = own_listener(self._config, self._settings.calling_ae_title, self._port)
        failed = next(_failures(peer, series), None)
        if failed is not None:
            self._end(uid, self._clock(), f"our own door does not take it: {failed}")

    def _watch(self, row: Rehearsed, now: datetime) -> None:
        uid = row.series_instance_uid
        with self._db() as session:
            reason = _state_of(session, uid, self._unproving())
            is_there = session.get(Series, uid) is not None
        if reason == "" or reason.startswith("a "):
            self._end(uid, now, reason)
        elif not is_there and uid not in self._sent:
            self._end(uid, now, _INTERRUPTED, is_alarming=False)
        elif now - row.begun_at > timedelta(minutes=self._settings.within_minutes):
            self._end(uid, now, f"{reason}, {self._settings.within_minutes:g} minutes after it was sent")

    def _end(self, uid: str, now: datetime, reason: str, *, is_alarming: bool = True) -> None:
        if reason:
            _logger.warning("synthetic.failed", reason=reason)
        with self._db.begin() as session:
            row = session.get_one(Rehearsed, uid)
            row.ended_at, row.reason = now, reason
            alarms = [Alarm(Kind.SYNTHETIC_FAILED, "", row.begun_at, f"the synthetic study did not come through: {reason}")]
            if is_alarming:
                compare(session, alarms if reason else [], now, kinds=(Kind.SYNTHETIC_FAILED,))

    def _take_away(self, row: Rehearsed, now: datetime) -> None:
        """Safe to repeat, until the row says that it was done."""
        uid = row.series_instance_uid
        if self._settings.peer:
            with self._db() as session:
                jobs = session.scalars(select(Job.id).where(Job.series_instance_uid == uid)).all()
            for job in jobs:
                retract(
                    self._db, self._queues, job=job, reason="quality", actor="gateway", now=now, equipment=equipment(),
                    store=self._store,
                )  # fmt: skip
        if self._folder is not None:
            shutil.rmtree(self._folder / row.study_instance_uid, ignore_errors=True)
        take(uid, now, why=_WHY, unproving=self._unproving(), store=self._store, db=self._db)
        with self._db.begin() as session:
            session.get_one(Rehearsed, uid).removed_at = now

    def _unproving(self) -> Collection[str]:
        return [name for name, peer in self._peers.items() if peer.proof is Proof.NONE]


def _state_of(session: Session, uid: str, unproving: Collection[str]) -> str:
    """Empty when all is proved; "a ..." when it never will be; else what it waits for."""
    series = session.get(Series, uid)
    if series is None or series.state != SeriesState.COMPLETE:
        return "it has not been settled"
    jobs = session.scalars(select(Job).where(Job.series_instance_uid == uid)).all()
    deliveries = session.scalars(select(Delivery).where(Delivery.job.in_([job.id for job in jobs]))).all()
    bad_jobs = [job.state for job in jobs if job.state in (JobState.FAILED, JobState.CANCELLED)] or ["missing"] * (not jobs)
    ends = (DeliveryState.FAILED, DeliveryState.HELD, DeliveryState.CANCELLED)
    bad = next((one.state for one in deliveries if one.state in ends), None)
    if bad_jobs:
        return f"a job is {bad_jobs[0]}"
    if bad is not None:
        return f"a delivery is {bad}"
    if any(job.state != JobState.DONE for job in jobs):
        return "its job is not done"
    there = [
        one.state == DeliveryState.PROVED or (one.state == DeliveryState.SENT and one.peer in unproving)
        for one in deliveries
        if one.state != DeliveryState.UNWANTED
    ]
    return "" if there and all(there) else "its results are not proved"


def _synthetic(now: datetime) -> Iterator[Dataset]:
    """Whoever sees it anywhere must see what it is."""
    for dataset in chest_ct(slices=_SLICES, rows=_ROWS, columns=_ROWS, now=now):
        dataset.PatientName, dataset.PatientID = "SYNTHETIC^NO PATIENT", "SYNTHETIC"
        dataset.StudyDescription = dataset.SeriesDescription = "SYNTHETIC, NO PATIENT"
        dataset.QualityControlImage = "YES"  # a phantom (PS3.3 C.7.6.1)
        yield dataset


def _failures(peer: Peer, series: list[Dataset]) -> Iterator[DeliveryError]:
    with tempfile.TemporaryDirectory(prefix="gateway-synthetic-") as place:
        paths = []
        for number, dataset in enumerate(series):
            paths.append(Path(place, f"{number}.dcm"))
            dataset.save_as(paths[-1], enforce_file_format=True)
        for _, outcome in send_many(peer, paths):
            if isinstance(outcome, DeliveryError):
                yield outcome
