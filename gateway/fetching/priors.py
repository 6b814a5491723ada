"""Priors: the earlier studies that a pipeline wants beside a series, sought and fetched before its job runs.

Sources are the peers of [priors], asked by C-FIND or QIDO-RS; what is not here comes by C-GET or WADO-RS, through a door like any
other instance. A job waits for them until its deadline, and nothing else waits: this stage has a lane of its own, and a source
that is away is left alone for a minute. Each step ends in a transaction, and is safe to repeat.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial

from pydicom import Dataset, dcmread
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.crash import crash_point
from gateway.db import Database, lock
from gateway.dicom.uids import is_uid
from gateway.dicom.values import texts
from gateway.engine import PRIORS, Queues, backoff, ticket
from gateway.errors import DeliveryError
from gateway.fetching.archives import Archive, Archives
from gateway.fetching.prior import Past, chosen, day, days_before, why_not_study
from gateway.pipeline import HOLD, Needs, Pipeline, Priors
from gateway.rows.searches import Prior, PriorInstance, PriorSearch, PriorState, SearchState
from gateway.rows.tables import Job, JobInstance, JobState, Series, Study
from gateway.store import Store
from gateway.views.stories import here
from gateway.work import jobs
from gateway.work.delivery import made_here

_AGAIN, _AGAIN_AT_MOST = timedelta(seconds=2), timedelta(minutes=1)
_MOST_STUDIES = 20
_SEARCHABLE = re.compile(r"[\x20-\x29\x2B-\x3E\x40-\x5B\x5D-\x7E]{1,64}")
"""LO in the default repertoire, without what would match other patients too (PS3.4 C.2.2.2.4)."""
_NO_SOURCE = "no peer is named in [priors]"
_NO_ID = "the series has no Study Date, or no Patient ID that can be searched for"


@dataclass(frozen=True)
class _Case:
    """A job whose search goes on, and whom it is about; `today` is its Study Date, `issuer` that of the Patient ID."""

    job: Job
    search: PriorSearch
    study: str
    patient_id: str
    wants: Priors
    needs: Needs
    sha256: str
    issuer: str = ""
    today: date | None = None


def look_back(
    job_id: int,
    *,
    clock: Callable[[], datetime],
    pipelines: Mapping[str, Pipeline],
    sources: Sequence[str],
    archives: Archives,
    store: Store,
    db: Database,
    queues: Queues,
) -> None:
    """Seek and fetch once; then the job is queued for its model, or this comes back, or a person is waited for."""
    waiting = _case(job_id, pipelines, db)
    if waiting is None:
        return
    case, now = _with_header(waiting, store), clock()
    is_over = now >= case.search.deadline_at or not sources
    problems = [] if sources else [_NO_SOURCE]
    if not case.search.chosen:
        found = _seek(case, sources, archives, problems)
        if not problems or is_over:
            _choose(case, found, problems, now, db)
            crash_point("priors.chosen")
    failed: dict[int, str] = {}
    for prior in [] if problems and not is_over else _chosen(db, job_id):
        try:
            archives.fetch(prior, case.search.deadline_at)
        except DeliveryError as error:
            failed[prior.id] = f"{prior.peer}: {error}"
    crash_point("priors.fetched")
    problems += dict.fromkeys(failed.values())
    _end(case, problems, clock(), db, queues, failed=failed, is_over=is_over or not problems)
    crash_point("priors.committed")


def priors_failed(
    job_id: int,
    error: Exception,
    now: datetime,
    *,
    pipelines: Mapping[str, Pipeline],
    db: Database,
    queues: Queues,
) -> None:
    """What nobody expected: as if none had come."""
    case = _case(job_id, pipelines, db)
    if case is not None:
        _end(case, [f"unexpected {type(error).__name__}; the log has where it was raised"], now, db, queues, is_over=True)


def _case(job_id: int, pipelines: Mapping[str, Pipeline], db: Database) -> _Case | None:
    """None where nothing waits for it any more. A pipeline that is gone, or wants no priors any more, gets none."""
    with db() as session:
        job, search = session.get_one(Job, job_id), session.get_one(PriorSearch, job_id)
        if job.state != JobState.QUEUED or search.state != SearchState.WAITING:
            return None
        needs = pipelines[job.pipeline].needs if job.pipeline in pipelines else Needs("")
        series = session.get_one(Series, job.series_instance_uid)
        patient_id = session.get_one(Study, series.study_instance_uid).patient_id
        sha256 = session.scalars(select(JobInstance.sha256).where(JobInstance.job == job_id).limit(1)).one()
    return _Case(job, search, series.study_instance_uid, patient_id, needs.priors or Priors(at_most=0), needs, sha256)


def _with_header(case: _Case, store: Store) -> _Case:
    header = dcmread(store.path(case.sha256), stop_before_pixels=True, specific_tags=["StudyDate", "IssuerOfPatientID"])
    return replace(case, issuer=_text(header, "IssuerOfPatientID"), today=day(_text(header, "StudyDate")))


def _text(header: Dataset, keyword: str) -> str:
    return "".join(texts(header, keyword)[:1])


def _seek(case: _Case, sources: Sequence[str], archives: Archives, problems: list[str]) -> list[Past]:
    """What every source has of the patient; of one that cannot be asked, why, in `problems`."""
    found: list[Past] = []
    if not _SEARCHABLE.fullmatch(case.patient_id) or case.today is None or case.wants.at_most < 1:
        return found
    for name in sources:
        try:
            found += archives.ask(name, partial(_past, case, name))
        except DeliveryError as error:
            problems.append(f"{name}: {error}")
    return found


def _past(case: _Case, name: str, peer: Archive) -> list[Past]:
    """Of the newest studies; what the peer gives though nobody asked for it is passed over."""
    assert case.today is not None
    mine: list[tuple[date | None, str]] = []
    for study in peer.studies_of(case.patient_id):
        issuer, uid = study.get("IssuerOfPatientID", ""), study.get("StudyInstanceUID", "")
        is_mine = study.get("PatientID", "").strip() == case.patient_id and not (issuer and case.issuer and issuer != case.issuer)
        if is_mine and is_uid(uid) and uid != case.study:
            mine.append((day(study.get("StudyDate", "")), uid))
    fit = [pair for pair in mine if not why_not_study(pair[0], case.today, case.wants)]
    newest = sorted(fit, key=lambda pair: (pair[0] or date.min, pair[1]), reverse=True)[:_MOST_STUDIES]
    return [
        Past(name, uid, series, made_on, _modality(one), one.get("BodyPartExamined", ""), _count(one))
        for made_on, uid in newest
        for one in peer.series_of(uid)
        if is_uid(series := one.get("SeriesInstanceUID", ""))
    ]


def _modality(series: Mapping[str, str]) -> str:
    """Empty where it is none that a row can hold."""
    told = series.get("Modality", "")
    return told if told.isprintable() else ""


def _count(series: Mapping[str, str]) -> int | None:
    told = series.get("NumberOfSeriesRelatedInstances", "")
    return int(told) if told.isdecimal() and len(told) < 9 else None


def _choose(case: _Case, found: Sequence[Past], problems: Sequence[str], now: datetime, db: Database) -> None:
    """Write down which are taken, and why the others are not."""
    needs, wants = case.needs, case.wants
    with db() as session:
        ours = made_here(session, {past.series_instance_uid for past in found})
    ordered = chosen(
        found,
        case.today or date.min,
        wants,
        modalities=(wants.modality,) if wants.modality else needs.modalities,
        slices_at_least=needs.slices_at_least,
        ours=ours,
    )
    with db.begin() as session:
        search = lock(session, PriorSearch, case.job.id)
        session.execute(delete(Prior).where(Prior.job == case.job.id))
        search.chosen = True
        for past, why in ordered:
            state = PriorState.PASSED if why else PriorState.CHOSEN
            row = Prior(
                job=case.job.id, peer=past.peer, study_instance_uid=past.study_instance_uid, reason=why, state=state,
                modality=past.modality[:16],
                series_instance_uid=past.series_instance_uid, days_before=days_before(past, case.today or date.min),
            )  # fmt: skip
            session.add(row)
        taken = [past.series_instance_uid for past, why in ordered if not why]
        audit.record(
            session, Act.PRIORS_SOUGHT, at=now, outcome=audit.MINOR if problems else 0, study=case.study, job=case.job.id,
            series=case.job.series_instance_uid, taken=taken, passed=len(ordered) - len(taken), reason="; ".join(problems),
        )  # fmt: skip


def _chosen(db: Database, job_id: int) -> Sequence[Prior]:
    with db() as session:
        return session.scalars(
            select(Prior).where(Prior.job == job_id, Prior.state == PriorState.CHOSEN).order_by(Prior.id)
        ).all()


def _end(
    case: _Case,
    problems: Sequence[str],
    now: datetime,
    db: Database,
    queues: Queues,
    *,
    is_over: bool,
    failed: Mapping[int, str] = {},
) -> None:
    """In one transaction: look again later; or write down what is here, and queue the job or leave it to a person.

    Of those that `failed` a part may be here: that is no input.
    """
    whole = [prior for prior in _chosen(db, case.job.id) if prior.id not in failed]
    inputs = dict.fromkeys(failed, ()) | {prior.id: tuple(here(db, prior.series_instance_uid)) for prior in whole}
    with db.begin() as session:
        job, search = lock(session, Job, case.job.id), lock(session, PriorSearch, case.job.id)
        if job.state != JobState.QUEUED or search.state != SearchState.WAITING:
            return
        search.reason = "; ".join(problems)
        if not is_over:
            _come_back(session, job, search, now, queues)
            return
        came = _write_inputs(session, inputs, failed)
        if not came and not search.reason:
            search.reason = _NO_ID if case.today is None or not _SEARCHABLE.fullmatch(case.patient_id) else _none(case.wants)
        search.state = SearchState.HELD if not came and case.wants.without == HOLD else SearchState.DONE
        search.ended_at = now
        held = search.state == SearchState.HELD
        job.reason = f"held: {search.reason}; retry runs it without a prior" if held else ""
        audit.record(
            session, Act.PRIORS_DONE, at=now, outcome=0 if came else audit.MINOR, study=case.study, job=job.id,
            series=job.series_instance_uid, taken=came, held=held, reason=search.reason,
        )  # fmt: skip
        if not held:
            job.due_at = now
            jobs.enqueue(session, job, queues)


def _none(wants: Priors) -> str:
    return f"no source has a fitting study of at most {wants.days} days before"


def _come_back(session: Session, job: Job, search: PriorSearch, now: datetime, queues: Queues) -> None:
    search.attempts += 1
    delay = min(backoff(search.attempts, first=_AGAIN, at_most=_AGAIN_AT_MOST), max(search.deadline_at - now, timedelta(0)))
    search.due_at, search.ticket = now + delay, ticket(search.attempts, now)
    job.reason = f"waits for priors: {search.reason}"
    queues.enqueue(session, PRIORS, str(job.id), attempt=search.ticket, lane=PRIORS, delay=delay)


def _write_inputs(session: Session, inputs: Mapping[int, Sequence[tuple[str, str]]], failed: Mapping[int, str]) -> list[str]:
    """The series that are here; the job gets these very instances of them."""
    came = []
    for key, instances in inputs.items():
        prior = session.get_one(Prior, key)
        prior.state = PriorState.HERE if instances else PriorState.MISSED
        prior.reason = "" if instances else failed.get(key, "its source gave nothing of it")
        came += [prior.series_instance_uid] if instances else []
        session.add_all(PriorInstance(prior=key, sop_instance_uid=uid, sha256=sha256) for uid, sha256 in instances)
    return came
