"""The time line of a series, from its first image to the proof that its results arrived: what took how long, in words too."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.rows.searches import PriorSearch
from gateway.rows.tables import Delivery, DeliveryState, Job, JobState, SeriesState
from gateway.views.stories import SeriesStory

WIDTH = 1000
"""Of a drawing; a bar's `x` and `width` are in these units."""
_LEAST = 4


@dataclass(frozen=True)
class Bar:
    """A stretch of time. `kind` is receive, wait, work or send; `lasts` is its length in words; `is_open` while it goes on."""

    what: str
    kind: str
    begin: datetime
    end: datetime
    x: int
    width: int
    lasts: str
    is_open: bool


@dataclass(frozen=True)
class Lane:
    """What happened to one thing: the series, a job, a delivery. `fate` says how it ended, or what it waits for."""

    title: str
    bars: Sequence[Bar]
    fate: str
    tone: str
    """good, bad, busy or quiet"""


@dataclass(frozen=True)
class TimeLine:
    begin: datetime
    end: datetime
    lasts: str
    lanes: Sequence[Lane]
    is_over: bool
    """Nothing more is to come, unless a person does something."""


_Stretch = tuple[str, str, datetime | None, datetime | None]


def time_line(story: SeriesStory, now: datetime) -> TimeLine:
    series = story.series
    latest = story.jobs
    ends = [at for at in _moments(story) if at is not None]
    is_over = _is_over(story)
    begin, end = series.first_received_at, max([*ends, series.last_received_at] if is_over else [*ends, now])
    scale = _Scale(begin, max(end, begin + timedelta(milliseconds=1)), now)
    is_receiving = series.state == SeriesState.RECEIVING
    lanes = [
        scale.lane(
            "images",
            (
                ("images arrive", "receive", begin, series.last_received_at),
                ("is it complete?", "wait", series.last_received_at, series.complete_at if not is_receiving else None),
            ),
            series.reason or str(series.state), "busy" if is_receiving else "good" if series.complete_at else "quiet",
            ended=not is_receiving,
        )
    ]  # fmt: skip
    for one in latest:
        lanes.append(_job_lane(scale, one.job, one.search))
        lanes += [_delivery_lane(scale, results.outputs[0].modality, to) for results in one.results for to in results.deliveries]
    return TimeLine(begin, end, words(end - begin), lanes, is_over)


def words(span: timedelta) -> str:
    """A length of time as people say it."""
    seconds = max(span.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours < 1:
        return f"{minutes} min {int(seconds % 60)} s"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} {'day' if days == 1 else 'days'} {hours % 24} h"


@dataclass(frozen=True)
class _Scale:
    begin: datetime
    end: datetime
    now: datetime

    def lane(self, title: str, stretches: Sequence[_Stretch], fate: str, tone: str, *, ended: bool) -> Lane:
        """A stretch without an end goes on until now, unless all has `ended`; one without a beginning did not happen."""
        bars = []
        for what, kind, begin, end in stretches:
            if begin is None or (end is None and ended):
                continue
            bars.append(self._bar(what, kind, begin, max(begin, self.now if end is None else end), is_open=end is None))
            if end is None:
                break
        return Lane(title, bars, fate, tone)

    def _bar(self, what: str, kind: str, begin: datetime, end: datetime, *, is_open: bool) -> Bar:
        whole = self.end - self.begin
        x = min(max(round((begin - self.begin) / whole * WIDTH), 0), WIDTH - _LEAST)
        width = max(round((end - begin) / whole * WIDTH), _LEAST)
        return Bar(what, kind, begin, end, x, min(width, WIDTH - x), words(end - begin), is_open)


def _job_lane(scale: _Scale, job: Job, search: PriorSearch | None) -> Lane:
    tone = {JobState.DONE: "good", JobState.FAILED: "bad", JobState.CANCELLED: "quiet"}.get(JobState(job.state), "busy")
    fate = ": ".join(filter(None, (job.state, job.code, job.reason)))
    inferred, ended = job.inferred_at or job.ended_at, job.ended_at
    came = search.ended_at or ended if search else job.created_at
    stretches = (
        ("waits for priors", "wait", search.begun_at if search else None, came),
        ("waits for a model", "wait", came, job.started_at or ended),
        ("model works", "work", job.started_at, inferred),
        ("results are encoded", "work", job.inferred_at, job.encoded_at or ended),
    )
    return scale.lane(f"job {job.id}, {job.pipeline}", stretches, fate, tone, ended=tone != "busy")


def _delivery_lane(scale: _Scale, modality: str, alike: Sequence[Delivery]) -> Lane:
    """Of deliveries to one peer of which the same became: from when the first was made until the last was there."""
    delivery, count = alike[0], f"{len(alike)} " if len(alike) > 1 else ""
    tone = {
        DeliveryState.PROVED: "good", DeliveryState.FAILED: "bad", DeliveryState.HELD: "bad", DeliveryState.CANCELLED: "quiet",
        DeliveryState.UNWANTED: "quiet",
    }.get(DeliveryState(delivery.state), "busy")  # fmt: skip
    fate = f"proved by {delivery.proof}" if tone == "good" else ": ".join(filter(None, (delivery.state, delivery.reason)))
    stretches = (
        ("is sent", "send", delivery.created_at, _last(one.sent_at for one in alike)),
        ("is proved", "wait", _last(one.sent_at for one in alike), _last(one.proved_at for one in alike)),
    )
    return scale.lane(f"{count}{modality} to {delivery.peer}", stretches, fate, tone, ended=not _is_under_way(delivery))


def _last(moments: Iterable[datetime | None]) -> datetime | None:
    """None while one of them is to come."""
    known = list(moments)
    return None if None in known else max(one for one in known if one)


def _is_under_way(delivery: Delivery) -> bool:
    """Sent to a peer that proves nothing, it stays so for ever."""
    if delivery.state == DeliveryState.SENT:
        return bool(delivery.ticket)
    return delivery.state in {DeliveryState.QUEUED, DeliveryState.SENDING}


def _is_over(story: SeriesStory) -> bool:
    jobs = [one.job.state not in {JobState.QUEUED, JobState.RUNNING} for one in story.jobs]
    sent = [not _is_under_way(delivery) for one in story.jobs for delivery in one.deliveries]
    return story.series.state != SeriesState.RECEIVING and all(jobs) and all(sent)


def _moments(story: SeriesStory) -> Iterator[datetime | None]:
    yield story.series.complete_at
    for one in story.jobs:
        yield from (one.job.started_at, one.job.inferred_at, one.job.encoded_at, one.job.ended_at)
        for delivery in one.deliveries:
            yield from (delivery.sent_at, delivery.proved_at)
