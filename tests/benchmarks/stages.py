"""How long each stage took, from the rows; and how often something was tried again."""

import statistics
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select

from gateway.db import Database
from gateway.rows.tables import Delivery, Job, Series

Seconds = dict[str, list[float]]


def stages(db: Database) -> Seconds:
    """Seconds by stage, one for each series, job or delivery that came through it."""
    with db() as session:
        series = {one.series_instance_uid: one for one in session.scalars(select(Series).where(Series.complete_at.is_not(None)))}
        jobs = {job.id: job for job in session.scalars(select(Job).where(Job.ended_at.is_not(None)))}
        deliveries = session.scalars(select(Delivery).where(Delivery.proved_at.is_not(None))).all()
    last = {job: max(one.proved_at for one in deliveries if one.job == job) for job in {one.job for one in deliveries}}
    return {
        "last image -> complete": [_seconds(one.last_received_at, one.complete_at) for one in series.values()],
        "complete -> job started": [
            _seconds(series[job.series_instance_uid].complete_at, job.started_at) for job in jobs.values()
        ],
        "job": [_seconds(job.started_at, job.ended_at) for job in jobs.values()],
        "job ended -> sent": [_seconds(jobs[one.job].ended_at, one.sent_at) for one in deliveries],
        "sent -> proved": [_seconds(one.sent_at, one.proved_at) for one in deliveries],
        "last image -> all of it proved": [
            _seconds(series[jobs[job].series_instance_uid].last_received_at, at) for job, at in last.items()
        ],
    }


def span(db: Database) -> float:
    """Seconds from the first series that was complete to the last proof."""
    with db() as session:
        first, last = session.scalar(select(func.min(Series.complete_at))), session.scalar(select(func.max(Delivery.proved_at)))
    return _seconds(first, last)


def retries(db: Database) -> dict[str, int]:
    """Beyond the first of each: attempts of jobs and of deliveries, looks for a proof; and series that grew once complete."""
    with db() as session:
        found = {
            "jobs tried again": session.scalar(select(func.sum(Job.attempts - 1))),
            "deliveries tried again": session.scalar(select(func.sum(Delivery.attempts - 1))),
            "looks for a proof that found nothing yet": session.scalar(select(func.sum(Delivery.looks))),
            "series complete too early": session.scalar(select(func.count()).where(Series.revision > 1)),
        }
    return {what: int(number or 0) for what, number in found.items()}


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p95."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]


def _seconds(begin: datetime | None, end: datetime | None) -> float:
    return (end - begin).total_seconds() if begin and end else 0.0
