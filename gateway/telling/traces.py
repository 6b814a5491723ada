"""Traces: what happened to one revision of a series, stage by stage, in whichever processes, as one trace (OpenTelemetry).

    series                 from the first instance until it was complete
      receive              from the first instance to the last
      settle               the look that completed it
      run                  one attempt at a job
        infer, encode      of an attempt that came to its end
        deliver            one attempt to bring a result to a peer
          prove            one look for its proof

No context travels: the ids of trace and spans are made from what the rows say anyway, so every process makes the same. A stage
is told of when it is over, from its rows; what is told are keys that logs may hold (log.KEYS), nothing of a patient.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.db import Database
from gateway.engine import DELIVER, PROVE, RUN, SETTLE
from gateway.log import KEYS
from gateway.rows.tables import Delivery, DeliveryState, Instance, Job, JobState, Series, SeriesState

Act = Callable[[str], None]

_logger = structlog.get_logger()


@dataclass(frozen=True)
class Span:
    """`trace` is a number of 128 bits, `id` and `parent` are of 64; a span without parent has 0."""

    name: str
    trace: int
    id: int
    parent: int
    began: datetime
    ended: datetime
    attributes: Mapping[str, Any]
    failed: str = ""
    """Why, where it did."""

    def __post_init__(self) -> None:
        assert self.attributes.keys() <= KEYS, "expected keys that logs may hold"


class Exporter(Protocol):
    def export(self, span: Span) -> None:
        """Returns at once, whatever becomes of it."""
        ...

    def close(self) -> None: ...


class Traces:
    """Without an exporter the stages are as they were."""

    def __init__(self, db: Database, *, clock: Callable[[], datetime], exporter: Exporter | None = None) -> None:
        self._db, self._clock, self._exporter = db, clock, exporter

    def around(self, stage: str, act: Act) -> Act:
        """`act`, which does what it did, and then is told of."""
        exporter, spans = self._exporter, _STAGES.get(stage)
        if exporter is None or spans is None:
            return act

        def traced(key: str) -> None:
            began = self._clock()
            try:
                act(key)
            finally:
                self._tell(exporter, spans, key, began)

        return traced

    def close(self) -> None:
        if self._exporter is not None:
            self._exporter.close()

    def _tell(self, exporter: Exporter, spans: "_Spans", key: str, began: datetime) -> None:
        try:
            with self._db() as session:
                for span in spans(session, key, began, self._clock()):
                    exporter.export(span)
        except SQLAlchemyError as error:  # the stage has its own way with that; a trace may have a gap
            _logger.warning("trace.not_told", error=type(error).__name__)


_Spans = Callable[[Session, str, datetime, datetime], Iterator[Span]]


def trace_id(series_instance_uid: str, revision: int) -> int:
    return _number(16, "trace", series_instance_uid, revision)


def _span_id(trace: int, *names: object) -> int:
    return _number(8, trace, *names)


def _number(size: int, *names: object) -> int:
    """Never 0, which stands for none (W3C Trace Context)."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:size]) or 1


def _of_series(session: Session, key: str, began: datetime, ended: datetime) -> Iterator[Span]:
    """Of the look that completed it; earlier ones found only that it was too early."""
    series = session.get_one(Series, key)
    if series.state != SeriesState.COMPLETE or series.complete_at is None or series.complete_at < began:
        return
    trace = trace_id(key, series.revision)
    root = _span_id(trace, "series")
    count = session.scalar(select(func.count()).where(Instance.series_instance_uid == key))
    whole = {"series_instance_uid": key, "revision": series.revision, "instances": count}
    yield Span("series", trace, root, 0, series.first_received_at, series.complete_at, whole)
    received = (series.first_received_at, series.last_received_at)
    yield Span("receive", trace, _span_id(trace, "receive"), root, *received, {"instances": count})
    yield Span(SETTLE, trace, _span_id(trace, SETTLE), root, began, ended, {"reason": series.reason})


def _of_job(session: Session, key: str, began: datetime, ended: datetime) -> Iterator[Span]:
    job = session.get_one(Job, int(key))
    if job.started_at is None or job.started_at < began:  # somebody else's attempt
        return
    trace = trace_id(job.series_instance_uid, job.revision)
    mine = _span_id(trace, RUN, job.id, job.attempts)
    told = {"job": job.id, "pipeline": job.pipeline, "model": job.model, "attempt": job.attempts, "state": job.state}
    failed = "" if job.state == JobState.DONE else job.reason or job.state
    yield Span(RUN, trace, mine, _span_id(trace, "series"), began, ended, told | ({"code": job.code} if job.code else {}), failed)
    if job.state == JobState.DONE and job.inferred_at is not None and job.encoded_at is not None:
        for name, start, end in (("infer", job.started_at, job.inferred_at), ("encode", job.inferred_at, job.encoded_at)):
            yield Span(name, trace, _span_id(trace, name, job.id, job.attempts), mine, start, end, {"job": job.id})


def _of_delivery(session: Session, key: str, began: datetime, ended: datetime) -> Iterator[Span]:
    delivery = session.get_one(Delivery, int(key))
    job = session.get_one(Job, delivery.job)
    trace = trace_id(job.series_instance_uid, job.revision)
    mine = _span_id(trace, DELIVER, delivery.id, delivery.attempts)
    is_good = delivery.state in (DeliveryState.SENT, DeliveryState.PROVED, DeliveryState.UNWANTED)
    yield Span(
        DELIVER, trace, mine, _span_id(trace, RUN, job.id, job.attempts), began, ended, _told(delivery),
        "" if is_good else delivery.reason or delivery.state,
    )  # fmt: skip


def _of_proof(session: Session, key: str, began: datetime, ended: datetime) -> Iterator[Span]:
    delivery = session.get_one(Delivery, int(key))
    job = session.get_one(Job, delivery.job)
    trace = trace_id(job.series_instance_uid, job.revision)
    mine = _span_id(trace, PROVE, delivery.id, delivery.attempts, delivery.looks, began)
    sent = _span_id(trace, DELIVER, delivery.id, delivery.attempts)
    is_proved = delivery.state == DeliveryState.PROVED
    yield Span(PROVE, trace, mine, sent, began, ended, _told(delivery), "" if is_proved else delivery.reason or delivery.state)


def _told(delivery: Delivery) -> dict[str, Any]:
    told = {"delivery": delivery.id, "job": delivery.job, "peer": delivery.peer, "attempt": delivery.attempts}
    status = {"status": f"0x{delivery.status:04X}"} if delivery.status is not None else {}
    return told | {"state": delivery.state} | status


_STAGES: Mapping[str, _Spans] = {SETTLE: _of_series, RUN: _of_job, DELIVER: _of_delivery, PROVE: _of_proof}
