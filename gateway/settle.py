"""Settle: when is a series complete, and which rules want it? Decides by evidence and writes down why.

A job is made for every pipeline that a matching rule names; two rules that name the same pipeline share one job, whose
results go to the peers of both. The same instances never make the job of a pipeline twice.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from pydicom import Dataset, dcmread
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from gateway import audit, facts
from gateway.audit import Act
from gateway.completeness import Evidence, Policy, Verdict, verdict
from gateway.crash import crash_point
from gateway.db import Database, insert_once, lock
from gateway.engine import RUN, SETTLE, Queues, model_lane, rank, settle_attempt
from gateway.outputs import Equipment
from gateway.pipeline import Pipeline
from gateway.priority import REQUESTED, decide
from gateway.rules import PRIORITIES, Outcome, RuleSet, match
from gateway.store import Store
from gateway.tables import Association, Instance, Job, JobInstance, JobState, OutputInstance, RuleOutcome, Series, SeriesState
from gateway.uids import digest
from gateway.values import each, texts

Urgency = Callable[[str], tuple[str, str]]
"""From the priority of the rules to the priority of the job, and what decided it."""

_SOON, _AGAIN, _BEHIND = timedelta(milliseconds=50), timedelta(seconds=1), timedelta(minutes=1)


def settle(
    series_instance_uid: str,
    now: datetime,
    *,
    policy: Policy,
    rules: RuleSet,
    pipelines: Mapping[str, Pipeline],
    equipment: Equipment,
    store: Store,
    db: Database,
    queues: Queues,
    stat_ae_titles: Collection[str] = (),
    ordered: Callable[[str], set[str]] = lambda _: set(),
    as_of: datetime | None = None,
) -> None:
    """Look at a series once: come back later, or write verdict, outcomes and jobs in one transaction. Safe to repeat.

    `as_of`: until when everything that was promised is filed, where that is not yet `now`. `ordered(accession_number)` are the
    priorities that the worklist has for it.
    """
    as_of = min(as_of or now, now)
    with db.begin() as session:
        series = lock(session, Series, series_instance_uid)  # against new instances, and associations that end meanwhile
        if series.state != SeriesState.RECEIVING:
            return
        evidence = _evidence(session, series)
        found = verdict(evidence, now=as_of, policy=policy)
        if not found.complete:
            _come_back(session, series, found, now, as_of, queues)
            return
        instances = _instances(session, series_instance_uid)
        gone = sum(instance.gone_at is not None for instance in instances)
        if gone:
            _hold(session, series, gone, len(instances), now)
            return
        origin, called = session.get_one(Association, instances[-1].association), _called(session, series_instance_uid)
    headers = [dcmread(store.path(instance.sha256), stop_before_pixels=True) for instance in instances]
    outcomes = _outcomes(headers, origin, rules, equipment)
    requested = _requested(headers)
    if any(outcome.matched for outcome in outcomes):
        requested |= ordered(str(headers[0].get("AccessionNumber") or ""))
    urgency = partial(decide, called=called, stat_ae_titles=stat_ae_titles, requested=requested)
    crash_point("settle.evaluated")
    with db.begin() as session:
        series = lock(session, Series, series_instance_uid)
        if series.state != SeriesState.RECEIVING:  # somebody else settled it
            return
        if _evidence(session, series) != evidence:  # something came while the headers were read
            _come_back(session, series, found, now, as_of, queues)
            return
        is_ours = _is_ours(session, instances)
        outcomes = () if is_ours else outcomes
        _write(session, series, found, outcomes, now, rules, is_ours=is_ours)
        _make_jobs(session, series, instances, outcomes, now, pipelines, queues, urgency)
    crash_point("settle.committed")


def _hold(session: Session, series: Series, gone: int, instances: int, now: datetime) -> None:
    """Something came late, after retention took the files of the others: the whole cannot be looked at before they come again."""
    series.state, series.complete_at = SeriesState.COMPLETE, now
    series.reason = f"held: retention took {gone} of its {instances} instances; when they are sent again it is looked at"
    audit.record(
        session, Act.SERIES_COMPLETE, at=now, outcome=audit.MINOR, study=series.study_instance_uid,
        series=series.series_instance_uid, revision=series.revision, reason=series.reason,
    )  # fmt: skip


def settle_failed(series_instance_uid: str, error: Exception, now: datetime, *, db: Database) -> None:
    """A series that could not be evaluated is held where a person sees it; it is never dropped."""
    reason = f"held: its headers could not be evaluated ({type(error).__name__})"
    with db.begin() as session:
        series = session.get_one(Series, series_instance_uid)
        series.state, series.complete_at, series.reason = SeriesState.COMPLETE, now, reason
        audit.record(session, Act.SERIES_COMPLETE, at=now, series=series_instance_uid, outcome=audit.SERIOUS, reason=reason)


def _evidence(session: Session, series: Series) -> Evidence:
    mine = select(Instance.association).where(Instance.series_instance_uid == series.series_instance_uid).distinct()
    count = select(func.count()).select_from(Association).where(Association.id.in_(mine))
    instances = select(func.count()).select_from(Instance).where(Instance.series_instance_uid == series.series_instance_uid)
    return Evidence(
        instances=session.scalar(instances) or 0,
        associations=session.scalar(count) or 0,
        open_associations=session.scalar(count.where(Association.ended_at.is_(None))) or 0,
        first_received_at=series.first_received_at,
        last_received_at=series.last_received_at,
    )


def _come_back(session: Session, series: Series, found: Verdict, now: datetime, as_of: datetime, queues: Queues) -> None:
    """When it is due; where that has passed, and only `as_of` has not come so far, often until it has.

    Without an instance (all were kept apart) there is nothing to wait for: the sweep looks now and then.
    """
    if found.due is None and not found.complete:
        series.reason = found.reason
        return
    due_at = found.due or as_of
    if due_at < now + _SOON:
        due_at = now + min(max(due_at - as_of, _SOON), _AGAIN)
    if due_at <= series.due_at < due_at + _BEHIND:  # the clocks of two hosts: that due time had its look
        due_at = series.due_at + _SOON
    series.due_at, series.reason = due_at, found.reason
    attempt = settle_attempt(series.revision, due_at)
    queues.enqueue(session, SETTLE, series.series_instance_uid, attempt=attempt, lane=SETTLE, delay=due_at - now)


def _instances(session: Session, series_instance_uid: str) -> Sequence[Instance]:
    mine = select(Instance).where(Instance.series_instance_uid == series_instance_uid)
    return session.scalars(mine.order_by(Instance.received_at, Instance.sop_instance_uid)).all()


def _called(session: Session, series_instance_uid: str) -> set[str]:
    """The AE titles under which its instances were sent to us."""
    mine = select(Instance.association).where(Instance.series_instance_uid == series_instance_uid)
    return set(session.scalars(select(Association.called_ae_title).where(Association.id.in_(mine)).distinct()))


def _requested(headers: Sequence[Dataset]) -> set[str]:
    return {value for found in each(headers, (REQUESTED,), partial(texts, keyword=REQUESTED)) for value in found}


def _outcomes(headers: Sequence[Dataset], origin: Association, rules: RuleSet, equipment: Equipment) -> tuple[Outcome, ...]:
    found = facts.facts(
        headers, equipment=equipment, calling_ae_title=origin.calling_ae_title, called_ae_title=origin.called_ae_title,
        ingest=origin.ingest,
    )  # fmt: skip
    return match(rules, facts.attributes(headers, rules.keywords), found)


def _is_ours(session: Session, instances: Sequence[Instance]) -> bool:
    """The loop guard that needs no header: what we made never starts a job."""
    uids = [instance.sop_instance_uid for instance in instances[:500]]
    return session.scalar(select(OutputInstance.job).where(OutputInstance.sop_instance_uid.in_(uids)).limit(1)) is not None


def _write(
    session: Session,
    series: Series,
    found: Verdict,
    outcomes: Sequence[Outcome],
    now: datetime,
    rules: RuleSet,
    *,
    is_ours: bool,
) -> None:
    matched = [outcome.rule.name for outcome in outcomes if outcome.matched]
    consequence = f"matched {', '.join(matched)}" if matched else "no rule matched"
    series.state, series.complete_at = SeriesState.COMPLETE, now
    series.reason = f"{found.reason}; {'made by this gateway, starts no job' if is_ours else consequence}"
    for outcome in outcomes:
        insert_once(
            session, RuleOutcome, series_instance_uid=series.series_instance_uid, revision=series.revision,
            rule=outcome.rule.name, matched=outcome.matched, explanation=outcome.as_json(), rules_digest=rules.digest, at=now,
        )  # fmt: skip
    audit.record(
        session, Act.SERIES_COMPLETE, at=now, study=series.study_instance_uid, series=series.series_instance_uid,
        revision=series.revision, reason=found.reason, rules=matched, rules_digest=rules.digest,
    )  # fmt: skip


def _make_jobs(
    session: Session,
    series: Series,
    instances: Sequence[Instance],
    outcomes: Sequence[Outcome],
    now: datetime,
    pipelines: Mapping[str, Pipeline],
    queues: Queues,
    urgency: Urgency,
) -> None:
    matched = [outcome.rule for outcome in outcomes if outcome.matched]
    for name in dict.fromkeys(rule.pipeline for rule in matched):
        chosen = [rule for rule in matched if rule.pipeline == name]
        pipeline = pipelines[name]
        earlier = _supersede(session, series, name, now)
        priority, decided_by = urgency(min((rule.priority for rule in chosen), key=PRIORITIES.index))
        inputs = sorted((instance.sop_instance_uid, instance.sha256) for instance in instances)
        made = insert_once(
            session, Job, input_key=digest(name, pipeline.version, inputs), series_instance_uid=series.series_instance_uid,
            revision=series.revision, supersedes=earlier, rules=[rule.name for rule in chosen], pipeline=name,
            model=pipeline.model, send_to=list(dict.fromkeys(peer for rule in chosen for peer in rule.send_to)),
            priority=priority, created_at=now, due_at=now,
        )  # fmt: skip
        if made:
            _enqueue_job(session, digest(name, pipeline.version, inputs), inputs, series, now, queues, decided_by)


def _enqueue_job(
    session: Session,
    input_key: str,
    inputs: Sequence[tuple[str, str]],
    series: Series,
    now: datetime,
    queues: Queues,
    decided_by: str,
) -> None:
    job = session.scalars(select(Job).where(Job.input_key == input_key)).one()
    session.execute(insert(JobInstance), [{"job": job.id, "sop_instance_uid": uid, "sha256": sha256} for uid, sha256 in inputs])
    lane = model_lane(job.model, job.priority)
    queues.enqueue(session, RUN, str(job.id), attempt="0", lane=lane, rank=rank(job.priority, job.created_at))
    audit.record(
        session, Act.JOB_CREATED, at=now, study=series.study_instance_uid, series=series.series_instance_uid, job=job.id,
        pipeline=job.pipeline, rules=job.rules, supersedes=job.supersedes, priority=job.priority, priority_by=decided_by,
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
