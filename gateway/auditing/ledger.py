"""Ledger: what the trail tells, added up as counters and histograms, event by event as they are asked for.

It begins with the first question and counts on from there, of everything that the gateways on one database do. No UID and
nothing of a patient is a label; peers and pipelines are names of the configuration.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from gateway.auditing.audit import Act
from gateway.rows.tables import Delivery, Job, Series
from gateway.rows.trail import AuditEvent

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
_ENDED = (Act.JOB_DONE, Act.JOB_FAILED, Act.JOB_CANCELLED)
_DELIVERED = (Act.DELIVERY_SENT, Act.DELIVERY_PROVED, Act.DELIVERY_RETRIED, Act.DELIVERY_FAILED, Act.DELIVERY_LOST)
_STAGES = (
    ("wait", Job.created_at, Job.started_at),
    ("infer", Job.started_at, Job.inferred_at),
    ("encode", Job.inferred_at, Job.encoded_at),
    ("total", Job.created_at, Job.ended_at),
)
_AT_ONCE = 50_000


class Ledger:
    """Of one thread at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"gateway_{name}", words, labels, registry=registry)

        def histogram(name: str, words: str, *labels: str) -> Histogram:
            return Histogram(f"gateway_{name}_seconds", words, labels, registry=registry, buckets=_SECONDS)

        self._events = counter("events", "Events of the audit trail.", "act")
        for act in Act:  # told as 0 before the first one, or Prometheus sees no increase in that
            self._events.labels(act)
        self._jobs = counter("jobs_ended", "Jobs that came to an end.", "code", "pipeline", "state")
        self._deliveries = counter("delivery_attempts", "What became of attempts to deliver.", "peer", "state")
        self._settled = histogram("series_settle", "From the last instance of a series until it was complete.")
        self._stages = histogram("job", "How long a stage of jobs took that were done.", "pipeline", "stage")
        self._sent = histogram("delivery", "From the result to its stage at a peer.", "peer", "stage")
        self._position: int | None = None

    def read_on(self, session: Session) -> int:
        """Add up what is new; returns the end of the trail."""
        newest = session.scalar(select(func.max(AuditEvent.id))) or 0
        if self._position is None:
            self._position = newest
        while self._position < newest:
            last = min(newest, self._position + _AT_ONCE)
            self._add(session, (AuditEvent.id > self._position) & (AuditEvent.id <= last))
            self._position = last
        return newest

    def _add(self, session: Session, new: ColumnElement[bool]) -> None:
        """All that can fail is asked first, so that a database that goes away meanwhile makes nothing count twice."""
        counted = session.execute(select(AuditEvent.act, func.count()).where(new).group_by(AuditEvent.act)).all()
        acts = {act for act, _ in counted}
        jobs = self._ask_jobs(session, new) if acts & set(_ENDED) else ()
        deliveries = self._ask_deliveries(session, new) if acts & set(_DELIVERED) else ()
        series = self._ask_series(session, new) if Act.SERIES_COMPLETE in acts else ()
        for act, count in counted:
            self._events.labels(act).inc(count)
        for act, pipeline, code, *times in jobs:
            self._add_job(str(act), str(pipeline), str(code), times)
        for act, at, detail, created_at, sent_at in deliveries:
            peer, state = str(detail["peer"]), act.removeprefix("delivery.")
            self._deliveries.labels(peer, state).inc()
            began = {Act.DELIVERY_SENT: created_at, Act.DELIVERY_PROVED: sent_at}.get(act)
            if began is not None:
                self._sent.labels(peer, state).observe(_seconds(began, at))
        for at, last in series:
            self._settled.observe(_seconds(last, at))

    @staticmethod
    def _ask_jobs(session: Session, new: ColumnElement[bool]) -> Sequence[Any]:
        times = [column for _, *ends in _STAGES for column in ends]
        ended = select(AuditEvent.act, Job.pipeline, Job.code, *times).join(Job, Job.id == AuditEvent.job)
        return [tuple(row) for row in session.execute(ended.where(new, AuditEvent.act.in_(_ENDED)))]

    @staticmethod
    def _ask_deliveries(session: Session, new: ColumnElement[bool]) -> Sequence[Any]:
        columns = (AuditEvent.act, AuditEvent.at, AuditEvent.detail, Delivery.created_at, Delivery.sent_at, Delivery.peer)
        of_event = Delivery.sop_instance_uid == AuditEvent.sop_instance_uid
        rows = session.execute(select(*columns).join(Delivery, of_event).where(new, AuditEvent.act.in_(_DELIVERED)))
        return [tuple(row)[:-1] for row in rows if row.detail.get("peer") == row.peer]

    @staticmethod
    def _ask_series(session: Session, new: ColumnElement[bool]) -> Sequence[Any]:
        of_event = Series.series_instance_uid == AuditEvent.series_instance_uid
        ended = select(AuditEvent.at, Series.last_received_at).join(Series, of_event)
        return session.execute(ended.where(new, AuditEvent.act == Act.SERIES_COMPLETE)).all()

    def _add_job(self, act: str, pipeline: str, code: str, times: Sequence[datetime | None]) -> None:
        self._jobs.labels(code if act == Act.JOB_FAILED else "", pipeline, act.removeprefix("job.")).inc()
        if act != Act.JOB_DONE:
            return
        for (stage, *_), began, ended in zip(_STAGES, times[::2], times[1::2], strict=True):
            if began is not None and ended is not None:
                self._stages.labels(pipeline, stage).observe(_seconds(began, ended))


def _seconds(began: datetime, ended: datetime) -> float:
    """Clocks of two machines may differ by a little."""
    return max(0.0, (ended - began).total_seconds())
