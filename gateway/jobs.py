"""The jobs of a series: one for every pipeline that a matching rule names.

Two rules that name the same pipeline share one job, whose results go to the peers of both. The same instances never make the
job of a pipeline twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from gateway import audit, shadow
from gateway.audit import Act
from gateway.db import insert_once
from gateway.engine import RUN, Queues, model_lane, rank
from gateway.pipeline import Pipeline
from gateway.rules import PRIORITIES, Outcome, Rule
from gateway.tables import Instance, Job, JobInstance, JobState, Series
from gateway.uids import digest

BEHIND = "background"
"""What nobody waits for goes last."""
Urgency = Callable[[str], tuple[str, str]]
"""From the priority of the rules to the priority of the job, and what decided it."""


def make(
    session: Session,
    series: Series,
    instances: Sequence[Instance],
    outcomes: Sequence[Outcome],
    now: datetime,
    pipelines: Mapping[str, Pipeline],
    queues: Queues,
    urgency: Urgency,
    *,
    partial: str = "",
) -> None:
    """A job for every pipeline that a matching rule names; `partial` is what the series lacks that it is made all the same."""
    for name, chosen, beside in _wanted([one.rule for one in outcomes if one.matched], series.series_instance_uid):
        pipeline = pipelines[name]
        earlier = _supersede(session, series, name, now)
        priority, decided_by = (BEHIND, "shadow") if beside is not None else urgency(_first_priority(chosen))
        inputs, key = _inputs(instances), input_key(name, pipeline, instances)
        made = insert_once(
            session, Job, input_key=key, series_instance_uid=series.series_instance_uid,
            revision=series.revision, supersedes=earlier, rules=[rule.name for rule in chosen], pipeline=name,
            model=pipeline.model, send_to=list(dict.fromkeys(peer for rule in chosen for peer in rule.send_to)),
            priority=priority, partial=partial, created_at=now, due_at=now,
        )  # fmt: skip
        if made:
            _enqueue(session, key, inputs, series, now, queues, decided_by, beside)
        elif beside is None:
            peers = [peer for rule in chosen for peer in rule.send_to]
            shadow.leave(
                session, session.scalars(select(Job.id).where(Job.input_key == key)).one(), now, queues=queues, peers=peers
            )


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


def _enqueue(
    session: Session,
    key: str,
    inputs: Sequence[tuple[str, str]],
    series: Series,
    now: datetime,
    queues: Queues,
    decided_by: str,
    beside: str | None,
) -> None:
    job = session.scalars(select(Job).where(Job.input_key == key)).one()
    session.execute(insert(JobInstance), [{"job": job.id, "sop_instance_uid": uid, "sha256": sha256} for uid, sha256 in inputs])
    if beside is not None:
        shadow.enter(session, job, beside)
    lane = model_lane(job.model, job.priority)
    queues.enqueue(session, RUN, str(job.id), attempt="0", lane=lane, rank=rank(job.priority, job.created_at))
    audit.record(
        session, Act.JOB_CREATED, at=now, study=series.study_instance_uid, series=series.series_instance_uid, job=job.id,
        pipeline=job.pipeline, rules=job.rules, supersedes=job.supersedes, priority=job.priority, priority_by=decided_by,
        missing=job.partial or None, shadow=beside is not None,
    )  # fmt: skip


def _supersede(session: Session, series: Series, pipeline: str, now: datetime) -> int | None:
    """The job of the revision before; where it has not started yet it never will."""
    earlier = session.scalars(
        select(Job)
        .where(Job.series_instance_uid == series.series_instance_uid, Job.pipeline == pipeline, Job.revision < series.revision)
        .order_by(Job.revision.desc())
    ).first()
    if earlier is None:
        return None
    waiting = update(Job).where(Job.id == earlier.id, Job.state == JobState.QUEUED)
    reason = f"superseded by revision {series.revision} of the series"
    cancelled = session.execute(waiting.values(state=JobState.CANCELLED, ended_at=now, reason=reason))
    if cancelled.rowcount:  # type: ignore[attr-defined]
        audit.record(session, Act.JOB_CANCELLED, at=now, series=series.series_instance_uid, job=earlier.id, reason=reason)
    return earlier.id
