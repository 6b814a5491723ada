"""Run: one job. Files to a volume, pipeline, Triton, DICOM objects encoded once and stored, deliveries made.

Until the last transaction nothing is visible; after it the bytes of every object are fixed for ever. A job that is run
again before that makes the same UIDs, because they come from the job key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol

import structlog
from pydicom import Dataset
from sqlalchemy import update
from sqlalchemy.orm import Session

from gateway import conformance
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, changed, insert_once, lock
from gateway.dicom.header import Copies
from gateway.dicom.part10 import moved
from gateway.dicom.uids import job_key
from gateway.engine import Queues, backoff
from gateway.errors import BadOutput, Crashed, JobError, ModelDied, NoPipeline, NoRoom, Outdated, OutOfResources
from gateway.outputs import Algorithm, Encoding, Equipment
from gateway.pipeline import Infer, Pipeline
from gateway.rows.tables import Job, JobState, OutputInstance
from gateway.store import Store, Stored
from gateway.work import delivery, findings, foreign, jobs, shadow
from gateway.work.extras import Extras
from gateway.work.given import Given, given, replaces
from gateway.work.load import accompanied, beside, load
from gateway.work.revisions import successor, superseded_by

CRASHES_AT_MOST = 3
_CRASHED = f"the process that worked on this job, the gateway's or its model's, ended {CRASHES_AT_MOST} times"
_NO_EXTRAS = Extras()
_RETRY_FIRST, _RETRY_AT_MOST = timedelta(seconds=2), timedelta(minutes=5)

Clock = Callable[[], datetime]

_logger = structlog.get_logger()


class Models(Protocol):
    """What run wants of Triton (triton.py)."""

    def infer(self, model: str) -> Infer: ...
    def identity(self, model: str) -> "Identity": ...


class Identity(Protocol):
    """Which model answered: `weights` is the SHA-256 (hex) of its files."""

    @property
    def version(self) -> str: ...
    @property
    def weights(self) -> str: ...


@dataclass(frozen=True)
class _Result:
    objects: Sequence[tuple[Dataset, bytes]]
    encoding: Encoding
    notes: Sequence[str]
    found: Sequence[str]
    inferred_at: datetime
    encoded_at: datetime


def run(
    job_id: int,
    *,
    clock: Clock,
    pipelines: Mapping[str, Pipeline],
    models: Models,
    equipment: Equipment,
    store: Store,
    db: Database,
    queues: Queues,
    begun: dict[int, int],
    zone: tzinfo = UTC,
    extras: Extras = _NO_EXTRAS,
) -> None:
    """Do one attempt of a job and write down how it ended: done, to be tried again, or failed with its reason.

    `begun` are the attempts of this process, by job: one that it begins again, because the database was away, was no crash.
    `zone` is the one of the results' times where the source names none; `extras` are made beside what the pipeline yields.
    """
    job = _start(job_id, clock(), db, begun)
    if job is None:
        return
    begun[job_id] = job.attempts
    crash_point("run.started")
    try:
        with db() as session:
            works_on = given(session, job)
        pipeline = _found(pipelines, job.pipeline)
        result = _work(job, works_on, pipeline, models, equipment, store, clock=clock, zone=zone, extras=extras)
        crash_point("run.encoded")
        stored = [(dataset, _keep(store, file)) for dataset, file in result.objects]
        crash_point("run.stored")
        _write(job, result, stored, clock(), db, queues)
    except JobError as error:
        _ended_badly(job, error, clock(), db, queues)
        begun.pop(job_id, None)
        return
    begun.pop(job_id, None)
    crash_point("run.committed")


def run_failed(job_id: int, error: Exception, now: datetime, *, db: Database, queues: Queues) -> None:
    """What nobody expected: the job fails where a person sees it."""
    with db() as session:
        job = session.get_one(Job, job_id)
    failure = JobError(f"unexpected {type(error).__name__}; the log has where it was raised")
    _ended_badly(job, failure, now, db, queues)


def _start(job_id: int, now: datetime, db: Database, begun: Mapping[int, int]) -> Job | None:
    """None when there is nothing (more) to do, as where the series has grown while an attempt before this one ran.

    A job whose process died too often is given up, not tried for ever.
    """
    with db.begin() as session:
        job = lock(session, Job, job_id)
        if job.state not in (JobState.QUEUED, JobState.RUNNING):
            return None
        if later := successor(session, job):
            jobs.withdraw(session, job, now, superseded_by(later, job), state=JobState(job.state))
            return None
        is_new = job.state == JobState.QUEUED
        job.crashes += not is_new and begun.get(job_id) != job.attempts
        if job.crashes >= CRASHES_AT_MOST:
            crashed = Crashed(_CRASHED)
            job.state, job.code, job.reason, job.ended_at = JobState.FAILED, crashed.code, str(crashed), now
            _audit(session, Act.JOB_FAILED, job, now, outcome=audit.SERIOUS, code=job.code, reason=job.reason)
            return None
        job.state, job.started_at, job.attempts = JobState.RUNNING, now, job.attempts + is_new
        _audit(session, Act.JOB_STARTED, job, now, attempt=job.attempts)
    return job


def _work(
    job: Job, given: Given, pipeline: Pipeline, models: Models, equipment: Equipment, store: Store, *, clock: Clock,
    zone: tzinfo, extras: Extras,
) -> _Result:  # fmt: skip
    identity = models.identity(pipeline.model)
    algorithm = Algorithm(
        job.pipeline, pipeline.version, equipment.manufacturer, pipeline.model, identity.version, identity.weights
    )
    study, notes = load(given.inputs, pipeline.needs, store)
    study, told = beside(study, given.earlier, pipeline.needs, store, equipment)
    study, of_companions = accompanied(study, given.companions, pipeline.needs, store)
    started_at = clock().astimezone(zone)
    others = {role: replace(one, source=Copies(one.source)) for role, one in study.companions.items()}
    theirs = replace(study, source=Copies(study.source), companions=others)  # whose result it is comes from ours
    outputs = foreign.outputs(pipeline, theirs, models.infer(pipeline.model))
    inferred_at = clock()
    crash_point("run.inferred")
    outputs += extras.of(study, outputs, f"{job.pipeline} {pipeline.version}", lacking=job.partial)
    key = job_key(
        pipeline=job.pipeline, version=pipeline.version, model=pipeline.model, model_version=identity.version,
        weights=identity.weights, inputs=[*given.inputs, *(pair for one in given.earlier for pair in one.inputs)],
        companions=given.companions,
    )  # fmt: skip
    encoding = Encoding(
        study.source, outputs, algorithm, equipment, key, started_at, job.partial, revision=given.revision,
        replaces=given.replaces, companions=[header for one in study.companions.values() for header in one.source],
    )  # fmt: skip
    del study, theirs, others
    if problems := conformance.problems(made := [*map(encoding.dataset, outputs)], encoding=encoding):
        raise BadOutput("; ".join(problems))
    objects = [(dataset, moved(dataset)) for dataset in made]
    lacking = [f"the series lacks something: {job.partial}"] if job.partial else []
    told += [*of_companions, *notes]
    return _Result(objects, encoding, [*lacking, *told], findings.stated(outputs), inferred_at, clock())


def _found(pipelines: Mapping[str, Pipeline], name: str) -> Pipeline:
    """Machines are upgraded one after the other: the job waits for one that has it."""
    if name not in pipelines:
        raise NoPipeline(f"expected pipeline {name} on every machine that works: the job waits for one that has it")
    return pipelines[name]


def _keep(store: Store, file: bytes) -> Stored:
    try:
        return store.put([file])
    except OutOfResources as error:
        raise NoRoom(str(error)) from error


def _ended_badly(job: Job, error: JobError, now: datetime, db: Database, queues: Queues) -> None:
    crashes = job.crashes + 1 if isinstance(error, ModelDied) else 0
    if crashes >= CRASHES_AT_MOST:  # each time all jobs of all models had to wait
        error = Crashed(_CRASHED)
    with db.begin() as session:
        if not error.retryable:
            if _end(session, job, state=JobState.FAILED, ended_at=now, code=error.code, reason=str(error)):
                _audit(session, Act.JOB_FAILED, job, now, outcome=audit.SERIOUS, code=error.code, reason=str(error))
            return
        delay = backoff(job.attempts, first=_RETRY_FIRST, at_most=_RETRY_AT_MOST)
        again = {"state": JobState.QUEUED, "due_at": now + delay, "ticket": str(job.attempts), "crashes": crashes}
        if _end(session, job, code=error.code, reason=str(error), **again):
            job.ticket = str(job.attempts)
            jobs.enqueue(session, job, queues, delay)
            _audit(session, Act.JOB_RETRIED, job, now, outcome=audit.MINOR, code=error.code, reason=str(error))


def _end(session: Session, job: Job, **values: object) -> bool:
    """Compare-and-swap: only the attempt that still holds the job may end it."""
    mine = (Job.id == job.id) & (Job.state == JobState.RUNNING) & (Job.attempts == job.attempts)
    return changed(session, update(Job).where(mine).values({"crashes": 0, **values}))


def _write(
    job: Job, result: _Result, stored: Sequence[tuple[Dataset, Stored]], now: datetime, db: Database, queues: Queues
) -> None:
    """Raises Outdated where the results say of an earlier revision what is not so any more: they are not visible yet."""
    with db.begin() as session:
        if replaces(session, job) != list(result.encoding.replaces):
            raise Outdated("results of an earlier revision of the series have come or gone meanwhile: these are made anew")
        if _end(session, job, state=JobState.DONE, ended_at=now, reason="", code="", job_key=result.encoding.key):
            row = _write_row(session, job, result, now)
            for dataset, file in stored:
                _write_output(session, row, dataset, file.sha256, file.size, now, queues)


def _write_row(session: Session, job: Job, result: _Result, now: datetime) -> Job:
    """The row as it is now, for a person may have released it while it ran; with a reason where nothing is sent of it."""
    row = session.get_one(Job, job.id, populate_existing=True)
    row.reason = shadow.REASON if shadow.is_in(session, job.id) else _came_behind(session, job)
    row.notes, row.inferred_at, row.encoded_at = list(result.notes), result.inferred_at, result.encoded_at
    row.provenance = {**asdict(result.encoding.algorithm), "device_uid": result.encoding.algorithm.device_uid}
    uids = [dataset.SOPInstanceUID for dataset, _ in result.objects]
    told: dict[str, Any] = {"outputs": uids, "job_key": result.encoding.key, "notes": row.notes, "findings": list(result.found)}
    _audit(session, Act.JOB_DONE, job, now, **told, **row.provenance)
    findings.tell(session, row, result.found, now)
    return row


def _came_behind(session: Session, job: Job) -> str:
    """Another machine was quicker with a later revision, whose results say nothing of these."""
    later = successor(session, job)
    if later is None or later.state != JobState.DONE:
        return ""
    what = "of a later revision" if later.revision > job.revision else "with other companions"
    return f"job {later.id} {what} was done before: its results are kept, and nothing is sent"


def _write_output(session: Session, job: Job, dataset: Dataset, sha256: str, size: int, now: datetime, queues: Queues) -> None:
    """To nobody where the job has a reason for that."""
    insert_once(
        session, OutputInstance, sop_instance_uid=dataset.SOPInstanceUID, job=job.id, sha256=sha256, size=size, created_at=now,
        study_instance_uid=dataset.StudyInstanceUID, series_instance_uid=dataset.SeriesInstanceUID,
        sop_class_uid=dataset.SOPClassUID, modality=dataset.Modality,
    )  # fmt: skip
    output = session.get_one(OutputInstance, dataset.SOPInstanceUID)
    for peer in () if job.reason else job.send_to:
        delivery.make(session, output, peer, now, job=job, queues=queues)


def _audit(session: Session, act: Act, job: Job, now: datetime, *, outcome: int = 0, **detail: Any) -> None:
    if act is Act.JOB_FAILED:
        _logger.error(str(act), job=job.id, pipeline=job.pipeline, **detail)
    audit.record(
        session, act, at=now, outcome=outcome, series=job.series_instance_uid, job=job.id, pipeline=job.pipeline, **detail
    )
