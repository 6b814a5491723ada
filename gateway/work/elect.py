"""Elect: which series of a study a pipeline gets that wants one, once the study is complete; the others are told why not.

A study is complete when none of its series is being received or held, and none has had an instance for a while.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.decisions.rank import Traits, ranked
from gateway.engine import Queues
from gateway.pipeline import Pipeline
from gateway.rows.candidates import Candidate, CandidateState
from gateway.rows.tables import Instance, Series, SeriesState, Study
from gateway.work import jobs
from gateway.work.jobs import Order
from gateway.work.nominate import look_again

_SOON = timedelta(seconds=1)


def elect(
    study_instance_uid: str, now: datetime, *, pipelines: Mapping[str, Pipeline], quiet: timedelta, db: Database, queues: Queues
) -> None:
    """Look at a study once: come back later, or take a series for each pipeline that waits for one. Safe to repeat."""
    with db.begin() as session:
        lock(session, Study, study_instance_uid)
        mine = Candidate.study_instance_uid == study_instance_uid
        found = session.scalars(select(Candidate).where(mine).order_by(Candidate.revision)).all()
        if not any(one.state == CandidateState.WAITING for one in found):
            return
        due_at = _due(session, study_instance_uid, now, quiet) or _due_once_held(session, found, now, quiet)
        if due_at:
            for one in found:
                one.due_at = due_at
            look_again(session, study_instance_uid, due_at, now, queues)
            return
        able = [one for one in found if _is_able(session, one, pipelines, now)]
        latest = {(one.pipeline, one.series_instance_uid): one for one in able}
        for pipeline in sorted({one.pipeline for one in able if one.state == CandidateState.WAITING}):
            candidates = [one for (name, _), one in latest.items() if name == pipeline]
            _take(session, pipelines[pipeline], candidates, now, queues)
    crash_point("elect.committed")


def _due(session: Session, study_instance_uid: str, now: datetime, quiet: timedelta) -> datetime | None:
    """When to look again; None where the study is complete."""
    mine = Series.study_instance_uid == study_instance_uid
    held = select(Instance.sop_instance_uid).where(Instance.series_instance_uid == Series.series_instance_uid).exists()
    open_ = Series.state.in_((SeriesState.RECEIVING, SeriesState.HELD)) & held
    last = session.scalar(select(func.max(Series.last_received_at)).where(mine, held)) or now
    if session.scalar(select(func.count()).select_from(Series).where(mine, open_)):
        return now + max(quiet, _SOON)
    due_at = min(last, now) + quiet
    return due_at if due_at > now else None


def _due_once_held(session: Session, found: Sequence[Candidate], now: datetime, quiet: timedelta) -> datetime | None:
    """The same, while nothing comes to their series and retention takes none: what was filed meanwhile is seen."""
    for uid in sorted({one.series_instance_uid for one in found}):
        lock(session, Series, uid)
    return _due(session, found[0].study_instance_uid, now, quiet)


def _is_able(session: Session, one: Candidate, pipelines: Mapping[str, Pipeline], now: datetime) -> bool:
    """Whether the job that it would be can be made, or has been; one that waits is passed where it cannot."""
    if one.state == CandidateState.TAKEN:
        return True
    why = _why_not(session, one, pipelines)
    if why and one.state == CandidateState.WAITING:
        one.state, one.reason = CandidateState.PASSED, why
        _tell(session, one, now)
    return not why


def _why_not(session: Session, one: Candidate, pipelines: Mapping[str, Pipeline]) -> str:
    if one.pipeline not in pipelines:
        return f"there is no pipeline {one.pipeline} here any more"
    if session.get_one(Series, one.series_instance_uid).revision != one.revision:
        return "its series has grown since"
    gone = select(func.count()).where(Instance.series_instance_uid == one.series_instance_uid, Instance.gone_at.is_not(None))
    count = session.scalar(gone)
    return f"retention took {count} of its instances" if count else ""


def _take(session: Session, pipeline: Pipeline, candidates: Sequence[Candidate], now: datetime, queues: Queues) -> None:
    by_series = {one.series_instance_uid: one for one in candidates}
    order = ranked([Traits(**one.traits) for one in candidates], kernel=pipeline.needs.kernel)
    best = by_series[order[0][0].series_instance_uid]
    before = next((one for one in candidates if one.state == CandidateState.TAKEN), None)
    for found, why in order[1:]:
        passed = by_series[found.series_instance_uid]
        passed.state, passed.reason = CandidateState.PASSED, f"{best.series_instance_uid} was taken: {why}"
        _tell(session, passed, now)
    best.state = CandidateState.TAKEN
    best.reason = f"the best of {len(candidates)} series" if len(candidates) > 1 else "the only series that a rule wants"
    if before is best:
        return
    if before and (earlier := jobs.latest(session, before.series_instance_uid, before.pipeline)):
        jobs.withdraw(session, earlier, now, f"series {best.series_instance_uid} came later and is better")
    series = session.get_one(Series, best.series_instance_uid)
    instances = session.scalars(select(Instance).where(Instance.series_instance_uid == best.series_instance_uid)).all()
    mine = Order(best.pipeline, best.rules, best.send_to, best.priority, best.priority_by, best.partial)
    jobs.make(session, series, instances, mine, pipeline, now, queues)
    _tell(session, best, now)


def _tell(session: Session, one: Candidate, now: datetime) -> None:
    act = Act.SERIES_TAKEN if one.state == CandidateState.TAKEN else Act.SERIES_PASSED
    audit.record(
        session, act, at=now, study=one.study_instance_uid, series=one.series_instance_uid, revision=one.revision,
        pipeline=one.pipeline, reason=one.reason,
    )  # fmt: skip
