"""The jobs of a series: one for every pipeline that a matching rule names.

Two rules that name the same pipeline share one job, whose results go to the peers of both. The same instances never make the
job of a pipeline twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import changed, insert_once, lock
from gateway.decisions.rules import PRIORITIES, Outcome, Rule
from gateway.dicom.uids import by_role, digest
from gateway.engine import PRIORS, RUN, Queues, model_lane, rank, ticket
from gateway.pipeline import Pipeline, Priors
from gateway.rows.searches import PriorSearch
from gateway.rows.tables import Instance, Job, JobCompanion, JobInstance, JobState, Series
from gateway.rows.workitems import Workitem
from gateway.work import delivery, shadow
from gateway.work.companions import inputs, of_job
from gateway.work.revisions import superseded_by

BEHIND = "background"
"""What nobody waits for goes last."""
Urgency = Callable[[str], tuple[str, str]]
"""From the priority of the rules to the priority of the job, and what decided it."""
Companions = Mapping[str, Sequence[Instance]]
"""By role, the instances of another series of the study."""


@dataclass(frozen=True)
class Order:
    """What rules want of a pipeline. `partial`: what the series lacks. `beside`: in the shadow of which other, "" of none.

    `of_study`: once, for the best series of the study; what runs in the shadow runs for every one, unless it gets companions.
    `role`: the series may be a companion of another one, and gets no job of its own by this.
    """

    pipeline: str
    rules: Sequence[str]
    send_to: Sequence[str]
    priority: str
    priority_by: str
    partial: str = ""
    beside: str | None = None
    of_study: bool = False
    role: str = ""

    @property
    def columns(self) -> dict[str, object]:
        """Of the row of a candidate."""
        return {name: value for name, value in vars(self).items() if name != "of_study"}


def orders(
    outcomes: Sequence[Outcome],
    series_instance_uid: str,
    urgency: Urgency,
    pipelines: Mapping[str, Pipeline],
    *,
    partial: str = "",
) -> list[Order]:
    """One for every pipeline that a matching rule names, and for every role that the series may have for one."""
    matched = [outcome.rule for outcome in outcomes if outcome.matched]
    found = []
    for name, chosen, beside in _wanted(matched, series_instance_uid):
        priority, decided_by = (BEHIND, "shadow") if beside is not None else urgency(_first_priority(chosen))
        send_to = list(dict.fromkeys(peer for rule in chosen for peer in rule.send_to))
        needs = pipelines[name].needs
        is_one = needs.one_of_study or all(rule.level == "study" for rule in chosen)
        found.append(
            Order(
                name, [rule.name for rule in chosen], send_to, priority, decided_by, partial,
                beside=beside, of_study=bool(needs.companions) or (is_one and beside is None),
            )
        )  # fmt: skip
    return [*found, *_companions(outcomes, pipelines, partial)]


def _companions(outcomes: Sequence[Outcome], pipelines: Mapping[str, Pipeline], partial: str) -> Iterator[Order]:
    rules: dict[tuple[str, str], list[str]] = {}
    for rule, role in ((outcome.rule, role) for outcome in outcomes for role in outcome.roles):
        for name in dict.fromkeys((rule.pipeline, rule.canary.pipeline if rule.canary else rule.pipeline)):
            if role in pipelines[name].roles:
                rules.setdefault((name, role), []).append(rule.name)
    for (name, role), names in rules.items():
        yield Order(name, names, [], "", "", partial, of_study=True, role=role)


def make(
    session: Session,
    series: Series,
    instances: Sequence[Instance],
    order: Order,
    pipeline: Pipeline,
    now: datetime,
    queues: Queues,
    companions: Companions = MappingProxyType({}),
) -> None:
    """The job of an order, once for these instances; where it is there already, its results go to the order's peers as well."""
    key = input_key(order.pipeline, pipeline, instances, companions)
    earlier = _earlier(session, series, order.pipeline, companions)
    made = insert_once(
        session, Job, input_key=key, series_instance_uid=series.series_instance_uid, revision=series.revision,
        supersedes=earlier.id if earlier else None, rules=list(order.rules), pipeline=order.pipeline, model=pipeline.model,
        send_to=list(order.send_to), priority=order.priority, partial=order.partial, created_at=now, due_at=now,
    )  # fmt: skip
    job = session.scalars(select(Job).where(Job.input_key == key)).one()
    if made:
        if earlier:
            withdraw(session, earlier, now, superseded_by(job, earlier))
        _write(session, job, order, series, instances, companions, now)
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


def input_key(name: str, pipeline: Pipeline, instances: Sequence[Instance], companions: Companions = MappingProxyType({})) -> str:
    """What makes two jobs the same one: the pipeline, its version, and the bytes."""
    return digest(name, pipeline.version, inputs(instances), *by_role(_inputs(companions)))


def _inputs(companions: Companions) -> dict[str, list[tuple[str, str]]]:
    return {role: inputs(instances) for role, instances in companions.items()}


def _write(
    session: Session, job: Job, order: Order, series: Series, instances: Sequence[Instance], companions: Companions, now: datetime
) -> None:
    """What goes with the row of a new job."""
    everything = inputs([*instances, *(one for others in companions.values() for one in others)])
    session.execute(
        insert(JobInstance), [{"job": job.id, "sop_instance_uid": uid, "sha256": sha256} for uid, sha256 in everything]
    )
    beside = {role: others[0].series_instance_uid for role, others in companions.items()}
    session.add_all(JobCompanion(job=job.id, role=role, series_instance_uid=uid) for role, uid in beside.items())
    if order.beside is not None:
        shadow.enter(session, job, order.beside)
    told: dict[str, Any] = {"companions": beside} if beside else {}
    audit.record(
        session, Act.JOB_CREATED, at=now, study=series.study_instance_uid, series=series.series_instance_uid, job=job.id,
        pipeline=job.pipeline, rules=job.rules, supersedes=job.supersedes, priority=job.priority, priority_by=order.priority_by,
        missing=job.partial or None, shadow=order.beside is not None, **told,
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


def is_made(session: Session, key: str) -> bool:
    """Whether a job has that input."""
    return session.scalar(select(Job.id).where(Job.input_key == key)) is not None


def of_series(session: Session, series_instance_uid: str, pipeline: str) -> Sequence[Job]:
    """The jobs of a pipeline on a series, the last first."""
    mine = select(Job).where(Job.series_instance_uid == series_instance_uid, Job.pipeline == pipeline)
    return session.scalars(mine.order_by(Job.revision.desc(), Job.id.desc())).all()


def _earlier(session: Session, series: Series, pipeline: str, companions: Companions) -> Job | None:
    """The job whose place a new one takes: of the revision before, or with other companions."""
    mine = of_series(session, series.series_instance_uid, pipeline)
    return next((job for job in mine if job.revision < series.revision or of_job(session, job) != _inputs(companions)), None)
