"""Retention: files go when their time is over, or when the disk is nearly full; never before proof. Rows and trail stay.

    instances of a series     it is complete, no job of it waits or runs, nor may one follow when its study is complete, and every
                              delivery of its results is proved, dropped by a person, unwanted by its peer, or sent to one that
                              never proves anything
    an object of ours         it was delivered, and every delivery of it is proved, dropped by a person, or unwanted by its peer
    one in the shadow         nobody has released it; it has days of its own, and is not asked for room
    a version kept apart      stays: a person looks at it

Order of effects: the rows say that the files are gone, with the trail, then the files go. What a crash leaves between the two
the next round takes, and so what the disk did not let go of. One round is bounded; there is one a minute.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Select, exists, or_, select, update
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.configuration.sections import RetentionSection
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.rows.candidates import Candidate, CandidateState
from gateway.rows.ruleset import Shadow
from gateway.rows.searches import Prior
from gateway.rows.tables import (
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobCompanion,
    JobState,
    OutputInstance,
    Series,
    SeriesState,
    Version,
)
from gateway.store import Store
from gateway.work.kept import Keep
from gateway.work.returned import hold_files

_SERIES, _OUTPUTS, _TOGETHER = 50, 500, 200
_FRESH = timedelta(minutes=10)
"""What happened so lately is left alone, however full the disk is: somebody may be at work on it."""
_OF_JOB = Job.series_instance_uid == Series.series_instance_uid
_BESIDE = (JobCompanion.series_instance_uid == Series.series_instance_uid) & (JobCompanion.job == Job.id)
_OF_PRIOR = (Prior.series_instance_uid == Series.series_instance_uid) & (Prior.job == Job.id)
"""The job works on the series; it gets it beside that, of the same study; it gets it as a prior."""
_OF_OUTPUT = Delivery.sop_instance_uid == OutputInstance.sop_instance_uid
_SETTLED = (DeliveryState.PROVED, DeliveryState.CANCELLED, DeliveryState.UNWANTED)

_logger = structlog.get_logger()


def retain(now: datetime, *, settings: RetentionSection, unproving: Collection[str], store: Store, db: Database) -> None:
    """One round. `unproving` are the peers whose `proof` is "none". Without settings nothing ever goes."""
    if settings == RetentionSection():
        return
    _finish(store=store, db=db)
    if settings.sources_days is not None:
        may_go = _series_that_may_go(now - timedelta(days=settings.sources_days), unproving)
        for uid in _first(db, may_go.limit(_SERIES)):
            _take_series(uid, may_go, "its days are over", now, store, db)
    ours = ((settings.outputs_days, _outputs_that_may_go), (settings.shadow_days, _shadows_that_may_go))
    for objects in (that_may_go(now - timedelta(days=days)) for days, that_may_go in ours if days is not None):
        for job, uids in _by_job(db, objects.limit(_OUTPUTS)):
            _take_outputs(job, uids, objects, "their days are over", now, store, db)
    if settings.headers_days is not None:
        Keep(store.headers).forget(now - timedelta(days=settings.headers_days), now)
    if store.free_bytes() < settings.pressure_free_bytes:
        _relieve(now, settings.pressure_free_bytes, unproving, store, db)


def take(series_instance_uid: str, now: datetime, *, why: str, unproving: Collection[str], store: Store, db: Database) -> None:
    """The files of one series and of its results, now; what is still owed to somebody stays, and so do the rows."""
    _take_series(series_instance_uid, _series_that_may_go(now, unproving), why, now, store, db)
    of_series = select(Job.id).where(Job.series_instance_uid == series_instance_uid)
    objects = _outputs_that_may_go(now).where(OutputInstance.job.in_(of_series))
    for job, uids in _by_job(db, objects):
        _take_outputs(job, uids, objects, why, now, store, db)


def _relieve(now: datetime, wanted: int, unproving: Collection[str], store: Store, db: Database) -> None:
    """The oldest first until there is room, before their days; what failed, its companions and priors, wait for theirs.

    A person may want it again.
    """
    why = "the disk is nearly full"
    failed = or_(*(exists().where(mine, Job.state == JobState.FAILED) for mine in (_OF_JOB, _BESIDE, _OF_PRIOR)))
    may_go = _series_that_may_go(now - _FRESH, unproving).where(~failed)
    for uid in _first(db, may_go.limit(_SERIES)):
        if store.free_bytes() >= wanted:
            return
        _take_series(uid, may_go, why, now, store, db)
    objects = _outputs_that_may_go(now - _FRESH)
    for job, uids in _by_job(db, objects.limit(_OUTPUTS)):
        if store.free_bytes() >= wanted:
            return
        _take_outputs(job, uids, objects, why, now, store, db)
    if store.free_bytes() < wanted:
        _logger.warning("store.under_pressure", reason="nothing more may go in this round: it waits for proof, or for a person")


def _series_that_may_go(before: datetime, unproving: Collection[str]) -> Select[str]:
    at_work = or_(Job.state.in_((JobState.QUEUED, JobState.RUNNING)), Job.ended_at >= before)
    busy = or_(*(exists().where(mine, at_work) for mine in (_OF_JOB, _BESIDE, _OF_PRIOR)))
    weighed = exists().where(
        Candidate.series_instance_uid == Series.series_instance_uid, Candidate.state == CandidateState.WAITING
    )
    has_files = exists().where(Instance.series_instance_uid == Series.series_instance_uid, Instance.gone_at.is_(None))
    ended = or_(Delivery.state.in_(_SETTLED), (Delivery.state == DeliveryState.SENT) & Delivery.peer.in_(list(unproving)))
    late = or_(Delivery.proved_at >= before, Delivery.sent_at >= before)
    owed = or_(*(exists().where(mine, Delivery.job == Job.id, or_(~ended, late)) for mine in (_OF_JOB, _BESIDE)))
    return (
        select(Series.series_instance_uid)
        .where(Series.gone_at.is_(None), Series.state.in_((SeriesState.COMPLETE, SeriesState.FAILED)))
        .where(~busy, ~weighed, ~owed)
        .where(Series.held.not_in(("refused", "failed")))  # a rule, or nobody yet, has looked at those
        .where(Series.last_received_at < before, or_(Series.complete_at.is_(None), Series.complete_at < before))
        .order_by(~has_files, Series.last_received_at)  # what the disk did not let go of holds up no other
    )


def _outputs_that_may_go(before: datetime) -> Select[int, str]:
    """What went to nobody stays: there is no other copy."""
    owed = exists().where(_OF_OUTPUT, or_(Delivery.state.not_in(_SETTLED), Delivery.proved_at >= before))
    went = exists().where(_OF_OUTPUT, Delivery.state != DeliveryState.UNWANTED)
    return _made(before).where(went, ~owed)


def _shadows_that_may_go(before: datetime) -> Select[int, str]:
    in_shadow = exists().where(Shadow.job == OutputInstance.job, Shadow.released_at.is_(None))
    return _made(before).where(in_shadow, ~exists().where(_OF_OUTPUT))


def _made(before: datetime) -> Select[int, str]:
    return (
        select(OutputInstance.job, OutputInstance.sop_instance_uid)
        .where(OutputInstance.gone_at.is_(None), OutputInstance.created_at < before)
        .order_by(OutputInstance.created_at, OutputInstance.job)
    )


def _take_series(uid: str, may_go: Select[str], why: str, now: datetime, store: Store, db: Database) -> None:
    mine = Instance.series_instance_uid == uid
    with db.begin() as session:
        series = lock(session, Series, uid)  # against instances that come, and settle
        if session.scalars(may_go.where(Series.series_instance_uid == uid)).first() is None:
            return
        going = update(Instance).where(mine, Instance.gone_at.is_(None)).values(gone_at=now).returning(Instance.size)
        sizes = session.scalars(going.execution_options(synchronize_session=False)).all()
        if sizes:
            audit.record(
                session, Act.FILE_REMOVED, at=now, study=series.study_instance_uid, series=uid, instances=len(sizes),
                bytes=sum(sizes), reason=why,
            )  # fmt: skip
        files = [tuple(row) for row in session.execute(select(Instance.sop_instance_uid, Instance.sha256).where(mine))]
    if not _remove(files, store, db):
        return
    with db.begin() as session:
        series = lock(session, Series, uid)
        if not session.scalar(select(exists().where(mine, Instance.gone_at.is_(None)))):
            series.gone_at = now


def _take_outputs(
    job: int, uids: Sequence[str], may_go: Select[int, str], why: str, now: datetime, store: Store, db: Database
) -> None:
    with db.begin() as session:
        lock(session, Job, job)  # against a person who releases it
        rows = [lock(session, OutputInstance, uid) for uid in sorted(uids)]  # against one who sends them again
        still = {uid for _, uid in session.execute(may_go.where(OutputInstance.sop_instance_uid.in_(uids)))}
        going = [row for row in rows if row.sop_instance_uid in still]
        for row in going:
            row.gone_at = now
        if going:
            audit.record(
                session, Act.FILE_REMOVED, at=now, study=going[0].study_instance_uid, job=job, outputs=len(going),
                bytes=sum(row.size for row in going), reason=why,
            )  # fmt: skip
    _remove([(row.sop_instance_uid, row.sha256) for row in going], store, db)


def _finish(*, store: Store, db: Database) -> None:
    """What a crash left of the last objects that went; of a series the row says whether its files went."""
    latest = select(OutputInstance.sop_instance_uid, OutputInstance.sha256).where(OutputInstance.gone_at.is_not(None))
    with db() as session:
        rows = session.execute(latest.order_by(OutputInstance.gone_at.desc()).limit(_OUTPUTS)).all()
    _remove([(uid, sha256) for uid, sha256 in rows if _may_be_there(store.path(sha256))], store, db)


def _may_be_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the disk does not even say that: who removes it tells so
        return True


def _remove(files: Iterable[tuple[Any, ...]], store: Store, db: Database) -> bool:
    """The files of instances that are gone; one that has come again meanwhile, or is something else's too, stays.

    The same bytes have the same SOP Instance UID, so whatever needs a file is found by that. Whether the disk let go of them
    all; what it keeps holds up nothing else.
    """
    crash_point("retain.written")
    left, kept = iter(files), 0
    while some := list(itertools.islice(left, _TOGETHER)):
        with db.begin() as session:
            hold_files(session, alone=True)
            needed = _needed(session, [uid for uid, _ in some])
            for uid, sha256 in some:
                if (uid, sha256) not in needed:
                    kept += not _discard(sha256, store)
                    crash_point("retain.removed")
    return not kept


def _discard(sha256: str, store: Store) -> bool:
    try:
        store.discard(sha256)
    except OSError as error:
        _logger.error("file.not_removed", path=str(store.path(sha256)), error=type(error).__name__)
        return False
    return True


def _needed(session: Session, uids: Sequence[str]) -> set[tuple[str, str]]:
    needed: set[tuple[str, str]] = set()
    for table in (Instance, OutputInstance, Version):
        rows = select(table.sop_instance_uid, table.sha256).where(table.sop_instance_uid.in_(uids))
        if table is not Version:
            rows = rows.where(table.gone_at.is_(None))  # type: ignore[union-attr]
        needed |= {(uid, sha256) for uid, sha256 in session.execute(rows)}
    return needed


def _first(db: Database, query: Select[str]) -> Sequence[str]:
    with db() as session:
        return session.scalars(query).all()


def _by_job(db: Database, query: Select[int, str]) -> list[tuple[int, list[str]]]:
    with db() as session:
        rows = session.execute(query).all()
    jobs: dict[int, list[str]] = {}
    for job, uid in rows:
        jobs.setdefault(job, []).append(uid)
    return list(jobs.items())
