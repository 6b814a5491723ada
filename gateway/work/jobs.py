"""The jobs of a series: one for every pipeline that a matching rule names.

Two rules that name the same pipeline share one job, whose results go to the peers of both. The same instances never make the
job of a pipeline twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import changed, insert_once, lock
from gateway.decisions.rules import PRIORITIES, Outcome, Rule
from gateway.dicom.uids import digest
from gateway.engine import PRIORS, RUN, Queues, model_lane, rank, ticket
from gateway.pipeline import Pipeline, Priors
from gateway.rows.searches import PriorSearch
from gateway.rows.tables import Instance, Job, JobInstance, JobState, Series
from gateway.rows.workitems import Workitem
from gateway.work import delivery, shadow
from gateway.work.revisions import superseded_by

BEHIND = "background"
"""What nobody waits for goes last."""
Urgency = Callable[[str], tuple[str, str]]
"""From the priority of the rules to the priority of the job, and what decided it."""


@dataclass(frozen=True)
class Order:
    """What rules want of a pipeline. `partial`: what the series lacks. `beside`: in the shadow of which other, "" of none.

    `of_study`: once, for the best series of the study; what runs in the shadow runs for every one.
    """

    pipeline: str
    rules: Sequence[str]
    send_to: Sequence[str]
    priority: str
    priority_by: str
    partial: str = ""
    beside: str | None = None
    of_study: bool = False

    @property
    def columns(self) -> dict[str, object]:
        """Of the row of a candidate."""
        return {name: value for name, value in vars(self).items() if name not in {"beside", "of_study"}}


def orders(
    outcomes: Sequence[Outcome],
    series_instance_uid: str,
    urgency: Urgency,
    pipelines: Mapping[str, Pipeline],
    *,
    partial: str = "",
) -> list[Order]:
    """One for every pipeline that a matching rule names."""
    matched = [outcome.rule for outcome in outcomes if outcome.matched]
    found = []
    for name, chosen, beside in _wanted(matched, series_instance_uid):
        priority, decided_by = (BEHIND, "shadow") if beside is not None else urgency(_first_priority(chosen))
        send_to = list(dict.fromkeys(peer for rule in chosen for peer in rule.send_to))
        is_one = pipelines[name].needs.one_of_study or all(rule.level == "study" for rule in chosen)
        found.append(
            Order(
                name, [rule.name for rule in chosen], send_to, priority, decided_by, partial,
                beside=beside, of_study=is_one and beside is None,
            )
        )  # fmt: skip
    return found


def make(
    session: Session,
    series: Series,
    instances: Sequence[Instance],
    order: Order,
    pipeline: Pipeline,
    now: datetime,
    queues: Queues,
) -> None:
    """The job of an order, once for these instances; where it is there already, its results go to the order's peers as well."""
    earlier = _supersede(session, series, order.pipeline, now)
    key = input_key(order.pipeline, pipeline, instances)
    made = insert_once(
        session, Job, input_key=key, series_instance_uid=series.series_instance_uid, revision=series.revision,
        supersedes=earlier, rules=list(order.rules), pipeline=order.pipeline, model=pipeline.model, send_to=list(order.send_to),
        priority=order.priority, partial=order.partial, created_at=now, due_at=now,
    )  # fmt: skip
    job = session.scalars(select(Job).where(Job.input_key == key)).one()
    if made:
        _write(session, job, order, series, instances, now)
        if pipeline.needs.priors is not None:
            _seek_first(session, job, pipeline.needs.priors, now, queues)
        else:
            enqueue(session, job, queues)
    elif order.beside is None:
        _share(session, job.id)
        lock(session, Job, job.id)
        if not shadow.leave(session, job.id, now, queues=queues, peers=list(order.send_to)):
            delivery.also(session, job, order.send_to, now, queues=queues)


def again(session: Session, job: Job, now: datetime, queues: Queues) -> None:
    """A job that failed or was cancelled is queued as it was; who asks holds its row."""
    job.state, job.ticket, job.due_at, job.crashes, job.ended_at = JobState.QUEUED, ticket(job.attempts, now), now, 0, None
    enqueue(session, job, queues)


def enqueue(session: Session, job: Job, queues: Queues, delay: timedelta = timedelta(0)) -> None:
    """An attempt under the row's ticket, on the lane of its model."""
    queues.enqueue(
        session, RUN, str(job.id), attempt=job.ticket, lane=model_lane(job.model, job.priority), delay=delay,
        rank=rank(job.priority, job.created_at),
    )  # fmt: skip


def _share(session: Session, job: int) -> None:
    """Somebody else wants it too: it goes on where the workitem that it was made for is canceled, whose row goes before its."""
    session.execute(update(Workitem).where(Workitem.job == job, Workitem.made_job).values(made_job=False))


def _wanted(matched: Sequence[Rule], series_instance_uid: str) -> Iterator[tuple[str, list[Rule], str | None]]:
    """Pipeline, its rules, and beside which one it runs in the shadow: None for what is not in it, "" for a shadow rule."""
    live = {name: [one for one in matched if one.pipeline == name and not one.shadow] for name in _pipelines(matched)}
    yield from ((name, rules, None) for name, rules in live.items() if rules)
    yield from ((name, [one for one in matched if one.pipeline == name], "") for name, rules in live.items() if not rules)
    seen = set(live)
    for rule in matched:
        other = rule.canary
        if other is not None and not rule.shadow and other.pipeline not in seen and other.takes(series_instance_uid):
            seen.add(other.pipeline)
            yield other.pipeline, [rule], rule.pipeline


def _pipelines(rules: Sequence[Rule]) -> list[str]:
    return list(dict.fromkeys(rule.pipeline for rule in rules))


def _first_priority(rules: Sequence[Rule]) -> str:
    return min((rule.priority for rule in rules), key=PRIORITIES.index)


def input_key(name: str, pipeline: Pipeline, instances: Sequence[Instance]) -> str:
    """What makes two jobs the same one: the pipeline, its version, and the bytes."""
    return digest(name, pipeline.version, _inputs(instances))


def _inputs(instances: Sequence[Instance]) -> list[tuple[str, str]]:
    return sorted((instance.sop_instance_uid, instance.sha256) for instance in instances)


def _write(session: Session, job: Job, order: Order, series: Series, instances: Sequence[Instance], now: datetime) -> None:
    """What goes with the row of a new job."""
    inputs = [{"job": job.id, "sop_instance_uid": uid, "sha256": sha256} for uid, sha256 in _inputs(instances)]
    session.execute(insert(JobInstance), inputs)
    if order.beside is not None:
        shadow.enter(session, job, order.beside)
    audit.record(
        session, Act.JOB_CREATED, at=now, study=series.study_instance_uid, series=series.series_instance_uid, job=job.id,
        pipeline=job.pipeline, rules=job.rules, supersedes=job.supersedes, priority=job.priority, priority_by=order.priority_by,
        missing=job.partial or None, shadow=order.beside is not None,
    )  # fmt: skip


def _seek_first(session: Session, job: Job, priors: Priors, now: datetime, queues: Queues) -> None:
    """It waits for its priors before it is queued for its model."""
    deadline_at = now + timedelta(seconds=priors.wait_seconds)
    session.add(PriorSearch(id=job.id, begun_at=now, due_at=now, deadline_at=deadline_at))
    job.reason = "waits for priors"
    queues.enqueue(session, PRIORS, str(job.id), attempt="0", lane=PRIORS, rank=rank(job.priority, job.created_at))


def withdraw(session: Session, earlier: Job, now: datetime, reason: str, *, state: JobState = JobState.QUEUED) -> None:
    """Where it has not started yet it never will; with RUNNING, by who holds its row and begins its next attempt."""
    waiting = update(Job).where(Job.id == earlier.id, Job.state == state)
    if changed(session, waiting.values(state=JobState.CANCELLED, ended_at=now, reason=reason)):
        audit.record(session, Act.JOB_CANCELLED, at=now, series=earlier.series_instance_uid, job=earlier.id, reason=reason)


def latest(session: Session, series_instance_uid: str, pipeline: str, before: int | None = None) -> Job | None:
    """The last job of a pipeline on a series, of a revision before that one."""
    mine = select(Job).where(Job.series_instance_uid == series_instance_uid, Job.pipeline == pipeline)
    if before is not None:
        mine = mine.where(Job.revision < before)
    return session.scalars(mine.order_by(Job.revision.desc())).first()


def _supersede(session: Session, series: Series, pipeline: str, now: datetime) -> int | None:
    """The job of the revision before."""
    earlier = latest(session, series.series_instance_uid, pipeline, series.revision)
    if earlier is None:
        return None
    withdraw(session, earlier, now, superseded_by(series.revision))
    return earlier.id
