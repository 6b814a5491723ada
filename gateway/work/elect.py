"""Elect: which series of a study a pipeline gets that wants one, or several, once it is complete; the others are told why not.

A study is complete when none of its series is being received or held, and none has had an instance for a while.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.decisions.rank import ranked
from gateway.engine import Queues
from gateway.pipeline import Pipeline
from gateway.rows.candidates import Candidate, CandidateState
from gateway.rows.tables import Instance, Series, SeriesState, Study
from gateway.rows.verdicts import Held
from gateway.work import jobs
from gateway.work.companions import LACKS, Cast, cast_beside, instances, lacks, traits_of
from gateway.work.jobs import Order
from gateway.work.nominate import look_again

_SOON = timedelta(seconds=1)
_GONE, _WAITS = "retention took ", "; waits: "


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
        latest = {(one.pipeline, one.series_instance_uid, one.role): one for one in able}
        for pipeline in sorted({one.pipeline for one in able if one.state == CandidateState.WAITING}):
            candidates = [one for one in latest.values() if one.pipeline == pipeline]
            _take(session, pipelines[pipeline], candidates, now, queues)
        _hold(session, latest.values(), now)
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
    """Whether the job that it would be can be made, or has been; one that waits is passed where it cannot.

    A companion whose series has grown is none any more: as it is now it is another candidate.
    """
    if one.state == CandidateState.TAKEN and not one.role:
        return True
    why = _why_not(session, one, pipelines)
    if one.state == CandidateState.TAKEN:
        return not why or why.startswith(_GONE)
    if why and one.state == CandidateState.WAITING:
        _end(session, one, CandidateState.PASSED, why, now)
    return not why


def _why_not(session: Session, one: Candidate, pipelines: Mapping[str, Pipeline]) -> str:
    if one.pipeline not in pipelines:
        return f"there is no pipeline {one.pipeline} here any more"
    if session.get_one(Series, one.series_instance_uid).revision != one.revision:
        return "its series has grown since"
    gone = select(func.count()).where(Instance.series_instance_uid == one.series_instance_uid, Instance.gone_at.is_not(None))
    count = session.scalar(gone)
    return f"{_GONE}{count} of its instances" if count else ""


def _take(session: Session, pipeline: Pipeline, candidates: Sequence[Candidate], now: datetime, queues: Queues) -> None:
    """The best series that has all the companions that the pipeline needs; each other one is told why it is not that."""
    mains = {one.series_instance_uid: one for one in candidates if not one.role}
    casts = {uid: cast_beside(session, one, pipeline.needs, candidates) for uid, one in mains.items()}
    order = ranked([traits_of(mains[uid]) for uid, found in casts.items() if not found.lacking], kernel=pipeline.needs.kernel)
    before = next((one for one in mains.values() if one.state == CandidateState.TAKEN), None)
    if not order:
        why = "no series of the study is wanted for the pipeline itself, with all the others that it needs"
        for one in candidates:
            if one.state != CandidateState.TAKEN:
                _end(session, one, CandidateState.PASSED, why if one.role else casts[one.series_instance_uid].lacking, now)
        return
    best, mine = mains[order[0][0].series_instance_uid], casts[order[0][0].series_instance_uid]
    if not _make(session, best, mine, pipeline, candidates, now, queues, before):
        return
    whys = {uid: found.lacking for uid, found in casts.items()} | {found.series_instance_uid: why for found, why in order}
    for one in candidates:
        if one.role:
            _end_companion(session, one, best, mine, now)
        elif one is not best:
            why = f"{best.series_instance_uid} was taken: {whys[one.series_instance_uid]}"
            _end(session, one, CandidateState.PASSED, why, now)
    why = f"the best of {len(mains)} series" if len(mains) > 1 else "the only series that a rule wants"
    _end(session, best, CandidateState.TAKEN, why, now)


def _make(
    session: Session, best: Candidate, mine: Cast, pipeline: Pipeline, candidates: Sequence[Candidate], now: datetime,
    queues: Queues, before: Candidate | None,
) -> bool:  # fmt: skip
    """Whether it has its job now, made anew where it is another one than before, or gets others beside it."""
    series = session.get_one(Series, best.series_instance_uid)
    if before is best and (not pipeline.needs.companions or series.revision != best.revision):
        return True
    own = instances(session, best.series_instance_uid)
    companions = {role: instances(session, one.series_instance_uid) for role, one in mine.taken.items()}
    gone = sum(one.gone_at is not None for one in itertools.chain(own, *companions.values()))
    if gone and not jobs.is_made(session, jobs.input_key(best.pipeline, pipeline, own, companions)):
        why = f"{_GONE}{gone} of the instances that a new job would get: send them again"
        for one in candidates:
            if one is best or one.state == CandidateState.WAITING:
                _end(session, one, CandidateState.TAKEN if one is before else CandidateState.PASSED, why, now)
        return False
    if before and before is not best and (earlier := jobs.of_series(session, before.series_instance_uid, before.pipeline)):
        jobs.withdraw(session, earlier[0], now, f"series {best.series_instance_uid} came later and is better")
    partial = lacks(best.partial, mine, candidates)
    order = Order(best.pipeline, best.rules, best.send_to, best.priority, best.priority_by, partial, beside=best.beside)
    jobs.make(session, series, own, order, pipeline, now, queues, companions)
    return True


def _end_companion(session: Session, one: Candidate, best: Candidate, mine: Cast, now: datetime) -> None:
    if mine.has(one.role, one.series_instance_uid):
        _end(session, one, CandidateState.TAKEN, f"beside {best.series_instance_uid}", now)
        return
    why = mine.passed.get((one.role, one.series_instance_uid), f"no rule that wants {best.series_instance_uid} knows it as that")
    _end(session, one, CandidateState.PASSED, why, now)


def _end(session: Session, one: Candidate, state: CandidateState, reason: str, now: datetime) -> None:
    """Told where it was not so before."""
    if (one.state, one.reason) == (state, reason):
        return
    one.state, one.reason = state, reason
    act = Act.SERIES_TAKEN if state == CandidateState.TAKEN else Act.SERIES_PASSED
    told: dict[str, Any] = {"role": one.role} if one.role else {}
    audit.record(
        session, act, at=now, study=one.study_instance_uid, series=one.series_instance_uid, revision=one.revision,
        pipeline=one.pipeline, reason=reason, **told,
    )  # fmt: skip


def _hold(session: Session, candidates: Iterable[Candidate], now: datetime) -> None:
    """Where a pipeline would get a series, and lacks others beside it, a person is told, until it is here or another is taken."""
    lacks: dict[str, list[str]] = {}
    for one in candidates:
        if not one.role and one.beside is None:
            is_lacking = one.state == CandidateState.PASSED and one.reason.startswith(LACKS)
            lacks.setdefault(one.series_instance_uid, []).extend([f"{one.pipeline} {one.reason}"] * is_lacking)
    for uid, whys in lacks.items():
        series = session.get_one(Series, uid)
        if not whys and series.held != Held.LACKING:
            continue
        series.held = Held.LACKING if whys else ""
        reason = _WAITS.join([series.reason.partition(_WAITS)[0], *whys])
        if reason != series.reason and whys:
            audit.record(
                session, Act.SERIES_HELD, at=now, outcome=audit.MINOR, study=series.study_instance_uid, series=uid,
                revision=series.revision, reason="; ".join(whys),
            )  # fmt: skip
        series.reason = reason
