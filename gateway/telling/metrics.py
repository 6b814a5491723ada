"""Metrics in the format of Prometheus: what rows and trail tell of all gateways on one database, and this process's own numbers.

    rows         what waits, runs, failed: series, jobs, deliveries, lanes; alarms; how far the trail was told
    trail        counters and histograms (ledger.py)
    process      its ingest processes' counts (tally.py), doors, filing, disk, models that are away, memory

Where the database is away the last ones are still told, and `gateway_database_up` is 0. No label holds a UID or a patient's data.
"""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

import gateway
from gateway.auditing.ledger import Ledger
from gateway.db import Database
from gateway.doors.tally import STATUSES, Tally
from gateway.engine import SETTLE, model_lane, peer_lane
from gateway.rows.tables import Association, Delivery, DeliveryState, Job, JobState, Series, SeriesState
from gateway.rows.trail import AuditSink, OpenAlarm

Families = Iterator[GaugeMetricFamily | CounterMetricFamily]
_JOBS = (JobState.QUEUED, JobState.RUNNING, JobState.FAILED)
_DELIVERIES = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.HELD, DeliveryState.FAILED)


class Doors(Protocol):
    """What is asked of the doorman."""

    @property
    def tally(self) -> Tally: ...
    @property
    def closed(self) -> str: ...
    @property
    def filed_at(self) -> datetime: ...
    @property
    def pids(self) -> Mapping[int, int]: ...


class Meter:
    """`doors()` is the doorman, or None where this process does not receive; `away()` are the models that do not answer."""

    def __init__(
        self,
        db: Database,
        *,
        store: Path,
        doors: Callable[[], Doors | None],
        away: Callable[[], Mapping[str, bool]],
        clock: Callable[[], datetime],
    ) -> None:
        self._db, self._store, self._doors, self._away, self._clock = db, store, doors, away, clock
        self._registry, self._lock = CollectorRegistry(), threading.Lock()
        self._ledger = Ledger(self._registry)
        self._position: int | None = None
        self._registry.register(self)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The document, and its media type by what the client accepts."""
        encode, media_type = choose_encoder(accept)
        with self._lock:
            self._position = self._read_on()  # first: what it adds up is among what is told
            return encode(self._registry), media_type

    def _read_on(self) -> int | None:
        """The trail's end; None where the database does not answer."""
        try:
            with self._db() as session:
                return self._ledger.read_on(session)
        except SQLAlchemyError:
            return None

    def describe(self) -> list[Any]:
        """Nothing is collected when this is registered: the database may have no tables yet."""
        return []

    def collect(self) -> Families:
        yield _gauge("info", "Which version runs.", {"version": gateway.__version__}, 1)
        yield from self._of_process()
        doors = self._doors()
        if doors is not None:
            yield from _of_doors(doors, self._clock())
        found: list[Any] = []
        with suppress(SQLAlchemyError):
            found = self._of_database()
        yield from found
        yield _gauge("database_up", "Whether the database answers.", {}, bool(found))

    def _of_database(self) -> list[Any]:
        with self._db() as session:
            return [] if self._position is None else [*self._of_rows(session, self._position)]

    def _of_process(self) -> Families:
        disk = shutil.disk_usage(self._store)
        yield _gauge("disk_free_bytes", "Free space on the store's disk.", {}, disk.free)
        yield _gauge("disk_bytes", "Size of the store's disk.", {}, disk.total)
        away = GaugeMetricFamily("gateway_model_away", "Whether a model does not answer this process.", labels=("model",))
        for model, is_away in self._away().items():
            away.add_metric((model,), is_away)
        yield away
        memory = GaugeMetricFamily("gateway_process_resident_bytes", "Resident memory.", labels=("process",))
        seconds = CounterMetricFamily("gateway_process_cpu_seconds", "Processor time.", labels=("process",))
        files = GaugeMetricFamily("gateway_process_open_files", "Open file descriptors.", labels=("process",))
        doors = self._doors()
        pids = {"gateway": os.getpid()}
        for number, pid in (doors.pids if doors is not None else {}).items():
            pids[f"ingest-{number}"] = pid
        for name, pid in pids.items():
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    memory.add_metric((name,), process.memory_info().rss)
                    seconds.add_metric((name,), sum(process.cpu_times()[:2]))
                    files.add_metric((name,), process.num_fds())
            except psutil.Error:  # it has just ended
                continue
        yield from (memory, seconds, files)

    def _of_rows(self, session: Session, position: int) -> Families:
        yield _gauge("audit_position", "The number of the trail's last event.", {}, position)
        told = GaugeMetricFamily("gateway_audit_told_position", "Up to which event it was told or signed.", labels=("to",))
        failing = GaugeMetricFamily("gateway_audit_told_failing", "Whether telling it fails now.", labels=("to",))
        for sink in session.scalars(select(AuditSink)):
            told.add_metric((sink.name,), sink.position)
            failing.add_metric((sink.name,), bool(sink.reason))
        alarms = GaugeMetricFamily("gateway_alarms", "Alarms that are on.", labels=("kind",))
        for kind, count in session.execute(select(OpenAlarm.kind, func.count()).group_by(OpenAlarm.kind)):
            alarms.add_metric((kind,), count)
        yield from (told, failing, alarms)
        yield from _of_work(session, self._clock())


def _of_doors(doors: Doors, now: datetime) -> Families:
    counts = doors.tally.totals()
    associations = CounterMetricFamily("gateway_associations", "Associations that asked to come in.", labels=("outcome",))
    associations.add_metric(("accepted",), counts["associations"])
    associations.add_metric(("rejected",), counts["rejected"])
    refused = CounterMetricFamily("gateway_instances_refused", "Instances refused, by status.", labels=("status",))
    for status in STATUSES:
        refused.add_metric((status,), counts[status])
    instances = CounterMetricFamily("gateway_instances", "Instances acknowledged, repeated ones too.")
    instances.add_metric((), counts["instances"])
    size = CounterMetricFamily("gateway_instance_bytes", "Bytes of those.")
    size.add_metric((), counts["bytes"])
    yield from (associations, refused, instances, size)
    yield _gauge("door_closed", "Whether senders are told to come again later.", {}, bool(doors.closed))
    behind = max(0.0, (now - doors.filed_at).total_seconds())
    yield _gauge("filing_behind_seconds", "How old the oldest thing may be that is acknowledged and not a row yet.", {}, behind)


def _of_work(session: Session, now: datetime) -> Families:
    """States that work waits in are few rows each; those that are an end are counted by the trail."""
    lanes: Counter[str] = Counter()
    series = GaugeMetricFamily("gateway_series", "Series by state.", labels=("state",))
    receiving = session.scalar(select(func.count()).where(Series.state == SeriesState.RECEIVING)) or 0
    series.add_metric((SeriesState.RECEIVING,), receiving)
    lanes[SETTLE] = receiving
    jobs = GaugeMetricFamily("gateway_jobs", "Jobs that wait, run or have failed.", labels=("pipeline", "state"))
    for (pipeline, state), count in _jobs(session, lanes).items():
        jobs.add_metric((pipeline, state), count)
    deliveries = GaugeMetricFamily("gateway_deliveries", "Deliveries that are not at their end.", labels=("peer", "state"))
    rows = select(Delivery.peer, Delivery.state, func.count()).where(Delivery.state.in_(_DELIVERIES))
    for peer, state, count in session.execute(rows.group_by(Delivery.peer, Delivery.state)):
        deliveries.add_metric((peer, state), count)
        lanes[peer_lane(peer)] += count if state in (DeliveryState.QUEUED, DeliveryState.SENDING) else 0
    depth = GaugeMetricFamily("gateway_lane_depth", "What waits or runs on a lane.", labels=("lane",))
    for lane, count in lanes.items():
        depth.add_metric((lane,), count)
    yield from (series, jobs, deliveries, depth)
    oldest = session.scalar(select(func.min(Job.created_at)).where(Job.state.in_(_JOBS[:2])))
    age = max(0.0, (now - oldest).total_seconds()) if oldest else 0
    yield _gauge("job_oldest_seconds", "Age of the oldest job that waits or runs.", {}, age)
    open_ = session.scalar(select(func.count()).where(Association.ended_at.is_(None))) or 0
    yield _gauge("associations_open", "Associations over which instances came and that have not ended.", {}, open_)


def _jobs(session: Session, lanes: Counter[str]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    kinds = (Job.pipeline, Job.state, Job.model, Job.priority)
    for pipeline, state, model, priority, count in session.execute(
        select(*kinds, func.count()).where(Job.state.in_(_JOBS)).group_by(*kinds)
    ):
        found[pipeline, state] += count
        lanes[model_lane(model, priority)] += count if state != JobState.FAILED else 0
    return found


def _gauge(name: str, words: str, labels: Mapping[str, str], value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"gateway_{name}", words, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family
