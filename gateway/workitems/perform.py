"""Perform: the gateway as the performer of workitems that name one of its pipelines (IHE AI Workflow for Imaging, PS3.4 CC).

A look at a workitem is one transaction. While it is scheduled, its inputs are waited for; then it is claimed and its job
ordered, both or neither. While it is in progress it tells how far job and deliveries are. It is COMPLETED when the job is done,
its objects are here, and each delivery has come to an end; peers are named as holding them where they have proved it. It is
CANCELED, with the reason, where that cannot be. Every look but the last one enqueues the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from gateway.acts.order import place
from gateway.crash import crash_point
from gateway.db import Database
from gateway.dicom import achieved, procedure
from gateway.dicom.achieved import Result
from gateway.dicom.procedure import Requested
from gateway.dicom.uids import secret_uid
from gateway.engine import PERFORM, Queues, backoff, ticket
from gateway.errors import ConfigError
from gateway.fetching import fetch
from gateway.peers import Peer
from gateway.pipeline import Pipeline
from gateway.rows.tables import Delivery, DeliveryState, Job, JobState, OutputInstance, Series, SeriesState
from gateway.rows.workitems import Workitem, WorkitemState
from gateway.store import Store
from gateway.work import delivery
from gateway.work.companions import is_undecided
from gateway.workitems import ups
from gateway.workitems.subscriptions import PROGRESSED, report

_FIRST, _AT_MOST = timedelta(seconds=2), timedelta(seconds=15)
_OF_ITS_AGE, _RARELY = 0.05, timedelta(minutes=10)
_EARLY = timedelta(seconds=1)
"""The engine's clock and ours need not be the same."""
_OPEN = (DeliveryState.QUEUED, DeliveryState.SENDING)
_ACTOR = "gateway"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where workitems are performed: `ae_title` and `url` (of the web port) are what others call us by."""

    db: Database
    store: Store
    queues: Queues
    pipelines: Mapping[str, Pipeline]
    peers: Mapping[str, Peer]
    ae_title: str
    url: str


def perform(uid: str, now: datetime, *, here: Place) -> None:
    """One look. A second one that comes before its time does nothing: the first has enqueued what comes next."""
    with here.db.begin() as session:
        row = ups.find(session, uid)
        if row.due_at is None or row.due_at > now + _EARLY:
            return
        row.looks += 1
        workitem = ups.read(here.store, row.document)
        if row.state == WorkitemState.SCHEDULED:
            goes_on = _begin(session, row, workitem, now, here)
        else:
            goes_on = _follow(session, row, workitem, now, here)
        row.due_at = now + backoff(row.looks, first=_FIRST, at_most=_at_most(row, now)) if goes_on else None
        if row.due_at is not None:
            row.ticket = ticket(row.looks, row.due_at)
            here.queues.enqueue(session, PERFORM, uid, attempt=row.ticket, lane=PERFORM, delay=row.due_at - now)
    crash_point("perform.committed")


def _at_most(row: Workitem, now: datetime) -> timedelta:
    """The longer its series does not come, the less often it is looked for."""
    waits = now - row.made_at if row.state == WorkitemState.SCHEDULED else timedelta(0)
    return max(_AT_MOST, min(waits * _OF_ITS_AGE, _RARELY))


def _begin(session: Session, row: Workitem, workitem: Dataset, now: datetime, here: Place) -> bool:
    """Whether there is more to look for."""
    requested = procedure.requested(workitem, here.pipelines, here.ae_title)
    if requested is None:  # another performer's
        return False
    try:
        series, send_to = _series(requested), _send_to(requested, here.peers)
        if not requested.is_ready or not _is_settled(session, series, requested.pipeline, here):
            _fetch(session, requested, series, now, here)
            return True
        ordered = place(
            session, here.queues, series, pipeline=requested.pipeline, pipelines=here.pipelines, send_to=send_to,
            peers=[*here.peers], priority=requested.priority, actor=row.person, now=now,
        )  # fmt: skip
    except ConfigError as error:
        row.is_ours = True
        ups.claim(session, row, workitem, secret_uid(), here.store, _ACTOR, now)
        return _give_up(session, row, workitem, "; ".join(error.problems), now, here)
    row.is_ours, row.job, row.made_job, row.looks = True, ordered.job, ordered.is_new, 1
    achieved.tell(workitem, f"job {ordered.job} is ordered", 0)
    achieved.perform(workitem, requested.pipeline, here.ae_title, now, ())
    ups.claim(session, row, workitem, secret_uid(), here.store, _ACTOR, now)
    return True


def _follow(session: Session, row: Workitem, workitem: Dataset, now: datetime, here: Place) -> bool:
    job = session.get_one(Job, row.job)
    if job.state in (JobState.FAILED, JobState.CANCELLED):
        return _give_up(session, row, workitem, f"job {job.id} is {job.state}: {job.reason}", now, here)
    if job.state != JobState.DONE:
        return _say(session, row, workitem, f"job {job.id} is {job.state}", now, here)
    objects = delivery.standing(session, job.id)
    if not objects or not all(here.store.path(one.sha256).is_file() for one in objects):
        return _give_up(session, row, workitem, f"job {job.id} is done, and its results are not here any more", now, here)
    mine = select(Delivery).where(
        Delivery.job == job.id, Delivery.sop_instance_uid.in_([one.sop_instance_uid for one in objects])
    )
    deliveries = session.scalars(mine.order_by(Delivery.id)).all()
    results = [_result(one, deliveries, here) for one in objects]
    achieved.perform(workitem, job.pipeline, here.ae_title, job.started_at or row.made_at, results)
    text = f"job {job.id} is done; {_told(deliveries)}"
    if any(map(_is_open, deliveries)):
        return _say(session, row, workitem, text, now, here)
    achieved.tell(workitem, text, 100)
    achieved.end(workitem, now)
    ups.end(session, row, workitem, WorkitemState.COMPLETED, here.store, _ACTOR, now)
    return False


def _say(session: Session, row: Workitem, workitem: Dataset, text: str, now: datetime, here: Place) -> bool:
    if achieved.told(workitem) != text:
        achieved.tell(workitem, text, 0)
        ups.keep(session, row, workitem, here.store, now)
        report(session, row, PROGRESSED, now)
        row.looks = 1
    return True


def _give_up(session: Session, row: Workitem, workitem: Dataset, reason: str, now: datetime, here: Place) -> bool:
    achieved.cancel(workitem, reason, now)
    ups.end(session, row, workitem, WorkitemState.CANCELED, here.store, _ACTOR, now)
    return False


def _series(requested: Requested) -> str:
    if len(requested.series) != 1:
        raise ConfigError([f"expected one series in the Input Information Sequence, there are {len(requested.series)}"])
    return requested.series[0]


def _send_to(requested: Requested, peers: Mapping[str, Peer]) -> list[str]:
    """Peers by their AE titles or names."""
    known = {title: name for name, title in _titles(peers)}
    if not set(requested.peers) <= set(known):
        raise ConfigError(["expected AE titles of peers of this gateway where its results are wanted"])
    return [known[one] for one in requested.peers]


def _fetch(session: Session, requested: Requested, series: str, now: datetime, here: Place) -> None:
    """What is not here, where one of its sources is a peer that series are taken from (by its AE title or name)."""
    if not requested.is_ready or not requested.study or session.get(Series, series) is not None:
        return
    taken_from = [name for name, peer in here.peers.items() if getattr(peer, "take", "nothing") != "nothing"]
    source = next((name for name, title in _titles(here.peers) if title in requested.sources and name in taken_from), None)
    if source is not None:
        fetch.want(session, source, fetch.Offered(requested.study, series, now), now)


def _titles(peers: Mapping[str, Peer]) -> list[tuple[str, str]]:
    """Peers with what others may call them."""
    return [(name, title) for name, peer in peers.items() for title in (name, getattr(peer, "ae_title", name))]


def _is_settled(session: Session, series_instance_uid: str, pipeline: str, here: Place) -> bool:
    """And its study is complete, where the pipeline gets others of it beside the series."""
    series = session.get(Series, series_instance_uid)
    waits = here.pipelines[pipeline].needs.companions and is_undecided(session, series_instance_uid, pipeline)
    return series is not None and series.state != SeriesState.RECEIVING and not waits


def _result(output: OutputInstance, deliveries: Sequence[Delivery], here: Place) -> Result:
    proved = [
        getattr(here.peers.get(one.peer), "ae_title", "")
        for one in deliveries
        if one.sop_instance_uid == output.sop_instance_uid and one.state == DeliveryState.PROVED
    ]
    where = f"{here.url}/dicom-web/studies/{output.study_instance_uid}/series/{output.series_instance_uid}"
    return Result(
        output.study_instance_uid, output.series_instance_uid, output.sop_class_uid, output.sop_instance_uid, where,
        tuple(filter(None, proved)),
    )  # fmt: skip


def _is_open(delivery: Delivery) -> bool:
    """A peer that proves nothing has no ticket once it took it."""
    return delivery.state in _OPEN or (delivery.state == DeliveryState.SENT and delivery.ticket != "")


def _told(deliveries: Sequence[Delivery]) -> str:
    if not deliveries:
        return "its results stay here"
    counts: dict[tuple[str, str], int] = {}
    for one in deliveries:
        counts[one.peer, one.state] = counts.get((one.peer, one.state), 0) + 1
    return ", ".join(f"{peer}: {count} {state}" for (peer, state), count in sorted(counts.items()))
